"""Recordings as structured arrays, and other people's arrays as these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._numbers import integer

DTYPE = np.dtype([("t", np.int64), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8)])
PIXELS = 1 << 16  # columns or rows that x and y can count
# The names under which other software keeps each field.
ALIASES = {
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps"),
    "x": ("x", "xs", "addr_x"),
    "y": ("y", "ys", "addr_y"),
    "p": ("p", "ps", "pol", "polarity", "polarities", "on"),
}

Sensor = tuple[int, int]


class Events(np.ndarray):
    """Events of one recording, ``[n]`` of :data:`DTYPE`.

    ``sensor``: height and width of the camera, None where the recording does not say.
    A field, such as ``events["t"]``, is a plain array.
    """

    sensor: Sensor | None = None

    def __array_finalize__(self, other: Any) -> None:
        self.sensor = getattr(other, "sensor", None)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return found.view(np.ndarray) if isinstance(key, str) else found

    def __reduce__(self) -> Any:  # NumPy's own forgets the sensor
        return _restored, (np.asarray(self), self.sensor)


def _restored(array: np.ndarray, sensor: Sensor | None) -> Events:
    events = array.view(Events)
    events.sensor = sensor
    return events


def size_pair(name: str, size: Any) -> Sensor:
    """``(height, width)`` from one side of a square or both.

    Raises:
        ValueError: anything else, by ``name``.
    """
    sides = tuple(size) if isinstance(size, (tuple, list, np.ndarray)) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"{name} must be a side or (height, width), got {size!r}")
    height, width = (integer(name, side, most=PIXELS) for side in sides)
    return height, width


def as_events(
    data: Any,
    sensor: int | Sensor | None = None,
    *,
    name: str = "events",
    sort: bool = False,
    channels: int = 2,
) -> Events:
    """``data`` as :class:`Events`, checked.

    Args:
        data: a structured array, or a mapping of arrays. The fields are found by name (``t``,
            ``x``, ``y``, ``p``, or ``timestamp``, ``polarity``, ... in any order); they have any
            integer or bool type. Polarities are 0 and 1, or -1 and 1.
        sensor: side, or height and width, of the camera; by default what ``data`` says, if it does.
        name: what errors call the recording.
        sort: sort by time (events of one time keep their order) instead of refusing.
        channels: where there are more than two, p counts them.
    Raises:
        TypeError: no such fields, or another type.
        ValueError: unsorted or negative times, pixels outside, other polarities; the first bad
            event is named.
    """
    if sensor is None:
        known: Sensor | None = getattr(data, "sensor", None)
    else:
        known = size_pair("sensor", sensor)
    columns = {field: _column(data, field, name) for field in ("t", "x", "y", "p")}
    lengths = {field: len(column) for field, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{name}: fields must have the same length, got {lengths}")
    fault = first_fault(columns, known, sort, channels)
    if fault is not None:
        raise ValueError(f"{name}: event {fault[0]}: {fault[1]}")
    return assemble(columns, known, sort, channels)


def extent(events: Events) -> Sensor:
    """Height and width of the smallest sensor that has all events."""
    if not len(events):
        return 1, 1
    return int(events["y"].max()) + 1, int(events["x"].max()) + 1


def _column(data: Any, field: str, name: str) -> np.ndarray:
    fields = data if isinstance(data, Mapping) else getattr(data, "dtype", None)
    names = list(data) if isinstance(data, Mapping) else list(getattr(fields, "names", None) or ())
    found = [n for n in names if isinstance(n, str) and n.lower() in ALIASES[field]]
    if len(found) != 1:
        listed = ", ".join(map(str, names)) or f"none ({type(data).__name__})"
        raise TypeError(
            f"{name}: expected one field {field} (or {', '.join(ALIASES[field][1:])}), got {listed}"
        )
    column = np.asarray(data[found[0]])
    if column.dtype.kind not in "iub" or column.ndim != 1:
        raise TypeError(
            f"{name}: field {found[0]} must be integers [n], got {column.dtype} "
            f"{list(column.shape)}"
        )
    return column


def first_fault(
    columns: Mapping[str, np.ndarray],
    sensor: Sensor | None = None,
    sort: bool = False,
    channels: int = 2,
) -> tuple[int, str] | None:
    """Index of the first event that cannot be, and what is wrong with it; None if all can."""
    t = columns["t"]
    height, width = sensor or (PIXELS, PIXELS)
    faults = []

    def look(bad: np.ndarray, text: str, field: str) -> None:
        if bad.any():
            index = int(bad.argmax())
            faults.append((index, text.format(int(columns[field][index]))))

    look(t < 0, "t must be 0 or more, got {}", "t")
    if t.dtype.kind == "u" and t.dtype.itemsize == 8:
        look(t > np.uint64(np.iinfo(np.int64).max), "t must be below 2^63, got {}", "t")
    counted = {"x": width, "y": height} | ({"p": channels} if channels > 2 else {})
    for field, count in counted.items():
        column = columns[field]
        # NumPy 2 refuses to compare small types with numbers beyond them.
        if column.dtype.kind != "b":
            look(column < 0, f"{field} must be from 0 to {count - 1}, got {{}}", field)
            if np.iinfo(column.dtype).max >= count:
                look(column >= count, f"{field} must be from 0 to {count - 1}, got {{}}", field)
    p = columns["p"]
    if p.dtype.kind != "b" and channels <= 2:
        lowest = -1 if p.dtype.kind == "i" and len(p) and int(p.min()) == -1 else 0
        allowed = (p == 1) | (p == lowest)
        look(~allowed, f"p must be {lowest} or 1 in this recording, got {{}}", "p")
    if not sort and len(t) > 1:
        early = t[1:] < t[:-1]
        if early.any():
            index = int(early.argmax()) + 1
            faults.append(
                (index, f"t = {int(t[index])} is earlier than {int(t[index - 1])} before it")
            )
    return min(faults, default=None)


def assemble(
    columns: Mapping[str, np.ndarray],
    sensor: Sensor | None,
    sort: bool = False,
    channels: int = 2,
) -> Events:
    """Columns without fault as :class:`Events`."""
    events = np.empty(len(columns["t"]), DTYPE)
    for field in ("t", "x", "y"):
        events[field] = columns[field]
    events["p"] = columns["p"] if channels > 2 else columns["p"] > 0
    if sort:
        events = events[np.argsort(events["t"], kind="stable")]
    return _restored(events, sensor)
