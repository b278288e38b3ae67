"""The CUDA kernels on the CPU, for tests: see cuda_host.cpp."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from support.cpp_build import built

from stmixer_ops.ops import _cuda

ERRORS = {1: "no such kernel", 2: "wrote beyond its shared memory"}


@cache
def library() -> ctypes.CDLL:
    (path,) = built("cuda_host").rglob("libcuda_host.*")
    return ctypes.CDLL(str(path))


def launch(parameters: Any, scratch: int, device: torch.device) -> None:
    for _, name, blocks, _, shared, plain in parameters.cuda_plan(scratch):
        error = library().run_kernel(name.encode(), blocks, shared, plain)
        assert error == 0, f"{name}: {ERRORS[error]}"


EMULATED = _cuda.Runtime("kernels compiled for the CPU", "cpu", launch)
