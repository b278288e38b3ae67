"""A recording as a picture: frames over time, and the rate of its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from .._optional import require
from .array import as_events
from .frames import to_frames
from .summary import event_rate, summarize

_INK, _FAINT, _ON, _OFF = "#22223b", "#8d8da3", "#1d6fb8", "#c8553d"
_ACROSS, _BINS = 8, 200


def draw_recording(path: Path, events: Any, title: str, T: int = 8, split: str = "time") -> None:
    """Write a PNG: ``T`` frames, blue where the light grew and red where it fell, and events per
    second below.

    Raises:
        ValueError: there is no event.
        ImportError: matplotlib is missing.
    """
    require("matplotlib", "train", "the picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    events = as_events(events)
    if not len(events):
        raise ValueError("events: expected at least one to draw, got none")
    frames = to_frames(events, T, split)
    across = min(T, _ACROSS)
    down = -(-T // across)
    height, width = frames.shape[2:]
    inches = 1.9 * height / width
    figure = Figure(figsize=(1.9 * across + 0.8, (inches + 0.3) * down + 2.9), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        down + 1, across, height_ratios=[inches] * down + [1.5], hspace=0.3, wspace=0.06,
        left=0.06, right=0.985, bottom=0.1, top=0.86,
    )  # fmt: skip
    figure.suptitle(title, x=0.06, ha="left", fontsize=13, color=_INK, weight="bold")
    pictures = _pictures(frames)
    for k in range(T):
        axes = figure.add_subplot(grid[k // across, k % across])
        axes.imshow(pictures[k], interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color(_FAINT)
        axes.set_title(f"frame {k}: {int(frames[k].sum())}", fontsize=9, color=_INK, pad=3)
    _draw_rate(figure.add_subplot(grid[down, :]), events)
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=110))


def _pictures(frames: np.ndarray) -> np.ndarray:
    """Colours ``[T, H, W, 3]``: white without events, full colour from the 99th percentile."""
    busy = frames[frames > 0]
    share = np.minimum(frames / max(float(np.percentile(busy, 99)), 1.0), 1.0)
    share = np.where(frames > 0, 0.25 + 0.75 * share, 0.0)
    ink = [1 - np.array([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for c in (_OFF, _ON)]
    taken = sum(share[:, p, :, :, None] * ink[p] for p in (0, 1))
    return np.clip(1 - taken, 0, 1)


def _draw_rate(axes: Any, events: Any) -> None:
    summary = summarize(events)
    bins = min(_BINS, max(1, summary.duration))
    edges, rate = event_rate(events, bins)
    for p, colour, name in ((1, _ON, "brighter"), (0, _OFF, "darker")):
        axes.stairs(
            rate[p] / 1e3, edges / 1e3, color=colour, label=name, linewidth=1.2, baseline=None
        )
    axes.set_xlim(edges[0] / 1e3, edges[-1] / 1e3)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("time in ms", color=_INK)
    axes.set_ylabel("1000 events/s", color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper right")
