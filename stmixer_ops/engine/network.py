"""What everything that runs a network from the bytes of a `.stmx` file has in common."""

from __future__ import annotations

import os
from typing import Any

from .._files import stand_in, user_path, write_atomically
from .._numbers import integer
from ..graph import Graph, stmx


class CompiledNetwork:
    """A network in the extension, and the bytes that it was made of."""

    _native: Any
    _content: bytes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network as a safetensors file (by custom ``*.stmx``), whole or not at all."""
        write_atomically(path, lambda target: target.write_bytes(self._content))

    @property
    def graph(self) -> Graph:
        """The network as data."""
        return stmx.decode(self._content)

    @property
    def num_threads(self) -> int:
        return self._native.threads

    @property
    def isa(self) -> str:
        return self._native.isa

    @property
    def num_classes(self) -> int:
        return self._native.classes


def read_content(
    path: str | os.PathLike[str] | bytes | bytearray | memoryview,
) -> tuple[str, bytes]:
    """What errors call a file, or the content that is given in its place, and the content."""
    if isinstance(path, (bytes, bytearray, memoryview)):
        return f"content of {memoryview(path).nbytes} bytes", bytes(path)
    return os.fspath(path), user_path(path).read_bytes()


def unusable(name: str, content: bytes, error: ValueError) -> ValueError:
    """The error of a file that holds no network."""
    return ValueError(f"{name} is not a usable engine file: {stand_in(content) or error}")


def thread_count(given: int | None) -> int:
    if given is not None:
        return integer("num_threads", given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
