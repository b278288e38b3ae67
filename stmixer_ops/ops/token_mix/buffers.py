"""Where the results of token mixing from bits to bits lie, and the way there for whoever has none.

Words and membranes have the channels innermost: a word is 32 channels of one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from ..lif.spec import state_dtype


def state_strides(channels: int, tokens: int) -> tuple[int, int, int]:
    """Of a membrane ``[B, C, N]``."""
    return tokens * channels, 1, channels


def allocate_bits(
    s: Tensor, weight: Tensor, channels: int, return_state: bool
) -> tuple[Tensor, Tensor]:
    """Words like those of ``s [T, B, ceil(C / 32), N]``, and the last membrane if asked for."""
    steps, batch, words, tokens = s.shape
    bits = s.new_empty((steps, batch, tokens, words)).transpose(2, 3)
    dtype = state_dtype(weight.dtype)
    if not return_state:
        return bits, _native.nothing(weight, dtype)
    return bits, weight.new_empty((batch, tokens, channels), dtype=dtype).transpose(1, 2)


def through_dense(
    backend: str,
    s: Tensor,
    weight: Tensor,
    v_init: Tensor | None,
    channels: int,
    threshold: float,
    decay: float,
    reset: str,
    return_state: bool,
) -> tuple[Tensor, Tensor]:
    """Bits and last membrane by the kernel that takes and gives dense spikes."""
    ops = torch.ops.stmixer
    rows = ops.unpack_rows(s.transpose(2, 3), channels, weight.dtype, backend)
    out, v, _ = ops.token_mix_lif(
        rows.transpose(2, 3), weight, v_init, threshold, decay, reset, return_state, False, backend
    )
    return ops.pack_rows(out.transpose(2, 3), backend).transpose(2, 3), v
