"""AEDAT 4 through the package ``aedat`` (MIT)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..._optional import require
from .decoded import BadRecording, Decoded


def read_aedat4(content: bytes) -> Decoded:
    """The one stream of events in a file.

    Raises:
        ImportError: the package is missing.
        BadRecording: no stream of events, or several.
    """
    library = require("aedat", "events", "reading AEDAT 4 files")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.aedat4"
        path.write_bytes(content)  # the package reads files alone
        return _decode(library, path, len(content))


def _pass_on_interrupts(error: BaseException) -> None:
    """The package has no class of its own for what it refuses, and its panics are no Exception."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        raise error


def _decode(library: Any, path: Path, length: int) -> Decoded:
    fault = None
    parts: list[np.ndarray] = []
    try:
        decoder = library.Decoder(path)
        streams = {n: s for n, s in decoder.id_to_stream().items() if s["type"] == "events"}
    except BaseException as error:
        _pass_on_interrupts(error)
        raise BadRecording(f"byte 0: no AEDAT 4 file ({error})") from error
    if len(streams) != 1:
        raise BadRecording(f"byte 0: expected one stream of events, got {len(streams)}")
    ((number, stream),) = streams.items()
    try:
        for packet in decoder:
            if packet["stream_id"] == number:
                parts.append(packet["events"])
    except BaseException as error:
        _pass_on_interrupts(error)
        fault = f"byte {length} or before: {error}"
    names = {"t": "t", "x": "x", "y": "y", "p": "on"}
    columns = {
        field: np.concatenate([np.empty(0, np.uint64 if field == "t" else np.uint16)] * (not parts)
                              + [part[name] for part in parts])
        for field, name in names.items()
    }  # fmt: skip
    sensor = (int(stream["height"]), int(stream["width"]))
    return Decoded(columns, lambda index: f"event {index} of its stream", sensor, fault)
