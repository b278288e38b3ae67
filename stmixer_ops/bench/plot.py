"""Pictures of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._files import write_atomically
from .._optional import require
from .peers import CONTESTANTS
from .report import ratio, title

_INK, _FAINT = "#22223b", "#8d8da3"
_COLOURS = {
    "engine": "#bc4b51", "engine-int8": "#f4a259", "onnxruntime": "#5b8e7d", "openvino": "#4a6fa5",
    "openvino-default": "#7f9fc6", "openvino-int8": "#b3c7e0", "compile": "#6d597a",
    "eager": "#a89bb0", "ops": "#d3cbd7",
}  # fmt: skip


def require_matplotlib() -> None:
    require("matplotlib", "bench", "the benchmark's picture")


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=110))


def _credit(figure: Any, about: Mapping[str, Any]) -> None:
    text = f"{about['cpu']}, {about['threads']} threads, {about['isa']}"
    figure.supxlabel(text, fontsize=9, color=_FAINT)


def draw_engine(path: Path, results: Sequence[Any], about: Mapping[str, Any]) -> None:
    """A panel of bars per case: milliseconds, and how many times the engine's."""
    across = min(2, len(results)) or 1
    down = -(-len(results) // across) or 1
    figure = _figure(7.5 * across, 0.4 + 3.2 * down)
    _credit(figure, about)
    for i, result in enumerate(results):
        axes = figure.add_subplot(down, across, i + 1)
        rows = [row for row in result["rows"] if "ms" in row]
        drawn = axes.barh(
            [row["contestant"] for row in rows],
            [row["ms"] for row in rows],
            color=[_COLOURS[row["key"]] for row in rows],
        )
        factors = [ratio(result, row) for row in rows]
        labels = [
            f"{row['ms']:.2f} ms" + ("" if factor is None else f"  ({factor:.1f}x)")
            for row, factor in zip(rows, factors, strict=True)
        ]
        axes.bar_label(drawn, labels=labels, padding=3, fontsize=8.5, color=_INK)
        axes.invert_yaxis()
        axes.margins(x=0.28)
        _plain(axes)
        axes.set_xticks([])
        axes.set_title(f"{title(result)}, rate {result['rate']:.2f}", fontsize=9.5, color=_INK)
    _save(figure, path)


def draw_sweep(path: Path, layers: Sequence[Any], about: Mapping[str, Any]) -> None:
    """Time over density, a panel per layer; dense kernels are flat lines."""
    across = min(3, len(layers))
    down = -(-len(layers) // across)
    figure = _figure(4.6 * across, 0.4 + 3.6 * down)
    _credit(figure, about)
    for i, layer in enumerate(layers):
        axes = figure.add_subplot(down, across, i + 1)
        for key, points in layer["sparse"].items():
            axes.plot(
                [point["density"] for point in points], [point["ms"] for point in points],
                color=_COLOURS[key], marker="o", markersize=3.5, label=CONTESTANTS[key].label,
            )  # fmt: skip
        for peer in layer["dense"]:
            if "ms" in peer:
                colour = _COLOURS[peer["key"]]
                axes.axhline(peer["ms"], color=colour, linewidth=1.4, label=peer["contestant"])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("density of the input", fontsize=9, color=_INK)
        axes.set_ylabel("ms", fontsize=9, color=_INK)
        axes.set_title(layer["layer"], fontsize=10, color=_INK)
        _plain(axes)
    if layers:
        handles = axes.get_lines()
        figure.legend(
            handles=handles, loc="outside upper center", ncols=len(handles), fontsize=9,
            frameon=False, labelcolor=_INK,
        )  # fmt: skip
    _save(figure, path)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(length=0, labelsize=8.5, colors=_INK)
