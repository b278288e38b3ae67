"""Launchers of the packing kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native


def pack_rows(s: Tensor) -> Tensor:
    """Bits of contiguous ``s [..., L]`` along its last dimension."""
    s = s.contiguous()
    bits = _native.empty_bits(s)
    if s.numel():
        _native.extension().pack_rows(
            _native.DTYPE_CODES[s.dtype],
            s.numel() // s.shape[-1],
            s.shape[-1],
            s.data_ptr(),
            bits.data_ptr(),
            torch.get_num_threads(),
        )
    return bits


def unpack_rows(bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Spikes ``[..., length]`` of contiguous rows of words."""
    bits = bits.contiguous()
    s = torch.empty((*bits.shape[:-1], length), dtype=dtype)
    if s.numel():
        _native.extension().unpack_rows(
            _native.DTYPE_CODES[dtype],
            s.numel() // length,
            length,
            bits.data_ptr(),
            s.data_ptr(),
            torch.get_num_threads(),
        )
    return s
