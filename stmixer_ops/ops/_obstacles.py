"""Which backends this machine has, and why one cannot take a call: one function per backend.

What is found out here is a constant of the process: graphs that Dynamo traces must not depend on
anything else. Nothing here imports triton or cupy; their presence is all that is asked.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Callable

import torch
from torch import Tensor

from . import _cuda, _native

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OLDEST_TRITON = (3, 3)


def triton_obstacle() -> str | None:
    """Why the installed Triton, if there is one, cannot be used.

    3.2 and older (torch 2.6) know fewer types in the interpreter, which ends the process in lif,
    and no kernel was ever compiled with them.
    """
    if importlib.util.find_spec("triton") is None:
        return "the triton package is not installed"
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:  # a build from source; its name may differ
        return None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"triton {version} is older than {oldest} (torch 2.7), the first one that is tested"
    return None


_NO_TRITON = triton_obstacle()


def _misplaced(tensors: tuple[Tensor | None, ...], device: str, place: str) -> str | None:
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != device:
            return f"a tensor is on {tensor.device}, not on {place}"
        if tensor.dtype not in _native.DTYPE_CODES and tensor.dtype != torch.int32:
            return f"dtype {tensor.dtype} has no kernel"
    return None


def cpu(*tensors: Tensor | None) -> str | None:
    return _native.missing or _misplaced(tensors, "cpu", "the CPU")


def triton(*tensors: Tensor | None) -> str | None:
    """On the CPU Triton's interpreter runs the kernels: for tests, and only if all are on it."""
    if _NO_TRITON is not None:
        return _NO_TRITON
    if INTERPRETED:
        return _misplaced(tensors, "cpu", "the CPU, where TRITON_INTERPRET=1 runs kernels")
    return _misplaced(tensors, "cuda", "a GPU (TRITON_INTERPRET=1 runs the kernels on the CPU)")


def cuda(*tensors: Tensor | None) -> str | None:
    runtime = _cuda.RUNTIME
    return runtime if isinstance(runtime, str) else _misplaced(tensors, runtime.device, "a GPU")


OBSTACLES: dict[str, Callable[..., str | None]] = {"cuda": cuda, "triton": triton, "cpu": cpu}
