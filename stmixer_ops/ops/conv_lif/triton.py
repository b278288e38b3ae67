"""conv_lif in Triton: an implicit matrix product over spikes whose epilogue is the neuron."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from .._triton import NO_FUSION, lif_charge, lif_fires, lif_reset, neuron
from .._triton_window import (
    as_spikes,
    dense_images,
    expand_words,
    fold_words,
    multiply_add,
    window_rows,
)
from .buffers import Call, Results, allocate, output_shape, rows


@triton.jit(do_not_specialize=["steps", "pixels"])
def conv_lif_kernel(
    s_ptr, weight_ptr, bias_ptr, residual_ptr, v_init_ptr,
    out_ptr, total_ptr, v_ptr, bits_ptr,
    steps, pixels, height, width, out_height, out_width, channels, outputs,
    s_step, s_image, s_row, residual_step, weight_output, weight_tap, weight_channel,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr,
    PACKED: tl.constexpr, ROUNDED: tl.constexpr,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of BLOCK_M output pixels by BLOCK_N output channels, over all steps.

    The steps are the outer loop: beside one accumulator the membrane of the tile stays in
    registers, however many steps there are; the weights of every further step come from cache.
    """
    dtype = weight_ptr.dtype.element_ty
    tiles_n = tl.cdiv(outputs, BLOCK_N)
    tile_m, tile_n = tl.program_id(0) // tiles_n, tl.program_id(0) % tiles_n
    pixel = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (pixel < pixels)[:, None] & (n < outputs)[None, :]
    # The tile's corner is a wide scalar, so that offsets inside the tile stay narrow.
    at = tl.arange(0, BLOCK_M)[:, None] * outputs + n[None, :]
    corner = tl.cast(tile_m, tl.int64) * BLOCK_M * outputs
    step_size = tl.cast(pixels, tl.int64) * outputs
    blocks_k = tl.cdiv(channels, BLOCK_K)

    if v_init_ptr is not None:
        v = tl.load(v_init_ptr + corner + at, mask=inside, other=0.0)
    else:
        v = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for t in range(steps):
        step = tl.cast(t, tl.int64)
        y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        # One loop over taps and channels, so that loads of the next tap are on their way early.
        for i in range(KERNEL * KERNEL * blocks_k):
            tap = i // blocks_k
            first = (i - tap * blocks_k) * BLOCK_K
            k = first + tl.arange(0, BLOCK_K)
            image, row, valid = window_rows(
                pixel, tap, height, width, out_height, out_width, KERNEL, STRIDE, PADDING
            )
            valid &= pixel < pixels
            row = step * s_step + tl.cast(image, tl.int64) * s_image + row * s_row
            if PACKED:
                word = first // 32 + tl.arange(0, BLOCK_K // 32)
                words = tl.load(
                    s_ptr + row[:, None] + word[None, :],
                    mask=valid[:, None] & (word * 32 < channels)[None, :],
                    other=0,
                )
                s = expand_words(words, dtype)
            else:
                s = tl.load(
                    s_ptr + row[:, None] + k[None, :],
                    mask=valid[:, None] & (k < channels)[None, :],
                    other=0.0,
                )
            weight = tl.load(
                weight_ptr
                + n[None, :] * weight_output
                + tap * weight_tap
                + k[:, None] * weight_channel,
                mask=(k < channels)[:, None] & (n < outputs)[None, :],
                other=0.0,
            )
            y = multiply_add(s, weight, y)
        if bias_ptr is not None:
            bias = tl.load(bias_ptr + n, mask=n < outputs, other=0.0)
            y += tl.cast(bias, tl.float32)[None, :]
        if residual_ptr is not None:
            residual = tl.load(
                residual_ptr + (step * residual_step + corner) + at, mask=inside, other=0.0
            )
            y += tl.cast(residual, tl.float32)
        if ROUNDED:
            y = tl.cast(tl.cast(y, dtype), tl.float32)
        if total_ptr is not None:
            tl.store(total_ptr + (step * step_size + corner) + at, tl.cast(y, dtype), mask=inside)
        h = lif_charge(v, y, DECAY)
        fired = lif_fires(h, THRESHOLD)
        v = lif_reset(h, fired, THRESHOLD, HARD)
        if out_ptr is not None:
            tl.store(
                out_ptr + (step * step_size + corner) + at, as_spikes(fired, dtype), mask=inside
            )
        if bits_ptr is not None:
            words_n = tl.cdiv(outputs, 32)
            word_n = tile_n * (BLOCK_N // 32) + tl.arange(0, BLOCK_N // 32)
            tl.store(
                bits_ptr + (step * pixels + pixel)[:, None] * words_n + word_n[None, :],
                fold_words(fired & inside),
                mask=(pixel < pixels)[:, None] & (word_n < words_n)[None, :],
            )
    if v_ptr is not None:
        tl.store(v_ptr + corner + at, v, mask=inside)


class Tile(NamedTuple):
    """How much one program computes, and with how many warps."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    num_warps: int


_ENOUGH_PROGRAMS = 256  # about two for each multiprocessor of a large GPU
_STAGES = 3


def tiles(dtype: torch.dtype, with_state: bool) -> list[Tile]:
    """Large to small: none of them spills (tests/ops/test_conv_lif.py), which is what limits
    the first: a tile has an accumulator and a membrane, and float32 products take three passes."""
    k = 32 if dtype == torch.float32 else 64
    large = [] if with_state or dtype == torch.float32 else [Tile(128, 64, k, 8)]
    return [*large, Tile(64, 32, k, 4), Tile(16, 32, k, 4)]


def choose_tile(dtype: torch.dtype, with_state: bool, pixels: int, outputs: int) -> Tile:
    """The largest tile that gives every multiprocessor something to do, or the smallest."""
    sizes = tiles(dtype, with_state)
    for tile in sizes:
        if programs(tile, pixels, outputs) >= _ENOUGH_PROGRAMS:
            return tile
    return sizes[-1]


def programs(tile: Tile, pixels: int, outputs: int) -> int:
    return triton.cdiv(pixels, tile.BLOCK_M) * triton.cdiv(outputs, tile.BLOCK_N)


def conv_lif(call: Call) -> Results:
    results, s, weight = allocate(call), call.s, call.weight
    shape = output_shape(s, weight, call.stride, call.padding)
    steps, batch, outputs, out_height, out_width = shape
    pixels = batch * out_height * out_width
    if steps * pixels * outputs == 0:
        return results
    x = dense_images(rows(s))
    kernel = weight.shape[2]
    in_line = kernel == 1 or weight.stride(2) == kernel * weight.stride(3)
    taps = weight if in_line else weight.contiguous()
    bias = None if call.bias is None else call.bias.contiguous()
    stream = None
    if call.residual is not None:
        stream = dense_images(rows(call.residual), one_after_the_other=True)
    state = None if call.v_init is None else rows(call.v_init).contiguous()
    tile = choose_tile(weight.dtype, state is not None or call.return_state, pixels, outputs)
    spikes, total, v, bits = (r if r.numel() else None for r in results)
    conv_lif_kernel[(programs(tile, pixels, outputs),)](
        x, taps, bias, stream, state, spikes, total, v, bits,
        steps, pixels, s.shape[3], s.shape[4], out_height, out_width, weight.shape[1], outputs,
        x.stride(0), x.stride(1), x.shape[4], 0 if stream is None else stream.stride(0),
        taps.stride(0), taps.stride(3), taps.stride(1),
        **neuron(call.threshold, call.decay, call.reset),
        PACKED=not s.is_floating_point(),
        ROUNDED=call.keep_sum or stream is not None,
        KERNEL=kernel, STRIDE=call.stride, PADDING=call.padding,
        **tile._asdict(), num_stages=_STAGES, **NO_FUSION,
    )  # fmt: skip
    return results
