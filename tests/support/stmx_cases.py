"""`.stmx` files taken apart and put together again, right checksum or not."""

from __future__ import annotations

import json
import zlib
from typing import Any

MAGIC = b'{"__metadata__": {"format": "stmx", "version": "4", "crc32": "'


def seal(rest: bytes, data: bytes) -> bytes:
    """The file whose header goes on with ``rest`` after its checksum, which is right."""
    header = MAGIC + f"{zlib.crc32(rest + data):08x}".encode() + rest
    return len(header).to_bytes(8, "little") + header + data


def reseal(content: bytes) -> bytes:
    """The file with the checksum that belongs to it."""
    checked = 8 + len(MAGIC) + 8
    digits = f"{zlib.crc32(content[checked:]):08x}".encode()
    return content[: checked - 8] + digits + content[checked:]


def parts_of(content: bytes) -> tuple[Any, dict[str, Any], bytes]:
    """Description, table of tensors, data."""
    begin = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:begin])
    description = json.loads(table.pop("__metadata__")["graph"])
    return description, table, content[begin:]


def file_of(description: Any, table: Any, data: bytes) -> bytes:
    """The inverse, with the right checksum, however wrong the rest may be."""
    text = description if isinstance(description, str) else json.dumps(description)
    rest = b'", "graph": ' + json.dumps(text).encode() + b"}"
    rest += b"".join(
        b", " + json.dumps(name).encode() + b": " + json.dumps(entry).encode()
        for name, entry in (table.items() if isinstance(table, dict) else table)
    )
    rest += b"}"
    return seal(rest + b" " * (-(len(MAGIC) + 8 + len(rest)) % 8), data)
