"""The CUDA kernels on the CPU, for tests: see cuda_host.cpp."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from support.paths import ROOT, TESTS
import pytest
import torch

from stmixer_ops.ops import _cuda

ERRORS = {1: "no such kernel", 2: "wrote beyond its shared memory"}


@cache
def library() -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None or not (ROOT / "csrc").is_dir():
        pytest.skip("needs g++ and the sources")
    built = Path(tempfile.mkdtemp()) / "cuda_host.so"
    command = [compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-w"]
    command += ["-shared", "-fPIC", f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/include"]
    subprocess.run([*command, str(TESTS / "support" / "cuda_host.cpp"), "-o", str(built)], check=True)
    return ctypes.CDLL(str(built))


def launch(parameters: Any, scratch: int, device: torch.device) -> None:
    for _, name, blocks, _, shared, plain in parameters.cuda_plan(scratch):
        error = library().run_kernel(name.encode(), blocks, shared, plain)
        assert error == 0, f"{name}: {ERRORS[error]}"


EMULATED = _cuda.Way("kernels compiled for the CPU", "cpu", launch)
