"""The demo's picture: an input, what fired on its way through the network, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from .._optional import require

_INK, _FAINT = "#22223b", "#8d8da3"
_COLOURS = {"linear": "#b8b8c8", "T=1": "#f4a259", "T=4": "#bc4b51", "PyTorch": "#8d8da3"}
_BRANCHES = {"token_mixer": "token mixer", "channel_mlp": "channel MLP"}
_GAP = 1  # dark lines between the channels of a mosaic, in cells


@dataclass(frozen=True)
class Bars:
    """One small chart: ``values`` by label (a key of the colours, or ``label|colour key``)."""

    title: str
    values: Mapping[str, float]
    text: Sequence[str]
    floor: float = 0.0
    logarithmic: bool = False


def draw_demo(
    path: Path,
    image: np.ndarray,
    label: str,
    spikes: Mapping[str, np.ndarray],
    bars: Sequence[Bars],
    title: str,
) -> None:
    """Write a PNG.

    Args:
        image: ``[H, W]``, grey.
        spikes: population -> 0/1 ``[T, C, H, W]`` or ``[T, C, N]``, in order of execution. The
            first row shows the image and the patch embedding, each block has a row of its own.
    """
    require("matplotlib", "train", "the picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    rows = _rows(spikes)
    columns = max(len(bars), len(rows[0]) + 1, *(len(row) for row in rows[1:]))
    figure = Figure(figsize=(2.5 * columns, 2.75 * len(rows) + 3.1), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(rows) + 1, columns, height_ratios=[1.0] * len(rows) + [0.85],
        left=0.055, right=0.985, top=0.885, bottom=0.05, wspace=0.16, hspace=0.33,
    )  # fmt: skip
    figure.text(0.055, 0.962, title, fontsize=19, color=_INK, weight="bold", va="center")
    steps = next(iter(spikes.values())).shape[0]
    colours = _ramp(steps)
    for r, row in enumerate(rows):
        first = 0
        if r == 0:
            axes = figure.add_subplot(grid[0, 0])
            axes.imshow(image, cmap="gray", interpolation="nearest")
            _frame(axes, f"input: {label}", f"{image.shape[0]}×{image.shape[1]} grey levels")
            first = 1
        for c, name in enumerate(row):
            axes = figure.add_subplot(grid[r, first + c])
            counts = spikes[name].sum(0)
            cells = _mosaic(counts)
            axes.imshow(
                cells, cmap=ListedColormap(colours), vmin=-1.5, vmax=steps + 0.5,
                interpolation="nearest",
            )  # fmt: skip
            shape = "×".join(map(str, counts.shape))
            _frame(axes, _short(name), f"{shape}, rate {spikes[name].mean():.2f}")
        heading = "patch splitting" if r == 0 else f"block {r - 1}"
        box = grid[r, 0].get_position(figure)
        figure.text(
            0.018, (box.y0 + box.y1) / 2, heading, fontsize=13, color=_INK, weight="bold",
            rotation=90, va="center", ha="center",
        )  # fmt: skip
    _legend(figure, colours, steps)
    for c, chart in enumerate(bars):
        _draw_bars(figure.add_subplot(grid[len(rows), c]), chart)
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=110))


def _rows(spikes: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Populations of the patch embedding, then those of each block."""
    rows: dict[str, list[str]] = {}
    for name in spikes:
        parts = name.split(".")
        rows.setdefault(".".join(parts[:2]) if parts[0] == "blocks" else parts[0], []).append(name)
    return list(rows.values())


def _short(name: str) -> str:
    """``blocks.0.token_mixer.lif1`` to ``token mixer, LIF 1``."""
    parts = name.split(".")
    if parts[0] == "blocks":
        return f"{_BRANCHES[parts[2]]}, LIF {parts[3].removeprefix('lif')}"
    return f"convolution {int(parts[2]) + 1}, LIF"


def _mosaic(counts: np.ndarray) -> np.ndarray:
    """Channel maps ``[C, H, W]`` or ``[C, N]`` side by side, nearly square; -1 between them."""
    if counts.ndim == 2:
        side = math.isqrt(counts.shape[1])
        counts = counts.reshape(len(counts), side, -1)
    channels, height, width = counts.shape
    across = math.ceil(math.sqrt(channels * height / width))
    down = math.ceil(channels / across)
    cells = np.full((down * (height + _GAP) + _GAP, across * (width + _GAP) + _GAP), -1)
    for i, channel in enumerate(counts):
        y, x = (i // across) * (height + _GAP) + _GAP, (i % across) * (width + _GAP) + _GAP
        cells[y : y + height, x : x + width] = channel
    return cells


def _ramp(steps: int) -> list[Any]:
    """Colours for the gap, for no spike, and for 1...steps spikes."""
    import matplotlib

    ramp = matplotlib.colormaps["inferno"]
    return ["#3d3d57", "#12121f", *(ramp(0.35 + 0.6 * i / steps) for i in range(1, steps + 1))]


def _frame(axes: Any, title: str, note: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_anchor("C")
    axes.set_title(title, fontsize=11.5, color=_INK, pad=5)
    axes.set_xlabel(note, fontsize=9.5, color=_FAINT, labelpad=4)


def _legend(figure: Any, colours: list[Any], steps: int) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=colour, label=str(count)) for count, colour in enumerate(colours[1:])
    ]
    figure.legend(
        handles=handles, loc="center right", bbox_to_anchor=(0.99, 0.962), ncols=steps + 1,
        frameon=False, fontsize=11, title=f"spikes of a neuron in {steps} steps",
        title_fontsize=11, labelcolor=_INK, handlelength=1.1, columnspacing=1.2,
    )  # fmt: skip


def _draw_bars(axes: Any, chart: Bars) -> None:
    names = [key.partition("|")[0] for key in chart.values]
    colours = [_COLOURS[key.rpartition("|")[2]] for key in chart.values]
    values = list(chart.values.values())
    drawn = axes.bar(range(len(values)), values, color=colours, width=0.68)
    axes.bar_label(drawn, labels=list(chart.text), fontsize=9.5, color=_INK, padding=2)
    size = 9.5 if len(names) < 4 else 8.5
    axes.set_xticks(range(len(values)), names, fontsize=size, color=_INK)
    axes.set_yticks([])
    axes.minorticks_off()
    if chart.logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 3, max(values) * 4)
        axes.yaxis.set_visible(False)
    else:
        axes.set_ylim(chart.floor, chart.floor + 1.18 * (max(values) - chart.floor))
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(length=0)
    axes.set_title(chart.title, fontsize=11.5, color=_INK, pad=8)
