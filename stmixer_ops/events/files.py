"""Files of recordings, by their suffix."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._files import stand_in, user_path, write_atomically
from .array import Events, as_events, assemble, first_fault
from .formats.aedat import read_aedat, write_aedat
from .formats.decoded import BadRecording, Decoded
from .formats.nmnist import read_bin, write_bin
from .formats.numpy import read_npy, read_npz, write_npy, write_npz
from .formats.prophesee import read_dat, read_raw, write_dat, write_raw

_READERS: dict[str, Callable[[bytes], Decoded]] = {
    ".bin": read_bin,
    ".bs2": read_bin,
    ".aedat": read_aedat,
    ".aedat4": read_aedat,
    ".npy": read_npy,
    ".npz": read_npz,
    ".raw": read_raw,
    ".dat": read_dat,
}
_WRITERS: dict[str, Callable[[Events], bytes]] = {
    ".bin": write_bin,
    ".bs2": write_bin,
    ".aedat": write_aedat,
    ".npy": write_npy,
    ".npz": write_npz,
    ".raw": write_raw,
    ".dat": write_dat,
}
SUFFIXES = tuple(_READERS)


def read(path: str | os.PathLike[str], partial: bool = False, *, sort: bool = False) -> Events:
    """A recording from a file.

    ============  ==================================================================
    ``.bin``      N-MNIST and N-Caltech101 (``.bs2`` too): five bytes an event; the
                  sensor is the smallest of 34, 128 and 240 pixels a side that fits
    ``.aedat``    AEDAT 2 (DVS128 and DAVIS) and 3.1; addresses as they are stored,
                  which in AEDAT 2 counts rows from below
    ``.aedat4``   AEDAT 4, with the package ``aedat`` (extra ``events``)
    ``.npy``      a structured array
    ``.npz``      arrays ``t, x, y, p`` (SpikingJelly), or one structured array
    ``.raw``      Prophesee EVT 2.0 and EVT 3.0
    ``.dat``      Prophesee DAT, version 2
    ============  ==================================================================

    Args:
        path: the file; its suffix says the format.
        partial: keep what comes before the first fault, with a warning, instead of refusing the
            file.
        sort: sort events that are not in order of time instead of refusing them.
    Raises:
        FileNotFoundError: no such file.
        ImportError: AEDAT 4 without the package ``aedat``.
        ValueError: another format, a file that is cut off or damaged, unsorted or negative times;
            naming the file and the place of the first fault in bytes.
    """
    path = user_path(path)
    reader = _lookup(_READERS, path, "read")
    content = path.read_bytes()
    if (other := stand_in(content)) is not None:
        raise ValueError(f"{path}: {other}")
    try:
        decoded = reader(content)
    except BadRecording as error:
        raise ValueError(f"{path}: {error}") from error
    columns, fault = decoded.columns, decoded.fault
    bad = first_fault(columns, decoded.sensor, sort)
    if bad is not None:
        index, text = bad
        fault = f"{decoded.where(index)}: event {index}: {text}"
        columns = {field: column[:index] for field, column in columns.items()}
    if fault is not None:
        if not partial:
            raise ValueError(f"{path}: {fault} (partial=True keeps what comes before)")
        warnings.warn(
            f"{path}: {fault}; the {len(columns['t'])} events before are kept", stacklevel=2
        )
    for note in decoded.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return assemble(columns, decoded.sensor, sort)


def write(path: str | os.PathLike[str], events: Any) -> None:
    """Write a recording; the suffix of ``path`` says the format. The file appears whole or not at
    all.

    ``.aedat`` writes AEDAT 2, ``.raw`` EVT 2.0; AEDAT 4 is only read.

    Raises:
        ValueError: an event that the format cannot hold, which is named; another suffix.
    """
    path = user_path(path)
    writer = _lookup(_WRITERS, path, "write")
    content = writer(as_events(events))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _lookup(table: dict[str, Any], path: Path, verb: str) -> Any:
    suffix = path.suffix.lower()
    if suffix not in table:
        raise ValueError(f"{path}: can {verb} {', '.join(table)}, got {suffix or 'no suffix'!r}")
    return table[suffix]
