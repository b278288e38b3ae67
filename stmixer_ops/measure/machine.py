"""What a figure needs beside it: machine, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "torch", "numpy", "onnx", "onnxruntime", "openvino", "nncf", "triton", "spikingjelly",
)  # fmt: skip


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, instruction sets, versions of everything that is timed, and the commit.

    Without the extension there are no instruction sets; kernels in Triton are timed all the same.
    """
    from .. import __version__
    from ..ops import _native

    built = _native.missing is None
    processor = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (x.split(":")[1].strip() for x in lines if x.startswith("model name"))
        processor = next(names, processor)
    return {
        "cpu": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "isa": _native.extension().cpu_isa() if built else None,
        "isas": _native.extension().cpu_isas() if built else [],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "stmixer_ops": __version__,
        "commit": _commit(),
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str | None:
    """Of the checkout of this project that the command is run in, if it is run in one."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or not (Path(top) / "csrc" / "engine").is_dir():
        return None
    return _git("describe", "--always", "--dirty")
