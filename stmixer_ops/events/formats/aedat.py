"""AEDAT 2 and 3.1 (iniVation, jAER and cAER), and AEDAT 4 through the package ``aedat``.

Layouts: docs.inivation.com, AEDAT file formats.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from ..array import Events, Sensor
from .aedat4 import read_aedat4
from .decoded import BadRecording, Decoded, at, check_fits, cut_off

_VERSION = re.compile(rb"#!AER-DAT(\d+\.\d+)\r?\n")
# Rows and columns of cameras, by how headers name them.
_CAMERAS: dict[str, Sensor] = {
    "dvs128": (128, 128),
    "tmpdiff128": (128, 128),
    "davis128": (128, 128),
    "davis240": (180, 240),
    "davis208": (192, 208),
    "davis346": (260, 346),
    "davis640": (480, 640),
}
_DVS128 = ("dvs128", "tmpdiff128")  # the latter is its older name
_CHIP = re.compile(rb"# ?AEChip: ?([\x20-\x7e]*)")
_SOURCE = re.compile(rb"#Source \d+: ?([\x20-\x7e]*)")
_POLARITY = 1  # event type of AEDAT 3
_PACKET = struct.Struct("<hhiiiiii")
_HEADER_LINE = re.compile(rb"#[\t\x20-\x7e]*\r?\n")


def read_aedat(content: bytes) -> Decoded:
    """Any version; the first line says which."""
    version = _VERSION.match(content)
    if version is None:
        raise BadRecording("byte 0: expected #!AER-DAT2.0, 3.1 or 4.0, as AEDAT files begin")
    if version[1] == b"4.0":
        return read_aedat4(content)
    if version[1] == b"3.1":
        return _read_3(content)
    if version[1] == b"2.0":
        return _read_2(content, version.end())
    raise BadRecording(f"byte 0: can read AEDAT 2.0, 3.1 and 4.0, got {version[1].decode()}")


def _camera(chip: str) -> str | None:
    return next((name for name in _CAMERAS if name in chip.lower()), None)


def _read_2(content: bytes, start: int) -> Decoded:
    """Eight bytes an event, big-endian: address and time."""
    while (line := _HEADER_LINE.match(content, start)) is not None:
        start = line.end()
        if b"End Of ASCII Header" in line[0]:
            break
    count = (len(content) - start) // 8
    words = np.frombuffer(content, ">u4", 2 * count, start).reshape(count, 2)
    address, times = words[:, 0].astype(np.int64), words[:, 1].astype(np.uint32)
    fault = cut_off(start, 8, len(content))
    chip = _CHIP.search(content, 0, start)
    camera = _camera(chip[1].decode()) if chip else "dvs128"
    if chip and camera is None:
        raise BadRecording(
            f"byte {chip.start()}: can read addresses of DVS128 and DAVIS, got {chip[1].decode()}"
        )
    if camera not in _DVS128:
        # Bit 31: a sample of the picture; bit 10: of the accelerometer or an external event.
        kept = np.flatnonzero((address & 0x8000_0400) == 0)
        address = address[kept]
        x, y, p = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1
    else:
        wide = address > 0xFFFF
        if wide.any():
            index = int(wide.argmax())
            fault = (
                f"byte {start + 8 * index}: {address[index]:#x} is no address of a DVS128, which "
                "a header that names no other camera stands for"
            )
            address = address[:index]
        kept = np.flatnonzero((address & 0x8000) == 0)  # bit 15: an external event
        address = address[kept]
        x, y, p = address >> 1 & 0x7F, address >> 8 & 0x7F, address & 1
    columns = {"t": times[kept].view(np.int32), "x": x, "y": y, "p": p}
    return Decoded(columns, at(start, 8, kept), _CAMERAS.get(camera or ""), fault)


def _read_3(content: bytes) -> Decoded:
    """Packets of events of one type, little-endian; those of polarity events are read."""
    end = content.find(b"#!END-HEADER")
    newline = content.find(b"\n", end)
    if end < 0 or newline < 0:
        raise BadRecording(f"byte {len(content)}: the header has no end (#!END-HEADER)")
    position = start = newline + 1
    words: list[np.ndarray] = [np.empty((0, 2), np.uint32)]
    high: list[np.ndarray] = [np.empty(0, np.int64)]
    places: list[np.ndarray] = [np.empty(0, np.int64)]
    fault = None
    while position < len(content) and fault is None:
        if len(content) - position < _PACKET.size:
            fault = f"byte {position}: the file ends within the header of a packet"
            break
        kind, _, size, offset, overflow, capacity, number, valid = _PACKET.unpack_from(
            content, position
        )
        payload = position + _PACKET.size
        possible = kind >= 0 and size > 0 and 0 <= valid <= number <= capacity and overflow >= 0
        if not possible or (kind == _POLARITY and (size, offset) != (8, 4)):
            fault = f"byte {position}: no header of a packet of events"
            break
        available = min(number, (len(content) - payload) // size)
        if kind == _POLARITY:
            raw = np.frombuffer(content, "<u4", 2 * available, payload).reshape(available, 2)
            words.append(raw)
            high.append(np.full(available, overflow << 31, np.int64))
            places.append(payload + 8 * np.arange(available))
        if available < number:
            last = payload + size * available
            fault = f"byte {last}: the file ends {number - available} events before its packet"
        position = payload + size * capacity
    if fault is None and position > len(content):
        fault = f"byte {len(content)}: the file ends {position - len(content)} bytes too early"
    data = np.concatenate(words).astype(np.int64)
    kept = np.flatnonzero(data[:, 0] & 1)  # bit 0: valid
    bits, t = data[kept, 0], data[kept, 1] + np.concatenate(high)[kept]
    columns = {"t": t, "x": bits >> 17, "y": bits >> 2 & 0x7FFF, "p": bits >> 1 & 1}
    place = np.concatenate(places)[kept]
    cameras = {_camera(source.decode()) for source in _SOURCE.findall(content, 0, start)}
    sensor = _CAMERAS.get(cameras.pop() or "") if len(cameras) == 1 else None
    return Decoded(columns, lambda i: f"byte {place[i]}", sensor, fault)


def write_aedat(events: Events) -> bytes:
    """AEDAT 2: as a DVS128 where the pixels fit it, else as a DAVIS640.

    Raises:
        ValueError: x above 639, y above 479, or t from 2³¹ µs.
    """
    check_fits(events, "an AEDAT 2 file", x=640, y=480, t=1 << 31)
    x, y, p = (events[field].astype(np.uint32) for field in "xyp")
    small = max(int(x.max(initial=0)), int(y.max(initial=0))) < 128
    if small and max(events.sensor or (0, 0)) <= 128:
        chip, address = "DVS128", y << 8 | x << 1 | p
    else:
        chip, address = "Davis640", y << 22 | x << 12 | p << 11
    words = np.stack([address, events["t"].astype(np.uint32)], 1).astype(">u4")
    header = f"#!AER-DAT2.0\r\n# AEChip: {chip}\r\n#End Of ASCII Header\r\n"
    return header.encode() + words.tobytes()
