"""What the GPU tests run over, and on which device."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.ops_cases import DTYPES as ALL_DTYPES
from support.ops_cases import LAYOUTS as ALL_LAYOUTS

from stmixer_ops import ops

REHEARSED = not torch.cuda.is_available() and os.environ.get("STMIXER_GPU_TESTS") == "rehearse"
DEVICE = torch.device("cuda") if torch.cuda.is_available() else None
if REHEARSED:
    DEVICE = torch.device("cpu")

# The interpreter takes a hundred times as long.
DTYPES = [torch.float32, torch.bfloat16] if REHEARSED else ALL_DTYPES
LAYOUTS = ["channels_last", "sliced"] if REHEARSED else list(ALL_LAYOUTS)
STEPS = [1, 4] if REHEARSED else [1, 2, 4, 8, 16]

_FOLDERS = {
    "lif": "lif",
    "bn_lif": "bn_lif",
    "pack_spikes": "pack",
    "unpack_spikes": "pack",
    "token_mix": "token_mix",
    "token_mix_lif": "token_mix",
    "spike_linear": "spike_linear",
    "spike_conv2d": "spike_linear",
    "conv_lif": "conv_lif",
}
OPS = list(_FOLDERS)


def require_kernels(op: str, backend: str) -> None:
    """Skip where ``backend`` has no launchers for ``op``: one that has them must run every call."""
    if not (
        Path(ops.__file__).parent / _FOLDERS[op.removesuffix("_bits")] / f"{backend}.py"
    ).is_file():
        pytest.skip(f"{op} has no {backend} kernels")


def needs_kernels(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """:func:`require_kernels` for a test's ``backend``."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(test)
        def run(*args: Any, backend: str, **kwargs: Any) -> None:
            require_kernels(op, backend)
            test(*args, backend=backend, **kwargs)

        return run

    return decorate
