"""How tensors reach the extension module."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._extension import extension as extension
from .._extension import obstacle
from ..surrogate import ATan, Dspike, PiecewiseQuadratic, Rect, Sigmoid

missing = obstacle()  # without the extension the references still run

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
SURROGATE_TYPES = (Dspike, PiecewiseQuadratic, Rect, Sigmoid, ATan)
SURROGATE_CODES = {kind.name: code for code, kind in enumerate(SURROGATE_TYPES)}

library = torch.library.Library("stmixer", "DEF")


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def scratch(num_bytes: int) -> Tensor:
    return torch.empty(num_bytes, dtype=torch.uint8, device="cpu")


# Carries out a call, given its parameters (an object of the extension) and where its tensors are.
Run = Callable[[Any, torch.device], None]


def run(parameters: Any, device: torch.device) -> None:
    """On the CPU."""
    threads = torch.get_num_threads()
    num_bytes = threads * parameters.cpu_scratch_bytes()
    memory = scratch(num_bytes) if num_bytes else None
    parameters.cpu_run(address(memory), threads)


@lru_cache(maxsize=256)
def neuron(
    threshold: float,
    decay: float,
    reset: str,
    detach: bool = False,
    surrogate: str = Dspike.name,
    scale: float = 1.0,
) -> object:
    """The C++ description of a neuron; forward does not read the last three."""
    return extension().Neuron(
        threshold, decay, reset == "hard", detach, SURROGATE_CODES[surrogate], scale
    )


# -- Layout: the kernels see a step as one dense run of neurons ------------------------------------


def _dense_order(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a tensor of this shape fills memory without gaps or overlaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(strides, shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return True


def _contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * max(shape[i + 1], 1)
    return tuple(strides)


def step_size(x: Tensor) -> int:
    """Neurons of a step of ``x [T, ...]``."""
    return x.numel() // x.shape[0]


def step_strides(x: Tensor) -> tuple[int, ...]:
    """Strides of one step of ``x`` if it is dense, else those of a contiguous copy."""
    if x.is_contiguous():  # the usual case costs a microsecond less
        return tuple(x.stride()[1:])
    shape, strides = tuple(x.shape[1:]), tuple(x.stride()[1:])
    return strides if _dense_order(shape, strides) else _contiguous_strides(shape)


def empty_like_steps(
    x: Tensor, strides: tuple[int, ...], dtype: torch.dtype | None = None
) -> Tensor:
    """Uninitialised ``[T, ...]`` like ``x``: steps laid out by ``strides``, one after the other."""
    if x.is_contiguous() and strides == x.stride()[1:]:
        return torch.empty_like(x, dtype=dtype)
    return torch.empty_strided(
        x.shape, (max(x[0].numel(), 1), *strides), dtype=dtype or x.dtype, device=x.device
    )


def empty_step(x: Tensor, strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Uninitialised membrane ``[...]`` of ``x [T, ...]``."""
    return torch.empty_strided(x.shape[1:], strides, dtype=dtype, device=x.device)


def same_strides(shape: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a == b or all(size == 1 or p == q for size, p, q in zip(shape, a, b, strict=True))


def with_steps(x: Tensor, strides: tuple[int, ...], packed: bool = False) -> Tensor:
    """``x`` itself if its steps lie as ``strides`` says (and, if ``packed``, one after the other),
    else a copy that does."""
    fits = same_strides(x.shape[1:], x.stride()[1:], strides)
    if fits and (not packed or x.shape[0] == 1 or x.stride(0) == step_size(x)):
        return x
    return empty_like_steps(x, strides).copy_(x)


def with_strides(v: Tensor | None, strides: tuple[int, ...]) -> Tensor | None:
    """A membrane laid out by ``strides``."""
    if v is None or same_strides(v.shape, v.stride(), strides):
        return v
    return torch.empty_strided(v.shape, strides, dtype=v.dtype, device=v.device).copy_(v)


def empty_bits(x: Tensor) -> Tensor:
    """Uninitialised words for the spikes of ``x`` along its last dimension."""
    return torch.empty(
        (*x.shape[:-1], (x.shape[-1] + 31) // 32), dtype=torch.int32, device=x.device
    )


def placeholder(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The empty tensor that an op returns in the place of a result that was not requested."""
    return x.new_empty(0, dtype=dtype)


def rows_are_words(x: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether a kernel that packs 32 neighbours in memory packs along the last dimension."""
    if x.dim() < 2 or x.shape[-1] % 32 != 0:
        return False
    return same_strides(x.shape[1:], strides, _contiguous_strides(tuple(x.shape[1:])))
