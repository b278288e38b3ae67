"""Compiles what the launchers would launch on a GPU, without one, and reads the result.

A fake driver names the architecture; a launch compiles and ends there. Runs in a process of its
own, because a process whose Triton interprets cannot compile: :func:`compile_for` starts it, unless
the result of an earlier test run still holds (``support/kept.py``).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.kept import keep
from support.paths import TESTS


class _Driver:
    """What a launch asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _cuobjdump() -> str:
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(bundled) if bundled.exists() else shutil.which("cuobjdump") or "cuobjdump"


def _usage(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        text = subprocess.run(
            [_cuobjdump(), "-res-usage", cubin.name], capture_output=True, text=True, check=True
        ).stdout
    numbers = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    ptx = kernel.asm["ptx"]
    return {
        "name": kernel.metadata.name,
        "registers": int(numbers["REG"]),
        # What does not fit in registers lies on the stack, or in local memory.
        "spilled": int(numbers["STACK"]) + int(numbers["LOCAL"]),
        "shared": kernel.metadata.shared,
        "fma": len(re.findall(r"\bfma\.", ptx)),
        "loads": re.findall(r"\bld\.global\S*?\.((?:v\d\.)?b\d+)\b", ptx),
        "mma": len(re.findall(r"\b(?:wg)?mma[._]", ptx)),
    }


def compiled(capability: int, launches: list[Callable[[], object]]) -> list[list[dict[str, Any]]]:
    """For each call of a launcher, the kernels it newly compiled (in a process that compiles)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    driver.set_active(_Driver(capability))
    results: list[list[dict[str, Any]]] = []
    seen: set[int] = set()

    def getitem(self: Any, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            kernel = self.run(*arguments, grid=grid, warmup=True, **options)
            if id(kernel) not in seen:
                seen.add(id(kernel))
                results[-1].append(_usage(kernel))

        return launch

    JITFunction.__getitem__ = getitem
    for call in launches:
        results.append([])
        call()
    return results


def _sources() -> list[str]:
    """Files of the package that this process has read: the launchers, and all they import."""
    loaded = [m for name, m in sys.modules.items() if name.split(".")[0] == "stmixer_ops"]
    return [m.__file__ for m in loaded if (m.__file__ or "").endswith(".py")]


def compile_for(capability: int, *code: str) -> list[list[dict[str, Any]]]:
    """Runs ``code``, which defines ``launches``, a list of calls, compiling for sm_<capability>."""
    pytest.importorskip("triton", reason="triton is not installed")
    program = (
        f"{''.join(code)}\nimport json\nfrom support import triton_aot\n"
        f"results = triton_aot.compiled({capability}, launches)\n"
        f"print(json.dumps([results, triton_aot._sources()]))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])

    def make() -> tuple[Any, list[Path]]:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=os.sep)
        assert done.returncode == 0, done.stderr
        results, sources = json.loads(done.stdout.splitlines()[-1])
        return results, [Path(__file__), *map(Path, sources)]

    versions = {name: importlib.metadata.version(name) for name in ("triton", "torch")}
    options = {k: v for k, v in environment.items() if k.startswith(("TRITON_", "STMIXER_"))}
    where = importlib.util.find_spec("stmixer_ops").origin
    return keep("triton", [program, versions, options, where], make)
