"""`.stmx` files: safetensors whose metadata holds the graph. Data only; nothing in them executes.

Written here, read by ``csrc/graph/stmx.cpp``, which refuses by name whatever is wrong with them.
The metadata comes first and begins with a CRC32 of all that follows it, which tells damage from
content.
"""

from __future__ import annotations

import json
import math
import zlib

import numpy as np

from .._extension import extension
from .._numbers import plain_number
from .graph import Description, Graph

_TYPES = {"float32": ("F32", "<f4"), "int32": ("I32", "<i4"), "int16": ("I16", "<i2"),
          "int8": ("I8", "|i1")}  # fmt: skip
_DTYPES = dict(_TYPES.values())
_NO_CHECKSUM = b"00000000"

VERSION = "4"
"""Of the files that are written; those from 3 on are read."""

# What files of version 3 do not say.
_LIF_DEFAULTS = {"max_spikes": 1}
_PROJECTION_DEFAULTS = {"clocked_only": False}


def encode(graph: Graph) -> bytes:
    """The bytes of the file.

    Raises:
        ValueError: naming a tensor of a type that files do not have.
    """
    table, parts, offset = {}, [], 0
    # Wide types first, so that all are aligned.
    for name, value in sorted(graph.tensors.items(), key=lambda item: -item[1].itemsize):
        if value.dtype.name not in _TYPES:
            raise ValueError(
                f"graph: tensor {name!r} must be of {', '.join(_TYPES)}, got {value.dtype}"
            )
        code, dtype = _TYPES[value.dtype.name]
        table[name] = {
            "dtype": code,
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.nbytes],
        }
        parts.append(np.ascontiguousarray(value, dtype).reshape(-1).data)
        offset += value.nbytes
    metadata = {
        "format": "stmx",
        "version": VERSION,
        "crc32": _NO_CHECKSUM.decode(),
        "graph": json.dumps(graph.description(), default=plain_number),
    }
    header = json.dumps({"__metadata__": metadata, **table}).encode()
    header += b" " * (-len(header) % 8)
    before, after = header.split(_NO_CHECKSUM, 1)
    checksum = zlib.crc32(after)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    size = len(header).to_bytes(8, "little")
    return b"".join([size, before, f"{checksum:08x}".encode(), after, *parts])


def check(graph: Graph) -> None:
    """Check a graph as every executor does before it runs it.

    Raises:
        ValueError: naming the node and what is wrong with it.
    """
    extension().check_stmx(encode(graph))


def describe(content: bytes) -> Description:
    """What the bytes of a file say beside the tensors, which are not copied."""
    return json.loads(extension().read_stmx(content)[0])


def decode(content: bytes) -> Graph:
    """The inverse, for bytes that an engine was made of."""
    text, places = extension().read_stmx(content)
    tensors = {
        name: np.frombuffer(content, _DTYPES[code], math.prod(shape), begin).reshape(shape).copy()
        for name, (code, shape, begin) in places.items()
    }
    fields = json.loads(text)
    for population in fields["populations"]:
        if population["kind"] == "lif":
            population |= _LIF_DEFAULTS | population
    for projection in (p for current in fields["currents"] for p in current["projections"]):
        projection |= _PROJECTION_DEFAULTS | projection
    return Graph(**fields, tensors=tensors)
