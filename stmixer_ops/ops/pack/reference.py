"""Spikes as bits, in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WORD_BITS = 32


def pack_spikes(s: Tensor, dim: int) -> Tensor:
    """Bit ``i`` of word ``w`` along ``dim`` is ``s[32 w + i] > 0``; rows are padded with zeros."""
    rows = (s > 0).movedim(dim, -1).to(torch.int64)
    rows = F.pad(rows, (0, -rows.shape[-1] % WORD_BITS)).unflatten(-1, (-1, WORD_BITS))
    shifts = torch.arange(WORD_BITS, device=s.device)
    return (rows << shifts).sum(-1).to(torch.int32).movedim(-1, dim)


def unpack_spikes(bits: Tensor, length: int, dim: int, dtype: torch.dtype) -> Tensor:
    """The inverse of :func:`pack_spikes` for rows of ``length`` spikes."""
    words = bits.movedim(dim, -1).unsqueeze(-1)
    shifts = torch.arange(WORD_BITS, device=bits.device, dtype=torch.int32)
    rows = ((words >> shifts) & 1).flatten(-2)[..., :length]
    return rows.to(dtype).movedim(-1, dim)
