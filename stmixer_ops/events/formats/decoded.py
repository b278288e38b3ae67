"""What readers give, and what they and writers refuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..array import Events, Sensor


class BadRecording(ValueError):
    """A file in which nothing can be read; the text names the place in bytes."""


class Decoded(NamedTuple):
    """Events as a file holds them.

    Attributes:
        columns: arrays ``t``, ``x``, ``y``, ``p`` of one length, any integer type; not yet checked.
        where: index of an event to its place in the file, ``byte 35``.
        sensor: height and width, if the file says.
        fault: what is wrong behind the last event, and where.
        notes: what was left out, though nothing is wrong.
    """

    columns: Mapping[str, np.ndarray]
    where: Callable[[int], str]
    sensor: Sensor | None = None
    fault: str | None = None
    notes: tuple[str, ...] = ()


def at(start: int, size: int, kept: np.ndarray | None = None) -> Callable[[int], str]:
    """Place of events of ``size`` bytes from ``start``; ``kept``: which records became events."""

    def where(index: int) -> str:
        return f"byte {start + size * int(index if kept is None else kept[index])}"

    return where


def cut_off(start: int, size: int, length: int, what: str = "an event") -> str | None:
    """The fault of a file of ``length`` bytes whose records of ``size`` bytes from ``start`` do
    not come out even."""
    rest = (length - start) % size
    if not rest:
        return None
    return f"byte {length - rest}: the file ends {rest} bytes into {what} of {size}"


def check_fits(events: Events, form: str, **limits: int) -> None:
    """Raises a ValueError that names the first event with a field at or above its limit."""
    for field, limit in limits.items():
        beyond = events[field] >= limit
        if beyond.any():
            index = int(beyond.argmax())
            raise ValueError(
                f"events: {form} holds {field} below {limit}, got {int(events[field][index])} in "
                f"event {index}"
            )
