"""pack_spikes / unpack_spikes: checks, choice of backend, registration."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._backend import choose
from .._register import register
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


_native.library.define("pack_rows(Tensor s, str backend) -> Tensor")
register("pack_rows", __package__)
_native.library.define(
    "unpack_rows(Tensor bits, int length, ScalarType dtype, str backend) -> Tensor"
)
register("unpack_rows", __package__)


@torch.library.register_fake("stmixer::pack_rows", lib=_native.library)
def _pack_rows_fake(s: Tensor, backend: str) -> Tensor:
    return _native.empty_bits(s)


@torch.library.register_fake("stmixer::unpack_rows", lib=_native.library)
def _unpack_rows_fake(bits: Tensor, length: int, dtype: torch.dtype, backend: str) -> Tensor:
    return bits.new_empty((*bits.shape[:-1], length), dtype=dtype)


def pack_spikes(s: Tensor, dim: int, backend: str | None) -> Tensor:
    chosen = choose("pack_spikes", backend, dict.fromkeys(("cuda", "triton", "cpu")), (s,))
    if chosen == "reference":
        return reference.pack_spikes(s, dim)
    return torch.ops.stmixer.pack_rows(s.detach().movedim(dim, -1), chosen).movedim(-1, dim)


def unpack_spikes(
    bits: Tensor, length: int, dim: int, dtype: torch.dtype, backend: str | None
) -> Tensor:
    obstacle = None if dtype in _native.DTYPE_CODES else f"dtype {dtype} has no kernel"
    chosen = choose(
        "unpack_spikes", backend, dict.fromkeys(("cuda", "triton", "cpu"), obstacle), (bits,)
    )
    if chosen == "reference":
        return reference.unpack_spikes(bits, length, dim, dtype)
    rows = bits.movedim(dim, -1)
    return torch.ops.stmixer.unpack_rows(rows, length, dtype, chosen).movedim(-1, dim)
