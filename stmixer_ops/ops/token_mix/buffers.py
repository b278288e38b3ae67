"""Where the results of token mixing from bits to bits lie, and the way there for whoever has none.

Words and membranes have the channels innermost: a word is 32 channels of one token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import _native
from ..lif.spec import state_dtype


class BitsCall(NamedTuple):
    """The arguments of the operator, in the order of its schema, but for the backend."""

    s: Tensor
    weight: Tensor
    v_init: Tensor | None
    channels: int
    threshold: float
    decay: float
    reset: str
    return_state: bool

    @property
    def neuron(self) -> tuple[float, float, str]:
        return self.threshold, self.decay, self.reset


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
    out, v, _ = ops.token_mix_lif(
        rows.transpose(2, 3),
        call.weight,
        call.v_init,
        call.return_state,
        False,
        *call.neuron,
        backend,
    )
    return ops.pack_rows(out.transpose(2, 3), backend).transpose(2, 3), v
