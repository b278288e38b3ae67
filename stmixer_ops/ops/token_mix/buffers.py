"""Where the results of token mixing lie; from bits to bits, also by kernels of dense spikes.

Words and their membranes have the channels innermost: a word is 32 channels of one token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _native
from ..lif.spec import state_dtype


class LIFCall(NamedTuple):
    """The arguments of token_mix_lif, in the order of its schema, but for the backend."""

    s: Tensor
    weight: Tensor
    v_init: Tensor | None
    return_state: bool
    pack: bool
    threshold: float
    decay: float
    reset: str


class BitsCall(NamedTuple):
    """Likewise of token_mix_lif_bits."""

    s: Tensor
    weight: Tensor
    v_init: Tensor | None
    channels: int
    threshold: float
    decay: float
    reset: str
    return_state: bool


def allocate(call: LIFCall) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes laid out like ``s``; last membrane and bits along the tokens if requested."""
    s = call.s
    strides, dtype = _native.step_strides(s), state_dtype(s.dtype)
    return (
        _native.empty_like_steps(s, strides),
        _native.empty_step(s, strides, dtype)
        if call.return_state
        else _native.placeholder(s, dtype),
        _native.empty_bits(s) if call.pack else _native.placeholder(s, torch.int32),
    )


def state_strides(channels: int, tokens: int) -> tuple[int, int, int]:
    """Of a membrane ``[B, C, N]``."""
    return tokens * channels, 1, channels


def allocate_bits(call: BitsCall) -> tuple[Tensor, Tensor]:
    """Words like those of ``s [T, B, ceil(C / 32), N]``, and the last membrane if requested."""
    steps, batch, words, tokens = call.s.shape
    bits = call.s.new_empty((steps, batch, tokens, words)).transpose(2, 3)
    dtype = state_dtype(call.weight.dtype)
    if not call.return_state:
        return bits, _native.placeholder(call.weight, dtype)
    v = call.weight.new_empty((batch, tokens, call.channels), dtype=dtype)
    return bits, v.transpose(1, 2)


def through_dense(backend: str, call: BitsCall) -> tuple[Tensor, Tensor]:
    """Bits and last membrane by the kernel that takes and gives dense spikes."""
    ops = torch.ops.stmixer
    rows = ops.unpack_rows(call.s.transpose(2, 3), call.channels, call.weight.dtype, backend)
    neuron = (call.threshold, call.decay, call.reset)
    dense = LIFCall(
        rows.transpose(2, 3), call.weight, call.v_init, call.return_state, False, *neuron
    )
    out, v, _ = ops.token_mix_lif(*dense, backend)
    return ops.pack_rows(out.transpose(2, 3), backend).transpose(2, 3), v
