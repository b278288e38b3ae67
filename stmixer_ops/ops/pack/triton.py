"""Triton kernels that turn spikes into bits and back, and their launchers.

Bytes per spike: those of its dtype, and 1/8.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _native
from .._triton import NO_FUSION

_WORDS = 64  # of 32 spikes, by each program


@triton.jit
def _spikes_of(word, words, length, row_words):
    """Where the 32 spikes of each word lie, and whether they exist: word ``w`` of a row holds its
    spikes ``[32 w, 32 w + 32)``."""
    row, column = word // row_words, word % row_words * 32
    lane = tl.arange(0, 32)[None, :]
    at = (row * length + column)[:, None] + lane
    return at, (word < words)[:, None] & (column[:, None] + lane < length)


@triton.jit(do_not_specialize=["words"])
def _pack(s, bits, words, length, row_words, WORDS: tl.constexpr):
    word = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    at, inside = _spikes_of(word, words, length, row_words)
    fired = tl.load(s + at, inside, 0.0) > 0.0
    packed = tl.sum(fired.to(tl.int32) << tl.arange(0, 32)[None, :], 1)
    tl.store(bits + word, packed, word < words)


@triton.jit(do_not_specialize=["words"])
def _unpack(bits, s, words, length, row_words, WORDS: tl.constexpr):
    word = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    at, inside = _spikes_of(word, words, length, row_words)
    packed = tl.load(bits + word, word < words, 0)
    fired = (packed[:, None] >> tl.arange(0, 32)[None, :]) & 1
    tl.store(s + at, fired.to(tl.float32).to(s.dtype.element_ty), inside)


def pack_rows(s: Tensor) -> Tensor:
    s = s.contiguous()
    bits = _native.empty_bits(s)
    if s.numel():
        words = bits.numel()
        _pack[(triton.cdiv(words, _WORDS),)](
            s, bits, words, s.shape[-1], bits.shape[-1], WORDS=_WORDS, **NO_FUSION
        )
    return bits


def unpack_rows(bits: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    bits = bits.contiguous()
    s = torch.empty((*bits.shape[:-1], length), dtype=dtype, device=bits.device)
    if s.numel():
        words = bits.numel()
        _unpack[(triton.cdiv(words, _WORDS),)](
            bits, s, words, length, bits.shape[-1], WORDS=_WORDS, **NO_FUSION
        )
    return s
