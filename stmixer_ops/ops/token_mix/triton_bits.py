"""The Triton kernel of token mixing from bits to bits, for inference, and its launcher.

Words hold 32 channels of a token, so a program's columns are whole words: their channels, of a few
images. Bytes per neuron-step: 1/8 for the spikes read, by each tile of tokens, and 1/8 for those
written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _native
from .._triton import NO_FUSION, lif_charge, lif_fires, lif_reset, neuron, requested
from .._triton_window import expand_words, fold_words, multiply_add
from .buffers import BitsCall, allocate_bits, state_strides, through_dense


@triton.jit
def _lanes(word, head, PER_HEAD: tl.constexpr):
    """The bits of ``word`` that are channels of ``head``."""
    begin = tl.maximum(head * PER_HEAD - word * 32, 0)
    end = tl.minimum((head + 1) * PER_HEAD - word * 32, 32)
    ones = tl.full([], 1, tl.int64)  # wide, because all 32 may be
    return tl.cast((ones << end) - (ones << begin), tl.int32)


@triton.jit(do_not_specialize=["steps", "batch"])
def _forward_bits(
    s, weight, v_init, v_out, bits, steps, batch, s_step, s_image, s_word, s_token,
    CHANNELS: tl.constexpr, N: tl.constexpr, HEADS: tl.constexpr,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr,
    ROWS: tl.constexpr, IMAGES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS output tokens by the 32 channels of one word in IMAGES images, over all steps,
    which are the outer loop: beside one accumulator there is one membrane, however many they are.

    Heads end inside words (24 channels each in a network of 384 and 16): each head that a word has
    channels of multiplies these alone, the others' bits cleared, into the same accumulator. So a
    word of two heads costs two products; and a weight that is not finite reaches the neighbours.
    """
    dtype = weight.dtype.element_ty
    WORDS: tl.constexpr = (CHANNELS + 31) // 32
    PER_HEAD: tl.constexpr = CHANNELS // HEADS
    BLOCKS: tl.constexpr = (N + DEPTH - 1) // DEPTH
    word, first_image = tl.program_id(0) % WORDS, tl.program_id(0) // WORDS * IMAGES
    image = tl.arange(0, IMAGES)
    token = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, IMAGES * 32)
    channel, of_image = word * 32 + column % 32, column // 32
    here, there = first_image + image < batch, first_image + of_image < batch
    inside = (token < N)[:, None] & ((channel < CHANNELS) & there)[None, :]
    # The corner of a tile is a wide scalar, so that offsets inside the tile stay narrow.
    corner = tl.cast(first_image, tl.int64)
    s_corner = s + corner * s_image + word * s_word
    bits_corner = bits + corner * (N * WORDS) + word
    neurons = (of_image * (N * CHANNELS) + channel)[None, :] + token[:, None] * CHANNELS
    first_head = word * 32 // PER_HEAD
    heads = tl.minimum(word * 32 + 31, CHANNELS - 1) // PER_HEAD - first_head + 1

    if v_init is not None:
        v = tl.load(v_init + corner * (N * CHANNELS) + neurons, inside, 0.0)
    else:
        v = tl.zeros((ROWS, IMAGES * 32), tl.float32)
    for t in range(steps):
        step = tl.cast(t, tl.int64)
        y = tl.zeros((ROWS, IMAGES * 32), tl.float32)
        # One loop over heads and tokens, so that the next weights are on their way early.
        for i in range(heads * BLOCKS):
            head = first_head + i // BLOCKS
            k = i % BLOCKS * DEPTH + tl.arange(0, DEPTH)
            words = tl.load(
                s_corner + step * s_step + (image[None, :] * s_image + k[:, None] * s_token),
                mask=(k < N)[:, None] & here[None, :],
                other=0,
            )
            if PER_HEAD % 32 != 0:
                words &= _lanes(word, head, PER_HEAD)
            weights = tl.load(
                weight + head * (N * N) + token[:, None] * N + k[None, :],
                mask=(token < N)[:, None] & (k < N)[None, :],
                other=0.0,
            )
            y = multiply_add(weights, expand_words(words, dtype), y)
        h = lif_charge(v, y, DECAY)
        fired = lif_fires(h, THRESHOLD)
        v = lif_reset(h, fired, THRESHOLD, HARD)
        tl.store(
            bits_corner
            + step * batch * (N * WORDS)
            + (image[None, :] * N + token[:, None]) * WORDS,
            fold_words(fired & inside),
            mask=(token < N)[:, None] & here[None, :],
        )
    if v_out is not None:
        tl.store(v_out + corner * (N * CHANNELS) + neurons, v, mask=inside)


class Tile(NamedTuple):
    """How much one program computes, with how many warps."""

    ROWS: int
    IMAGES: int
    DEPTH: int
    num_warps: int


_ENOUGH_PROGRAMS = 256  # about two for each multiprocessor of a large GPU


def tiles(dtype: torch.dtype, tokens: int) -> list[Tile]:
    """Large to small; none of them spills (tests/ops/test_token_mix_bits.py), which is what limits
    float32, whose products take three passes."""
    wide = dtype == torch.float32
    rows = min(max(triton.next_power_of_2(tokens), 16), 32 if wide else 64)
    depth = min(rows, 32)
    large = Tile(rows, 2, depth, 4 if rows == 16 else 8)
    if wide or rows == 16:
        return [large, Tile(16, 1, 16, 4)]
    return [large, Tile(rows, 1, depth, 4), Tile(16, 1, depth, 2)]


def choose_tile(dtype: torch.dtype, batch: int, words: int, tokens: int) -> Tile:
    """The largest tile that gives every multiprocessor something to do, or the smallest."""
    sizes = tiles(dtype, tokens)
    for tile in sizes:
        across, down = grid(tile, batch, words, tokens)
        if across * down >= _ENOUGH_PROGRAMS:
            return tile
    return sizes[-1]


def grid(tile: Tile, batch: int, words: int, tokens: int) -> tuple[int, int]:
    """The words of a token by each other, so that they share the cache lines of their token."""
    return words * triton.cdiv(batch, tile.IMAGES), triton.cdiv(tokens, tile.ROWS)


def token_mix_lif_bits(call: BitsCall) -> tuple[Tensor, Tensor]:
    s, weight = call.s, call.weight
    steps, batch, words, tokens = s.shape
    if weight.dtype == torch.float64:  # has no product on tensor cores that takes made operands
        return through_dense("triton", call)
    bits, v = allocate_bits(call)
    if s.numel():
        tile = choose_tile(weight.dtype, batch, words, tokens)
        # All there are: left alone, some versions of the assembler spill a few bytes to place one
        # more program on a multiprocessor.
        registers = {"maxnreg": 255} if weight.dtype == torch.float32 else {}
        _forward_bits[grid(tile, batch, words, tokens)](
            s, weight.contiguous(),
            _native.with_strides(call.v_init, state_strides(call.channels, tokens)), requested(v),
            bits, steps, batch, *s.stride(),
            CHANNELS=call.channels, N=tokens, HEADS=weight.shape[0],
            **neuron(call.threshold, call.decay, call.reset),
            **tile._asdict(), **registers, **NO_FUSION,
        )  # fmt: skip
    return bits, v
