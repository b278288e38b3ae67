"""A page that plays a recording: one file, which needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from .._optional import require
from ..measure.table import quantity
from .playback import MOST_ROWS, Playback

MOST_CLASSES = 10
MOST_DOTS = 100_000
_TEMPLATE = Path(__file__).with_name("page.html")
_TRAIL = 20  # the picture shows this part of the recording at a time


def write_page(
    path: str | Path, playback: Playback, title: str, classes: Sequence[str] | None = None
) -> None:
    """Write ``playback`` as a page with a slider over time: the input's events, the logits, the
    spikes of each population and the synaptic operations so far.

    Args:
        path: the HTML file. It appears whole or not at all.
        title: the page's heading.
        classes: names of the classes; by default their numbers.
    Raises:
        ImportError: plotly is missing.
    """
    plotly = require("plotly.offline", "play", "the page")
    names = classes or [str(i) for i in range(playback.logits.shape[1])]
    data = json.dumps(page_data(playback, names), separators=(",", ":"))
    content = _TEMPLATE.read_text(encoding="utf-8")
    for key, text in (
        ("TITLE", html.escape(title)),
        ("DATA", data.replace("<", "\\u003c")),  # no text of it ends the script
        ("PLOTLY", plotly.get_plotlyjs()),
    ):
        content = content.replace(f"<!--{key}-->", text)
    write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


def page_data(playback: Playback, classes: Sequence[str]) -> dict[str, Any]:
    """What the page draws, as JSON takes it; ``notes`` say what is left out or summed up.

    ``times``: ms since the beginning, at the end of each piece. ``dots``: for each piece the pixels
    with events, as (pixel, polarity 0 or 1, events) one after the other.
    """
    if len(classes) != playback.logits.shape[1]:
        raise ValueError(f"classes must have {playback.logits.shape[1]} names, got {len(classes)}")
    notes = []
    best = np.sort(np.argsort(-playback.logits[-1], kind="stable")[:MOST_CLASSES])
    if len(best) < len(classes):
        notes.append(f"Of {len(classes)} classes the {len(best)} likeliest at the end are drawn.")
    side, dots = _dots(playback)
    if side > 1:
        notes.append(f"A pixel of the picture sums {side} x {side} of the recording.")
    wide = [name for name, channels in playback.channels.items() if channels > 1]
    if wide:
        notes.append(f"Populations of more than {MOST_ROWS} channels are drawn several a row.")
    if playback.stopped is not None:
        notes.append(f"The run was stopped at t={playback.stopped} µs: it exceeded max_sops.")
    start, *ends = (playback.edges - playback.edges[0]).tolist()
    pieces = len(ends)
    notes.insert(
        0,
        f"{quantity(len(playback.events))} events in {pieces} pieces of time of "
        f"{quantity((ends[-1] - start) / pieces / 1e3, 'ms')}.",
    )
    height, width = playback.sensor
    return {
        "times": [end / 1e3 for end in ends],
        "trail": max(1, pieces // _TRAIL),
        "width": -(-width // side),
        "height": -(-height // side),
        "dots": dots,
        "classes": [classes[i] for i in best],
        "logits": _short(playback.logits[:, best].T),
        "answers": [classes[i] for i in playback.logits.argmax(axis=1)],
        "sops": playback.sops.tolist(),
        "fanout": playback.sops_fanout.tolist(),
        "populations": [
            {
                "name": name,
                "neurons": playback.neurons[name],
                "channels": playback.channels[name],
                "spikes": spikes.tolist(),
            }
            for name, spikes in playback.spikes.items()
        ],
        "notes": notes,
    }


def _dots(playback: Playback) -> tuple[int, list[list[int]]]:
    """How many pixels a side are drawn as one, so that there are not too many dots, and the dots:
    no event is left out."""
    events, (height, width) = playback.events, playback.sensor
    piece = np.searchsorted(playback.edges, events["t"], side="right") - 1
    side = 1
    while True:
        across, down = -(-width // side), -(-height // side)
        pixel = (events["y"] // side).astype(np.int64) * across + events["x"] // side
        key = (piece * (across * down) + pixel) * 2 + events["p"]
        keys, counts = np.unique(key, return_counts=True)
        if len(keys) <= MOST_DOTS or across == down == 1:
            break
        side *= 2
    rows = np.stack([keys // 2 % (across * down), keys % 2, counts], axis=1)
    cuts = np.searchsorted(keys, np.arange(1, len(playback.edges) - 1) * (across * down * 2))
    return side, [part.ravel().tolist() for part in np.split(rows, cuts)]


def _short(values: np.ndarray) -> list[list[float]]:
    """Six digits: what is drawn needs no more."""
    return [[float(f"{v:.6g}") for v in row] for row in values.tolist()]
