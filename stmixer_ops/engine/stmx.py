"""`.stmx` files: safetensors whose metadata holds the graph. Data only; nothing in them executes.

Written and read here, without further packages, so that reading can refuse by name whatever is
wrong with a file. A checksum over graph, table and data tells damage from content.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .._files import write_atomically
from .graph import Graph

FORMAT = "stmx"
VERSION = "2"
_DTYPES = {"F32": "<f4", "I32": "<i4", "I16": "<i2", "I8": "|i1"}
_CODES = {np.dtype(dtype).name: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # as safetensors has it


def write(path: str | os.PathLike[str], graph: Graph) -> None:
    """Write the file under a temporary name, then give it its own."""
    path = Path(path)
    table, data, offset = {}, [], 0
    # Wide types first, so that all are aligned.
    for name, value in sorted(graph.tensors.items(), key=lambda item: -item[1].itemsize):
        code = _CODES[value.dtype.name]
        table[name] = {
            "dtype": code,
            "shape": list(value.shape),
            "data_offsets": [offset, offset + value.nbytes],
        }
        data.append(value.astype(_DTYPES[code], copy=False).tobytes())
        offset += value.nbytes
    description = json.dumps(graph.description())
    checksum = _checksum(description, table, data)
    metadata = {"format": FORMAT, "version": VERSION, "graph": description, "crc32": checksum}
    header = json.dumps({"__metadata__": metadata, **table}).encode()
    header += b" " * (-len(header) % 8)
    parts = [len(header).to_bytes(8, "little"), header, *data]

    def fill(target: Path) -> None:
        with open(target, "wb") as file:
            file.writelines(parts)

    write_atomically(path, fill)


def read(path: str | os.PathLike[str]) -> Graph:
    """Read a file that :func:`write` wrote.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        return _parse(memoryview(Path(path).read_bytes()))
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} is not a usable engine file: {error}") from None


def _parse(content: memoryview) -> Graph:
    if len(content) < 8:
        raise ValueError(f"it has {len(content)} bytes, too few for a safetensors header")
    size = int.from_bytes(content[:8], "little")
    if size > min(len(content) - 8, _MAX_HEADER):
        raise ValueError(
            f"its header claims {size} bytes, but {len(content) - 8} follow "
            "(truncated, or no safetensors file)"
        )
    header = _parse_json("header", bytes(content[8 : 8 + size]))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ValueError("it is a safetensors file, but holds no engine (no 'stmx' metadata)")
    if metadata.get("version") != VERSION:
        raise ValueError(
            f"its version is {metadata.get('version')!r:.40}, this one reads {VERSION!r}"
        )
    data = content[8 + size :]
    tensors = _tensors(header, data)
    description = metadata.get("graph")
    if not isinstance(description, str):
        raise ValueError("its metadata has no 'graph'")
    if metadata.get("crc32") != _checksum(description, header, [data]):
        raise ValueError("its checksum does not match: the file is damaged")
    return Graph.from_description(_parse_json("graph", description), tensors)


def _tensors(table: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    end = 0
    for name, entry in table.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in _DTYPES:
            raise ValueError(f"tensor {name!r:.80} must be of dtype {', '.join(_DTYPES)}")
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        shape, offsets = _sizes(name, entry, "shape"), _sizes(name, entry, "data_offsets")
        if len(offsets) != 2:
            raise ValueError(f"tensor {name!r:.80} has no valid data_offsets")
        begin, stop = offsets
        expected = end + dtype.itemsize * math.prod(shape)
        if begin != end or stop != expected or stop > len(data):
            raise ValueError(
                f"tensor {name!r:.80} of shape {shape!r:.80} lies at bytes {begin} to {stop}, "
                f"expected {end} to {expected} of {len(data)}"
            )
        end = stop
        values = np.frombuffer(data[begin:stop], dtype).astype(dtype.newbyteorder("="), copy=False)
        tensors[name] = np.require(values.reshape(shape), requirements="A")
    if end != len(data):
        raise ValueError(f"it has {len(data)} bytes of tensors where {end} are described")
    return tensors


def _sizes(name: str, entry: dict[str, Any], key: str) -> list[int]:
    values = entry.get(key)
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"tensor {name!r:.80} has no valid {key}")
    return values


def _parse_json(what: str, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {what} is no valid JSON ({error!s:.80})") from None


def _checksum(description: str, table: dict[str, Any], data: list[Any]) -> str:
    crc = zlib.crc32(json.dumps(table, sort_keys=True).encode())
    crc = zlib.crc32(description.encode("utf-8", "surrogatepass"), crc)
    for part in data:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"
