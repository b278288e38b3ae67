"""What a recording holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .array import Events, Sensor, as_events, extent

_HOT_EVENTS, _HOT_RATIO = 10, 5


@dataclass(frozen=True)
class Summary:
    """Of one recording.

    Attributes:
        count: events.
        first, last: their times in µs; None where there is no event.
        duration: µs from the first event to the last, both included.
        rate: events per second of the duration.
        on: share of events with p = 1; None where there is no event.
        sensor: height and width; ``sensor_known`` is False where they are the smallest that hold
            all events.
        active: pixels with at least one event.
        hot: ``(x, y, events)`` of each hot pixel, the hottest first.
    """

    count: int
    first: int | None
    last: int | None
    duration: int
    rate: float
    on: float | None
    sensor: Sensor
    sensor_known: bool
    active: int
    hot: tuple[tuple[int, int, int], ...]


def summarize(events: Any) -> Summary:
    """Count what is in a recording, see :class:`Summary`.

    A pixel is hot if it has at least ten events, and more than five times those of the mean active
    pixel and those of each of its eight neighbours but one (hot pixels come in pairs).
    """
    events = as_events(events)
    sensor = events.sensor or extent(events)
    index = events["y"].astype(np.int64) * sensor[1] + events["x"]
    counts = np.bincount(index, minlength=sensor[0] * sensor[1]).reshape(sensor)
    active = int((counts > 0).sum())
    first, last = (int(events["t"][i]) for i in (0, -1)) if len(events) else (None, None)
    duration = 0 if first is None or last is None else last - first + 1
    return Summary(
        count=len(events),
        first=first,
        last=last,
        duration=duration,
        rate=1e6 * len(events) / duration if duration else 0.0,
        on=float(events["p"].mean()) if len(events) else None,
        sensor=sensor,
        sensor_known=events.sensor is not None,
        active=active,
        hot=_hot_pixels(counts, len(events) / max(active, 1)),
    )


def _hot_pixels(counts: np.ndarray, mean: float) -> tuple[tuple[int, int, int], ...]:
    candidates = np.argwhere((counts >= _HOT_EVENTS) & (counts > _HOT_RATIO * mean))
    padded = np.pad(counts, 1, mode="reflect")  # an edge that leaves the picture has no end there
    found = []
    for y, x in candidates.tolist():
        around = np.delete(padded[y : y + 3, x : x + 3].ravel(), 4)
        if counts[y, x] > _HOT_RATIO * np.sort(around)[-2]:
            found.append((x, y, int(counts[y, x])))
    return tuple(sorted(found, key=lambda pixel: -pixel[2]))


def event_rate(events: Events, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges of ``bins`` equal pieces of the recording in µs, ``[bins + 1]``, and events per second
    by polarity, ``[2, bins]``."""
    first, last = int(events["t"][0]), int(events["t"][-1]) + 1
    edges = first + (last - first) * np.arange(bins + 1) / bins
    piece = np.searchsorted(edges, events["t"], side="right") - 1
    index = events["p"].astype(np.int64) * bins + np.minimum(piece, bins - 1)
    counts = np.bincount(index, minlength=2 * bins).reshape(2, bins)
    return edges, counts / ((last - first) / bins / 1e6)
