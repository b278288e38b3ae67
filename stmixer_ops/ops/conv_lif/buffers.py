"""Where the results of conv_lif lie: every backend and the fake allocate them here."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _native
from ..lif.spec import state_dtype


class Call(NamedTuple):
    """The arguments of the operator, in the order of its schema, but for the backend."""

    s: Tensor
    weight: Tensor
    bias: Tensor | None
    residual: Tensor | None
    v_init: Tensor | None
    stride: int
    padding: int
    threshold: float
    decay: float
    reset: str
    keep_spikes: bool
    keep_sum: bool
    return_state: bool
    pack: bool


class Results(NamedTuple):
    """All with channels innermost; empty where not requested."""

    spikes: Tensor
    total: Tensor
    state: Tensor
    bits: Tensor


def rows(x: Tensor) -> Tensor:
    """``[..., C, H, W]`` seen with the channels innermost."""
    return x.movedim(-3, -1)


def images(x: Tensor) -> Tensor:
    """The inverse of :func:`rows`."""
    return x.movedim(-1, -3)


def output_shape(s: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, ...]:
    """``(T, B, O, H, W)`` of the convolution."""
    size = (
        (extent + 2 * padding - kernel) // stride + 1
        for extent, kernel in zip(s.shape[3:], weight.shape[2:], strict=True)
    )
    return (s.shape[0], s.shape[1], weight.shape[0], *size)


def allocate(call: Call) -> Results:
    weight = call.weight
    steps, batch, channels, *size = output_shape(call.s, weight, call.stride, call.padding)
    image = (batch, *size)
    full, words = (steps, *image, channels), (steps, *image, (channels + 31) // 32)

    def empty(wanted: bool, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not wanted:
            return _native.placeholder(weight, dtype)
        return images(weight.new_empty(shape, dtype=dtype))

    return Results(
        empty(call.keep_spikes, full, weight.dtype),
        empty(call.keep_sum, full, weight.dtype),
        empty(call.return_state, (*image, channels), state_dtype(weight.dtype)),
        empty(call.pack, words, torch.int32),
    )
