"""The weight gradient of a linear map or convolution of spikes, from their bits, in Triton.

The other products are PyTorch's own, on dense spikes, because bits would not make them faster. A
row of the forward product, 384 to 1536 channels in bfloat16, is 1.18 MFLOP, 1.2 ns of an H200's
989 TFLOP/s; its dense spikes are 768 of the 3840 bytes it moves, 0.16 of 0.8 ns at 4.8 TB/s, and
they are in memory anyway, because they carry the gradient. The input gradient has no spike operand.

Backward holds bits only. Unpacking them for a dense product would write and read back 4 bytes per
spike (0.32 ns per row of 384) and hold 16 times the bits while it lasts; here words of 32 spikes
become operands in registers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._triton_window import expand_words, multiply_add, window_rows


@triton.jit(do_not_specialize=["pixels", "pixels_per_split"])
def weight_gradient_kernel(
    g_ptr, bits_ptr, out_ptr,
    pixels, pixels_per_split, height, width, out_height, out_width, channels, outputs,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """``out[split, tap, c, o]``: the sum over one range of pixels of ``g[pixel, o] s[row, c]``.

    Each range has its own result, added up afterwards in a fixed order: no float atomics.
    """
    tiles_c = tl.cdiv(channels, BLOCK_C)
    tiles_o = tl.cdiv(outputs, BLOCK_O)
    tile, split = tl.program_id(0), tl.program_id(1)
    o = tile % tiles_o * BLOCK_O + tl.arange(0, BLOCK_O)
    c = tile // tiles_o % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)
    word = tile // tiles_o % tiles_c * (BLOCK_C // 32) + tl.arange(0, BLOCK_C // 32)
    tap = tile // (tiles_o * tiles_c)
    words_c = tl.cdiv(channels, 32)
    first = split * pixels_per_split
    last = tl.minimum(first + pixels_per_split, pixels)

    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for start in range(first, last, BLOCK_M):
        pixel = start + tl.arange(0, BLOCK_M)
        image, row, valid = window_rows(
            pixel, tap, height, width, out_height, out_width, KERNEL, STRIDE, PADDING
        )
        row += tl.cast(image, tl.int64) * (height * width)
        g = tl.load(
            g_ptr + tl.cast(pixel, tl.int64)[:, None] * outputs + o[None, :],
            mask=(pixel < last)[:, None] & (o < outputs)[None, :],
            other=0.0,
        )
        words = tl.load(
            bits_ptr + row[:, None] * words_c + word[None, :],
            mask=(valid & (pixel < last))[:, None] & (word < words_c)[None, :],
            other=0,
        )
        spikes = expand_words(words, g_ptr.dtype.element_ty)
        total = multiply_add(tl.trans(spikes), g, total)
    line = (tl.cast(split, tl.int64) * (KERNEL * KERNEL) + tap) * channels + c
    tl.store(
        out_ptr + line[:, None] * outputs + o[None, :],
        total,
        mask=(c < channels)[:, None] & (o < outputs)[None, :],
    )


class Tile(NamedTuple):
    """How much of the weight one program computes, how many pixels at a time, its warps."""

    BLOCK_O: int
    BLOCK_C: int
    BLOCK_M: int
    num_warps: int


_PROGRAMS = 512  # a few for each multiprocessor of a large GPU
_STAGES = 3


def choose_tile(dtype: torch.dtype, channels: int) -> Tile:
    """A wide tile expands each word for more outputs; float32 products take three passes."""
    if dtype == torch.float32:
        return Tile(64, 32, 32, 4)
    return Tile(128, 128, 64, 8) if channels > 64 else Tile(64, 64, 64, 4)


def spike_weight_gradient(
    g: Tensor, bits: Tensor, channels: int, kernel: int, stride: int, padding: int
) -> Tensor:
    """``[O, C, K, K]``, float32, from ``g [B, O, H', W']`` and ``bits [B, H, W, ceil(C / 32)]``."""
    outputs, out_height, out_width = g.shape[1:]
    g, bits = g.movedim(1, -1).contiguous(), bits.contiguous()
    pixels = g.shape[:3].numel()
    tile = choose_tile(g.dtype, channels)
    programs = (
        triton.cdiv(outputs, tile.BLOCK_O) * triton.cdiv(channels, tile.BLOCK_C) * kernel * kernel
    )
    splits = max(1, min(_PROGRAMS // programs, triton.cdiv(pixels, 8 * tile.BLOCK_M)))
    per_split = triton.cdiv(triton.cdiv(pixels, splits), tile.BLOCK_M) * tile.BLOCK_M
    parts = g.new_empty((splits, kernel, kernel, channels, outputs), dtype=torch.float32)
    weight_gradient_kernel[(programs, splits)](
        g, bits, parts,
        pixels, per_split, bits.shape[1], bits.shape[2], out_height, out_width, channels, outputs,
        KERNEL=kernel, STRIDE=stride, PADDING=padding, **tile._asdict(), num_stages=_STAGES,
    )  # fmt: skip
    return parts.sum(0).permute(3, 2, 0, 1)
