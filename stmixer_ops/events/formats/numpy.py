"""Arrays of NumPy: ``.npy`` with a structured array, ``.npz`` with one or with an array a field."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np

from ..array import ALIASES, Events
from .decoded import BadRecording, Decoded, at

_LENGTH = 1 << 20  # bytes of a header that are looked at


def _parse(content: bytes, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
    """Type, shape and first byte of an array; nothing is allocated and nothing executed."""
    file = io.BytesIO(content[:_LENGTH])
    try:
        version = np.lib.format.read_magic(file)
        parse: Any = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = parse(file)
        count = int(np.prod(shape, dtype=object))
    except Exception as error:  # a damaged header makes its parser raise whatever there is
        raise BadRecording(f"byte 0{name}: no array of NumPy ({error})") from error
    if dtype.hasobject or len(shape) != 1 or count < 0 or dtype.itemsize == 0:
        raise BadRecording(f"byte 0{name}: expected numbers [n], got {dtype} {list(shape)}")
    return dtype, (count,), file.tell()


def _array(content: bytes, name: str = "") -> tuple[np.ndarray, int, str | None]:
    """The array, its first byte, and where it is cut off."""
    dtype, (count,), start = _parse(content, name)
    available = min(count, (len(content) - start) // dtype.itemsize)
    fault = None
    if available < count:
        fault = (
            f"byte {start + available * dtype.itemsize}{name}: the file ends {count - available} "
            f"of {count} events too early"
        )
    return np.frombuffer(content, dtype, available, start), start, fault


def _columns(fields: dict[str, np.ndarray], found: str) -> dict[str, np.ndarray]:
    columns = {}
    for field, aliases in ALIASES.items():
        names = [name for name in fields if name.lower() in aliases]
        if len(names) != 1:
            raise BadRecording(f"byte 0: expected one field {field} ({aliases}), got {found}")
        column = fields[names[0]]
        if column.dtype.kind not in "iub" or column.ndim != 1:
            raise BadRecording(f"byte 0: {names[0]} must be integers [n], got {column.dtype}")
        columns[field] = column
    return columns


def _structured(array: np.ndarray) -> dict[str, np.ndarray]:
    names = array.dtype.names or ()
    found = ", ".join(names) or f"{array.dtype} without fields"
    return _columns({name: array[name] for name in names}, found)


def read_npy(content: bytes) -> Decoded:
    array, start, fault = _array(content)
    return Decoded(_structured(array), at(start, array.dtype.itemsize), None, fault)


def read_npz(content: bytes) -> Decoded:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {
                info.filename.removesuffix(".npy"): (archive.read(info), info.header_offset)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except Exception as error:  # zipfile and its decompressors raise a dozen classes
        raise BadRecording(f"byte 0: no archive of arrays ({error})") from error
    arrays, starts, faults = {}, {}, []
    for name, (data, starts[name]) in members.items():
        arrays[name], _, fault = _array(data, f" of {name}.npy at byte {starts[name]}")
        faults += [fault] if fault else []
    if len(arrays) == 1 and (array := next(iter(arrays.values()))).dtype.names:
        columns, place = _structured(array), next(iter(starts.values()))
    else:
        columns = _columns(arrays, ", ".join(arrays) or "no arrays")
        place = min(starts.values())
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        faults.append(f"byte {place}: fields of different lengths, {sorted(lengths)}")
        columns = {field: column[: min(lengths)] for field, column in columns.items()}
    return Decoded(
        columns, lambda index: f"byte {place} and behind", None, faults[0] if faults else None
    )


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return file.getvalue()


def write_npy(events: Events) -> bytes:
    return _npy(events)


def write_npz(events: Events) -> bytes:
    """An array a field, as SpikingJelly has it."""
    file = io.BytesIO()
    np.savez(file, **{field: events[field] for field in "txyp"})
    return file.getvalue()
