"""The five bytes an event of N-MNIST and N-Caltech101 (Orchard et al. 2015).

x 8 bits, y 8 bits, polarity 1 bit, time 23 bits in µs, big-endian. An event with y = 240 is no
pixel: it adds 2¹³ µs to all later times.
"""

from __future__ import annotations

import numpy as np

from ..array import Events, Sensor
from .decoded import Decoded, at, check_fits, cut_off

_SIZE, _TIMES = 5, 1 << 23
_MARK_Y, _MARK_US = 240, 1 << 13
# The layout names no sensor: the smallest of the cameras that recorded in it.
_SENSORS: tuple[Sensor, ...] = ((34, 34), (128, 128), (240, 240))


def read_bin(content: bytes) -> Decoded:
    count = len(content) // _SIZE
    raw = np.frombuffer(content, np.uint8, count * _SIZE).reshape(count, _SIZE)
    high, middle, low = (raw[:, i].astype(np.int64) for i in (2, 3, 4))
    marks = raw[:, 1] == _MARK_Y
    t = ((high & 0x7F) << 16 | middle << 8 | low) + _MARK_US * np.cumsum(marks)
    kept = np.flatnonzero(~marks)
    x, y, p = raw[kept, 0], raw[kept, 1], raw[kept, 2] >> 7
    largest = max(int(x.max(initial=0)), int(y.max(initial=0)))
    sensor = next((s for s in _SENSORS if largest < s[0]), None)
    columns = {"t": t[kept], "x": x, "y": y, "p": p}
    return Decoded(columns, at(0, _SIZE, kept), sensor, cut_off(0, _SIZE, len(content)))


def write_bin(events: Events) -> bytes:
    """Sets as few overflow marks as the times need.

    Raises:
        ValueError: x above 255, y above 239, or t from 2³² µs.
    """
    check_fits(events, "a .bin file", x=256, y=_MARK_Y, t=1 << 32)
    marks = -((_TIMES - 1 - events["t"]) // _MARK_US)  # before each event, all in all
    marks = np.maximum(marks, 0)
    before = np.diff(marks, prepend=0)
    row = np.arange(len(events)) + marks  # of the event, behind its marks
    raw = np.zeros((len(events) + int(before.sum()), _SIZE), np.uint8)
    raw[:, 1] = _MARK_Y
    t = events["t"] - _MARK_US * marks
    raw[row] = np.stack(
        [events["x"], events["y"], events["p"] << 7 | t >> 16, t >> 8 & 0xFF, t & 0xFF], 1
    )
    return raw.tobytes()
