"""Recordings as bytes, packed event by event from the formats' descriptions.

``ROWS``: (t, x, y, p) of a few events, among them two at one time and one at the last pixel.
"""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

ROWS = ((3, 0, 0, 1), (70, 33, 5, 0), (70, 2, 33, 1), (8_200, 7, 8, 0), (8_389_000, 12, 1, 1))


def bin_events(rows, marks=()) -> bytes:
    """N-MNIST; an overflow mark stands before each event whose number is in ``marks``."""
    out = b""
    for number, (t, x, y, p) in enumerate(rows):
        out += bytes((0, 240, 0, 0, 0)) * marks.count(number)
        t -= (1 << 13) * sum(mark <= number for mark in marks)
        out += bytes((x, y)) + (p << 23 | t).to_bytes(3, "big")
    return out


# The last time needs one bit more than there are.
BIN = bin_events(ROWS, marks=(4,))


def aedat2(rows, chip: str | None = "DVS128", header: str = "") -> bytes:
    out = b"#!AER-DAT2.0\r\n" + header.encode()
    if chip:
        out += f"# AEChip: eu.seebetter.ini.chips.{chip}\r\n".encode()
    for t, x, y, p in rows:
        wide = chip is not None and "davis" in chip.lower()
        address = y << 22 | x << 12 | p << 11 if wide else y << 8 | x << 1 | p
        out += struct.pack(">Ii", address, t)
    return out


def aedat3_packet(rows, kind=1, overflow=0, invalid=(), capacity=None) -> bytes:
    capacity = len(rows) if capacity is None else capacity
    head = struct.pack(
        "<hhiiiiii", kind, 1, 8, 4, overflow, capacity, len(rows), len(rows) - len(invalid)
    )
    body = b""
    for number, (t, x, y, p) in enumerate(rows):
        body += struct.pack("<Ii", x << 17 | y << 2 | p << 1 | (number not in invalid), t)
    return head + body + bytes(8 * (capacity - len(rows)))


AEDAT3_HEADER = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"


def aedat3(*packets: bytes) -> bytes:
    return AEDAT3_HEADER + b"".join(packets)


EVT2_HEADER = b"% evt 2.0\n% format EVT2;height=40;width=50\n% end\n"
EVT3_HEADER = b"% evt 3.0\n% format EVT3;height=720;width=1280\n% end\n"


def evt2(*words: int) -> bytes:
    return EVT2_HEADER + struct.pack(f"<{len(words)}I", *words)


def evt2_words(rows) -> list[int]:
    words, high = [], None
    for t, x, y, p in rows:
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return words


def evt3(*words: int) -> bytes:
    return EVT3_HEADER + struct.pack(f"<{len(words)}H", *words)


def evt3_words(rows) -> list[int]:
    words = []
    for t, x, y, p in rows:
        words += [8 << 12 | t >> 12 & 0xFFF, 6 << 12 | t & 0xFFF, y, 2 << 12 | p << 11 | x]
    return words


DAT_HEADER = b"% Data file containing CD events\n% Version 2\n% Width 50\n% Height 40\n"


def dat(rows, kind: int = 12) -> bytes:
    body = b"".join(struct.pack("<II", t, p << 28 | y << 14 | x) for t, x, y, p in rows)
    return DAT_HEADER + bytes((kind, 8)) + body


def npy(rows, types=(("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1"))) -> bytes:
    """Version 1.0 of the format, its header written by hand."""
    order = ["txyp".index(name[0]) for name, _ in types]
    text = f"{{'descr': {list(types)!r}, 'fortran_order': False, 'shape': ({len(rows)},), }}"
    text = text.ljust(117) + "\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    codes = "".join({"i8": "q", "u8": "Q", "i4": "i", "i2": "h", "u2": "H", "u1": "B", "i1": "b",
                     "b1": "?"}[code.lstrip("<|>")] for _, code in types)  # fmt: skip
    big = any(code.startswith(">") for _, code in types)
    form = (">" if big else "<") + codes
    return head + b"".join(struct.pack(form, *(row[i] for i in order)) for row in rows)


def npz(rows, names="txyp", types=("<i8", "<i8", "<i8", "<i8"), packed=False) -> bytes:
    """One array a field."""
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", method) as archive:
        for column, (name, kind) in enumerate(zip(names, types, strict=True)):
            values = np.array([row[column] for row in rows], kind)
            text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': ({len(rows)},), }}"
            text = text.ljust(117) + "\n"
            head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
            archive.writestr(f"{name}.npy", head + values.tobytes())
    return file.getvalue()


# Suffix, and the same events in this format.
FILES = {
    "n-mnist": (".bin", BIN),
    "n-mnist.bs2": (".bs2", BIN),
    "aedat2-dvs128": (".aedat", aedat2(ROWS)),
    "aedat2-davis": (".aedat", aedat2(ROWS, "davis.Davis346")),
    "aedat3": (
        ".aedat",
        aedat3(
            aedat3_packet(ROWS[:2], capacity=3), aedat3_packet(ROWS[:3], kind=0),
            aedat3_packet(ROWS[2:]),
        ),
    ),
    "npy": (".npy", npy(ROWS)),
    "npy-other": (".npy", npy(ROWS, (("polarity", "|b1"), ("y", ">i2"), ("x", ">i2"),
                                     ("timestamp", ">u8")))),
    "npz": (".npz", npz(ROWS)),
    "npz-packed": (".npz", npz(ROWS, types=("<i4", "<u2", "<i2", "|b1"), packed=True)),
    "evt2": (".raw", evt2(*evt2_words(ROWS))),
    "evt3": (".raw", evt3(*evt3_words(ROWS))),
    "dat": (".dat", dat(ROWS)),
}  # fmt: skip
