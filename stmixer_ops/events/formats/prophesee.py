"""Prophesee's files: ``.raw`` in EVT 2.0 and 3.0, and ``.dat``.

Layouts: docs.prophesee.ai, file and encoding formats.
"""

from __future__ import annotations

import re

import numpy as np

from ..array import PIXELS, Events, Sensor
from .decoded import BadRecording, Decoded, at, check_fits, cut_off

_CD_OFF, _CD_ON, _TIME_HIGH = 0x0, 0x1, 0x8  # EVT 2
_EVT2_OTHER = (0xA, 0xE, 0xF)  # triggers, extensions, continued: no events of pixels
# EVT 3
_ADDR_Y, _ADDR_X, _BASE_X, _VECT_12, _VECT_8, _LOW, _HIGH = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8
_EVT3_OTHER = (0x7, 0xA, 0xE, 0xF)
_DAT_TYPES = (0x00, 0x0C)
_HEADER_LINE = re.compile(rb"% ?([\t\x20-\x7e]*)\r?\n")


def _header(content: bytes) -> tuple[dict[str, str], int]:
    """Words behind each keyword, and where the data begin."""
    found: dict[str, str] = {}
    start = 0
    while (line := _HEADER_LINE.match(content, start)) is not None:
        start = line.end()
        keyword, _, value = line[1].decode("ascii").partition(" ")
        if keyword.lower() == "end":
            break
        found[keyword.lower()] = value.strip()
    if not found:
        raise BadRecording("byte 0: expected a header of lines that begin with %")
    return found, start


def _sensor(header: dict[str, str]) -> Sensor | None:
    text = header.get("format", "")
    height, width = (
        re.search(rf"{side}=(\d+)", text) or re.fullmatch(r"(\d+)", header.get(side, ""))
        for side in ("height", "width")
    )
    geometry = re.fullmatch(r"(\d+)x(\d+)", header.get("geometry", ""))
    if height and width:
        sides = int(height[1]), int(width[1])
    elif geometry:
        sides = int(geometry[2]), int(geometry[1])
    else:
        return None
    if not 1 <= min(sides) <= max(sides) <= PIXELS:
        raise BadRecording(f"byte 0: no camera has {sides[0]} rows of {sides[1]} pixels")
    return sides


def read_raw(content: bytes) -> Decoded:
    header, start = _header(content)
    encoding = re.match(r"EVT(\d+)|(\d)\.(\d)", header.get("format") or header.get("evt", ""))
    digits = "" if encoding is None else "".join(d for d in encoding.groups() if d)
    if digits in ("2", "20"):
        return _read_evt2(content, start, _sensor(header))
    if digits in ("3", "30"):
        return _read_evt3(content, start, _sensor(header))
    said = header.get("format") or header.get("evt") or "nothing"
    raise BadRecording(f"byte 0: can read EVT 2.0 and 3.0, the header says {said}")


def _until_unknown(
    kinds: np.ndarray, known: tuple[int, ...], start: int, size: int
) -> tuple[int, str | None]:
    """How many words come before the first of an unknown type, and the fault there."""
    bad = np.isin(np.arange(16), known, invert=True)[kinds]
    if not bad.any():
        return len(kinds), None
    index = int(bad.argmax())
    return index, f"byte {start + size * index}: no word of the encoding, type {kinds[index]:#x}"


def _last(here: np.ndarray) -> np.ndarray:
    """Index of the last true element up to each one, -1 before the first."""
    kind = np.int32 if len(here) < 1 << 31 else np.int64
    return np.maximum.accumulate(np.where(here, np.arange(len(here), dtype=kind), kind(-1)))


def _unrolled(values: np.ndarray, bits: int) -> np.ndarray:
    """A counter of ``bits`` bits without its overflows: a fall by more than half is one."""
    falls = np.diff(values, prepend=values[:1]) < -(1 << (bits - 1))
    return values + (np.cumsum(falls) << bits)


def _left_out(count: int, what: str) -> tuple[str, ...]:
    return (f"{count} events before the first {what} are left out",) if count else ()


def _read_evt2(content: bytes, start: int, sensor: Sensor | None) -> Decoded:
    """Words of 32 bits; the upper 28 bits of the time come in words of their own."""
    count = (len(content) - start) // 4
    words = np.frombuffer(content, "<u4", count, start).astype(np.int64)
    known = (_CD_OFF, _CD_ON, _TIME_HIGH, *_EVT2_OTHER)
    count, fault = _until_unknown(words >> 28, known, start, 4)
    fault = fault or cut_off(start, 4, len(content), "a word")
    words = words[:count]
    kinds = words >> 28
    clock = _last(kinds == _TIME_HIGH)
    high = np.zeros(count, np.int64)
    high[kinds == _TIME_HIGH] = _unrolled(words[kinds == _TIME_HIGH] & 0xFFF_FFFF, 28)
    events = kinds <= _CD_ON
    kept = np.flatnonzero(events & (clock >= 0))
    word = words[kept]
    columns = {
        "t": high[clock[kept]] << 6 | word >> 22 & 0x3F,
        "x": word >> 11 & 0x7FF,
        "y": word & 0x7FF,
        "p": word >> 28,
    }
    notes = _left_out(int(events.sum()) - len(kept), "time")
    return Decoded(columns, at(start, 4, kept), sensor, fault, notes)


def _read_evt3(content: bytes, start: int, sensor: Sensor | None) -> Decoded:
    """Words of 16 bits that change a state: row, column, time; and single events and vectors."""
    count = (len(content) - start) // 2
    words = np.frombuffer(content, "<u2", count, start).astype(np.int32)
    known = (_ADDR_Y, _ADDR_X, _BASE_X, _VECT_12, _VECT_8, _LOW, _HIGH, *_EVT3_OTHER)
    count, fault = _until_unknown(words >> 12, known, start, 2)
    fault = fault or cut_off(start, 2, len(content), "a word")
    words = words[:count]
    kinds, payload = words >> 12, words & 0xFFF
    row, base = _last(kinds == _ADDR_Y), _last(kinds == _BASE_X)
    t, clock = _evt3_times(kinds, payload)
    # A vector begins where the one before it ended.
    long = kinds == _VECT_12
    width = np.where(long, 12, np.where(kinds == _VECT_8, 8, 0))
    passed = np.cumsum(width) - width
    here = np.flatnonzero((width > 0) | (kinds == _ADDR_X))
    # A word gives as many events as its mask has bits; a single event is a mask of one bit.
    single = kinds[here] == _ADDR_X
    mask = np.where(single, 1, payload[here] & np.where(long[here], 0xFFF, 0xFF))
    bits = (mask[:, None] >> np.arange(12) & 1).astype(bool)
    timed = clock[here] >= 0
    placed = (row[here] >= 0) & (single | (base[here] >= 0))
    word, step = np.nonzero(bits & (timed & placed)[:, None])
    place, single = here[word], single[word]
    source = np.where(single, place, base[place])  # of column and polarity
    shift = np.where(single, 0, passed[place] - passed[source])
    columns = {
        "t": t[place],
        "x": (payload[source] & 0x7FF) + shift + step,
        "y": payload[row[place]] & 0x7FF,
        "p": payload[source] >> 11,
    }
    notes = _left_out(int(bits[~timed].sum()), "time")
    notes += _left_out(int(bits[timed & ~placed].sum()), "row or column")
    return Decoded(columns, at(start, 2, place), sensor, fault, notes)


def _evt3_times(kinds: np.ndarray, payload: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The time at each word, and the last word with the upper bits of it, -1 before the first.

    When the upper 12 bits change, the lower ones are 0 until a word says otherwise.
    """
    highs = np.flatnonzero(kinds == _HIGH)
    high = np.zeros(len(kinds), np.int64)
    high[highs] = _unrolled(payload[highs], 12)
    turns = np.zeros(len(kinds), bool)
    turns[highs] = np.diff(high[highs], prepend=-1) != 0
    clock, low = _last(kinds == _HIGH), _last(kinds == _LOW)
    return high[clock] << 12 | np.where(low > _last(turns), payload[low], 0), clock


def read_dat(content: bytes) -> Decoded:
    """Eight bytes an event: time 32 bits, x 14, y 14, polarity 4, little-endian."""
    header, start = _header(content)
    version = header.get("version", "2")
    if version != "2":
        raise BadRecording(f"byte 0: can read version 2 of DAT, the header says {version}")
    kind, size = content[start : start + 2].ljust(2, b"\xff")
    if kind not in _DAT_TYPES or size != 8:
        raise BadRecording(
            f"byte {start}: expected events of pixels (type 0 or 12) of 8 bytes, got type {kind} "
            f"of {size} bytes"
        )
    start += 2
    count = (len(content) - start) // 8
    words = np.frombuffer(content, "<u4", 2 * count, start).reshape(count, 2)
    bits = words[:, 1]
    columns = {"t": words[:, 0], "x": bits & 0x3FFF, "y": bits >> 14 & 0x3FFF, "p": bits >> 28}
    fault = cut_off(start, 8, len(content))
    return Decoded(columns, at(start, 8), _sensor(header), fault)


def _lines(events: Events, *lines: str) -> bytes:
    if events.sensor is not None:
        lines += (f"height {events.sensor[0]}", f"width {events.sensor[1]}")
    return "".join(f"% {line}\n" for line in lines).encode()


def write_dat(events: Events) -> bytes:
    """Version 2.

    Raises:
        ValueError: x or y above 16383, or t from 2³² µs.
    """
    check_fits(events, "a .dat file", x=1 << 14, y=1 << 14, t=1 << 32)
    x, y, p = (events[field].astype(np.uint32) for field in "xyp")
    words = np.stack([events["t"].astype(np.uint32), x | y << 14 | p << 28], 1)
    header = _lines(events, "Data file containing CD events", "Version 2")
    return header + bytes((0x0C, 8)) + words.astype("<u4").tobytes()


def write_raw(events: Events) -> bytes:
    """EVT 2.0.

    Raises:
        ValueError: x or y above 2047, or t from 2³⁴ µs.
    """
    check_fits(events, "a .raw file", x=1 << 11, y=1 << 11, t=1 << 34)
    t, x, y, p = (events[field].astype(np.int64) for field in "txyp")
    high = t >> 6
    turns = np.diff(high, prepend=-1) != 0
    row = np.arange(len(events)) + np.cumsum(turns)  # of the event, behind the words of time
    words = np.empty(len(events) + int(turns.sum()), np.int64)
    words[row] = p << 28 | (t & 0x3F) << 22 | x << 11 | y
    words[row[turns] - 1] = _TIME_HIGH << 28 | high[turns]
    return _lines(events, "evt 2.0", "format EVT2") + b"% end\n" + words.astype("<u4").tobytes()
