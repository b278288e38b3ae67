"""pack_spikes / unpack_spikes: checks and choice of backend."""

from __future__ import annotations

import torch
from torch import Tensor

from .._backend import choose
from . import reference
from .reference import WORD_BITS


def check(x: Tensor, dim: int, argument: str) -> int:
    """The normalised ``dim``; refuses scalars and dimensions that do not exist."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(x).__name__}")
    if not -x.dim() <= dim < x.dim():
        raise ValueError(
            f"dim must name one of the {x.dim()} dimensions of {argument}, "
            f"shape {tuple(x.shape)}, got {dim}"
        )
    return dim % x.dim()


def check_bits(bits: Tensor, length: int, dim: int) -> int:
    """As :func:`check`, and the words along ``dim`` must be those of ``length`` spikes."""
    dim = check(bits, dim, "bits")
    if bits.dtype != torch.int32:
        raise TypeError(f"bits must be int32 words, got {bits.dtype}")
    words = (length + WORD_BITS - 1) // WORD_BITS
    if length < 0 or bits.shape[dim] != words:
        raise ValueError(
            f"length {length} takes {words} words along dim {dim}, "
            f"but bits has shape {tuple(bits.shape)}"
        )
    return dim


def pack_spikes(s: Tensor, dim: int, backend: str | None) -> Tensor:
    choose("pack_spikes", backend, {"reference": None})
    return reference.pack_spikes(s, dim)


def unpack_spikes(
    bits: Tensor, length: int, dim: int, dtype: torch.dtype, backend: str | None
) -> Tensor:
    choose("unpack_spikes", backend, {"reference": None})
    return reference.unpack_spikes(bits, length, dim, dtype)
