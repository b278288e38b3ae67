"""Frames of events, and smaller recordings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._numbers import integer
from .array import DTYPE, Events, Sensor, as_events, extent, size_pair

SPLITS = ("time", "number")
LATEST = np.iinfo(np.int64).max  # µs


def to_frames(
    events: Any,
    T: int,
    split: str = "time",
    size: int | Sensor | None = None,
    t0: int | None = None,
    duration: int | None = None,
    clip: bool = False,
    *,
    sensor: int | Sensor | None = None,
) -> np.ndarray:
    """Counts of events, float32 ``[T, 2, height, width]``; channel 1 holds those with p = 1.

    Args:
        events: a recording, see :func:`as_events`.
        T: number of frames.
        split: ``"time"``: event t falls into frame ⌊(t − t0)·T/duration⌋. ``"number"``: frames are
            slices of ⌊n/T⌋ events, the last takes the rest, as in SpikingJelly.
        size: side, or height and width, of the frames: the sensor's by default. A smaller one
            crops the centre (34 to 32 drops one pixel a side); see :func:`downsample` for scaling.
        t0, duration: the window in µs; by default from the first event to the last one, included.
        clip: leave out events outside the window instead of refusing them.
        sensor: side, or height and width, of the camera, for recordings that do not say.
    Raises:
        ValueError: events outside the window, a size larger than the sensor, or no size at all.
    """
    T = integer("T", T)
    if split not in SPLITS:
        raise ValueError(f"split must be {' or '.join(map(repr, SPLITS))}, got {split!r}")
    events = as_events(events, sensor)
    start, length = _window(events, t0, duration)
    events = _inside(events, start, length, clip)
    height, width = _frame_size(events, size)
    if split == "time":
        # Frame k begins at the first t with (t - start) * T >= k * length; Python's integers
        # do not overflow, and no event comes after LATEST.
        edges = [min(start - (-k * length // T), LATEST + 1) for k in range(1, T)]
        first = np.searchsorted(events["t"].astype(np.uint64), np.array(edges, np.uint64))
    else:
        first = np.arange(1, T) * (len(events) // T)
    frame = np.repeat(np.arange(T), np.diff([0, *first, len(events)]))
    keep, y, x = _centre(events, (height, width))
    index = ((frame[keep] * 2 + events["p"][keep]) * height + y) * width + x
    counts = np.bincount(index, minlength=T * 2 * height * width)
    return counts.astype(np.float32).reshape(T, 2, height, width)


def _window(events: Events, t0: int | None, duration: int | None) -> tuple[int, int]:
    """First moment and length, in µs; an empty recording without a window lasts 1 µs from 0."""
    times = events["t"]
    first, last = (int(times[0]), int(times[-1])) if len(times) else (t0 or 0, t0 or 0)
    start = first if t0 is None else integer("t0", t0, least=0)
    if duration is None:
        return start, max(last - start + 1, 1)
    return start, integer("duration", duration)


def _inside(events: Events, start: int, length: int, clip: bool) -> Events:
    """The events of the window; a slice."""
    times = events["t"]
    end = min(start + length - 1, LATEST)
    low, high = np.searchsorted(times, start), np.searchsorted(times, end, side="right")
    if not clip and (low > 0 or high < len(times)):
        index = 0 if low > 0 else int(high)
        outside = len(times) - int(high - low)
        raise ValueError(
            f"events must be from t = {start} to {end} µs, got t = {int(times[index])} in event "
            f"{index} ({outside} outside); clip=True leaves them out"
        )
    return events[low:high]


def _frame_size(events: Events, size: int | Sensor | None) -> Sensor:
    if size is not None:
        return size_pair("size", size)
    if events.sensor is not None:
        return events.sensor
    if not len(events):
        raise ValueError("size must be given: the recording is empty and knows no sensor")
    return extent(events)


def _known_sensor(events: Events, size: Sensor) -> Sensor:
    """The sensor to take the centre of; where it is not known and has to be guessed, say so."""
    if events.sensor is not None:
        return events.sensor
    least = extent(events)
    if least[0] <= size[0] and least[1] <= size[1]:
        return size
    guess = max(least[0], size[0]), max(least[1], size[1])
    warnings.warn(
        f"the recording does not say how large its sensor is; {guess[0]} x {guess[1]} is taken, "
        "the smallest that holds all events (sensor= says it)",
        stacklevel=5,
    )
    return guess


def crop(events: Any, size: int | Sensor, *, sensor: int | Sensor | None = None) -> Events:
    """The centre of a recording, ``size`` (a side, or height and width) of its sensor.

    The centre of an odd difference lies half a pixel to the upper left.

    Raises:
        ValueError: the sensor is smaller.
    """
    events = as_events(events, sensor)
    sides = size_pair("size", size)
    keep, y, x = _centre(events, sides)
    return _moved(events[keep], y, x, sides)


def _centre(events: Events, size: Sensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which events lie in the centre, and their new ``y`` and ``x``."""
    sensor = _known_sensor(events, size)
    if size[0] > sensor[0] or size[1] > sensor[1]:
        raise ValueError(
            f"size must be at most the sensor's {sensor[0]} x {sensor[1]}, got "
            f"{size[0]} x {size[1]}"
        )
    y, x = (
        events[field].astype(np.int64) - (whole - part) // 2
        for field, whole, part in zip("yx", sensor, size, strict=True)
    )
    keep = (y >= 0) & (y < size[0]) & (x >= 0) & (x < size[1])
    return keep, y[keep], x[keep]


def downsample(
    events: Any,
    size: int | Sensor | None = None,
    *,
    factor: int | None = None,
    sensor: int | Sensor | None = None,
) -> Events:
    """A recording on a coarser sensor: pixel ``x`` becomes ⌊x·width/sensor width⌋; every event
    stays one.

    Args:
        size: side, or height and width, of the new sensor; or
        factor: how many times smaller each side gets; a rest of pixels makes one more.
    Raises:
        ValueError: neither or both, a larger size, or a sensor that nobody knows.
    """
    events = as_events(events, sensor)
    if (size is None) == (factor is None):
        raise ValueError(f"expected size or factor, got size={size!r} and factor={factor!r}")
    if factor is not None:
        step = integer("factor", factor)
        old = events.sensor
        new = None if old is None else (-(-old[0] // step), -(-old[1] // step))
        return _moved(events, events["y"] // step, events["x"] // step, new)
    height, width = size_pair("size", size)
    if events.sensor is None:
        raise ValueError("sensor must be given: the recording does not say how large its sensor is")
    if height > events.sensor[0] or width > events.sensor[1]:
        raise ValueError(f"size must be at most the sensor's {events.sensor}, got {size!r}")
    y, x = (
        events[field].astype(np.int64) * new // old
        for field, new, old in zip("yx", (height, width), events.sensor, strict=True)
    )
    return _moved(events, y, x, (height, width))


def _moved(events: Events, y: np.ndarray, x: np.ndarray, sensor: Sensor | None) -> Events:
    moved = np.empty(len(events), DTYPE)
    moved["t"], moved["y"], moved["x"], moved["p"] = events["t"], y, x, events["p"]
    return as_events(moved, sensor)
