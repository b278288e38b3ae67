"""Calls of the packing kernels in C++ and CUDA, which take the same parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native


def pack_rows(run: _native.Run, s: Tensor) -> Tensor:
    """Bits of contiguous ``s [..., L]`` along its last dimension."""
    s = s.contiguous()
    bits = _native.empty_bits(s)
    if s.numel():
        parameters = _native.extension().PackRows(
            _native.DTYPE_CODES[s.dtype],
            s.numel() // s.shape[-1],
            s.shape[-1],
            s.data_ptr(),
            bits.data_ptr(),
        )
        run(parameters, s.device)
    return bits


def unpack_rows(run: _native.Run, bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Spikes ``[..., length]`` of contiguous rows of words."""
    bits = bits.contiguous()
    s = torch.empty((*bits.shape[:-1], length), dtype=dtype, device=bits.device)
    if s.numel():
        parameters = _native.extension().UnpackRows(
            _native.DTYPE_CODES[dtype],
            s.numel() // length,
            length,
            bits.data_ptr(),
            s.data_ptr(),
        )
        run(parameters, s.device)
    return s
