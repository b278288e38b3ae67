"""Recordings as the extension reads them: addresses of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .array import as_events

Columns = tuple[int, int, int, int, int]


def columns_of(
    events: Any, name: str, shape: tuple[int, int, int]
) -> tuple[Columns, list[np.ndarray]]:
    """Addresses of t, x, y, p and their number, and the arrays that must outlive their use.

    ``shape``: (channels, height, width) of the input that the events are for.
    """
    channels, height, width = shape
    checked = as_events(events, (height, width), name=name, channels=channels)
    arrays = [
        np.ascontiguousarray(checked[field], dtype)
        for field, dtype in (("t", np.int64), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8))
    ]
    t, x, y, p = (array.ctypes.data for array in arrays)
    return (t, x, y, p, len(checked)), arrays


def is_recording(data: Any) -> bool:
    """Whether ``data`` is one recording and not several."""
    return (
        isinstance(data, Mapping)
        or getattr(getattr(data, "dtype", None), "names", None) is not None
    )


def recordings_of(data: Any) -> list[Any]:
    """One recording, or an iterable of recordings or of pairs (recording, label), as a list."""
    if is_recording(data):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise TypeError(
            "events must be a recording (a structured array with fields t, x, y, p), a list of "
            f"them, or float32 input for schedule='grid', got {type(data).__name__}"
        )
    return [item[0] if _is_pair(item) else item for item in data]


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2 and is_recording(item[0])
