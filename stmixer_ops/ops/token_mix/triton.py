"""Triton kernels of token mixing and their launchers.

A program computes the currents of a tile of neurons (rows: batch and channels of one head, columns:
output tokens) step by step as a product on the tensor cores and runs the LIF on them in registers:
they never reach memory. Bytes per neuron-step in a dtype of b bytes: b for the spikes written
(1/8 for bits) and b for each of the ceil(N / 32) tiles of columns that read the input. Backward
computes the currents again, beyond 8 steps twice, with a membrane kept every 4 steps.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import _native, _triton
from .._triton import (
    charge_steps,
    keep_past_end,
    lif_charge,
    lif_fires,
    lif_gradient,
    lif_reset,
    pack_words,
    step_mask,
    surrogate_slope,
    zeros_or_load,
)
from ..lif import buffers as lif_buffers
from .buffers import LIFCall
from .triton_bits import token_mix_lif_bits as token_mix_lif_bits  # a launcher of this backend

_MAX_COUNT = 8  # steps whose membranes and currents fit in registers together
_RUN = 4  # steps between two kept membranes beyond that: the loop over runs needs registers too
_TILE = 32  # rows and columns of a program, and input tokens of a step of its product


@triton.jit
def _rows(batch, channels, batch_stride, channel_stride, HEADS: tl.constexpr, ROWS: tl.constexpr):
    """Offsets of this program's rows into a step, which of them exist, and their place in
    ``[batch, channels]``. Program ids: rows, columns, head."""
    per_head = channels // HEADS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    of_batch = tl.cast(row // per_head, tl.int64)
    channel = tl.program_id(2) * per_head + row % per_head
    offsets = of_batch * batch_stride + tl.cast(channel, tl.int64) * channel_stride
    return offsets[:, None], (row < batch * per_head)[:, None], of_batch * channels + channel


@triton.jit
def _columns(N: tl.constexpr, COLS: tl.constexpr):
    return tl.program_id(1) * COLS + tl.arange(0, COLS)[None, :]


@triton.jit
def _weights(weight, columns, begin, N: tl.constexpr, DEPTH: tl.constexpr):
    """``weight[h]`` transposed: input tokens from ``begin`` on by output tokens."""
    tokens = begin + tl.arange(0, DEPTH)[:, None]
    at = (tl.program_id(2) * N + columns) * N + tokens
    return tl.load(weight + at, (columns < N) & (tokens < N), 0.0)


@triton.jit
def _currents(
    s, rows, there, token_stride, weight, columns, tile,
    N: tl.constexpr, DEPTH: tl.constexpr, STATE: tl.constexpr,
):  # fmt: skip
    """Currents of one step; ``tile`` are the weights where all input tokens fit into one."""
    sums = tl.zeros([rows.shape[0], columns.shape[1]], STATE)
    for begin in range(0, N, DEPTH):
        tokens = begin + tl.arange(0, DEPTH)[None, :]
        spikes = tl.load(s + rows + tokens * token_stride, there & (tokens < N), 0.0)
        if N > DEPTH:
            tile = _weights(weight, columns, begin, N, DEPTH)
        sums = tl.dot(spikes, tile, sums, input_precision="ieee", out_dtype=STATE)
    return sums


@triton.jit(do_not_specialize=["batch"])
def _mix(
    s, weight, out, batch, channels, s_step, s_batch, s_channel, s_token,
    out_step, out_batch, out_channel, out_token, steps,
    N: tl.constexpr, HEADS: tl.constexpr, STATE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    s_step, out_step = tl.cast(s_step, tl.int64), tl.cast(out_step, tl.int64)
    rows, there, _ = _rows(batch, channels, s_batch, s_channel, HEADS, ROWS)
    columns = _columns(N, COLS)
    tile = _weights(weight, columns, 0, N, DEPTH)
    results, there, _ = _rows(batch, channels, out_batch, out_channel, HEADS, ROWS)
    results += columns * out_token
    for t in range(steps):
        sums = _currents(
            s + t * s_step, rows, there, s_token, weight, columns, tile, N, DEPTH, STATE
        )
        at = out + t * out_step + results
        tl.store(at, sums.to(out.dtype.element_ty), there & (columns < N))


@triton.jit(do_not_specialize=["batch"])
def _forward(
    s, weight, v_init, out, v_out, bits, batch, channels, s_step, s_batch, s_channel, s_token,
    out_step, out_batch, out_channel, out_token, bits_step, steps,
    N: tl.constexpr, HEADS: tl.constexpr,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr, STATE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    s_step, out_step = tl.cast(s_step, tl.int64), tl.cast(out_step, tl.int64)
    rows, there, _ = _rows(batch, channels, s_batch, s_channel, HEADS, ROWS)
    columns = _columns(N, COLS)
    tile = _weights(weight, columns, 0, N, DEPTH)
    results, there, place = _rows(batch, channels, out_batch, out_channel, HEADS, ROWS)
    results += columns * out_token
    mask = there & (columns < N)
    v = zeros_or_load(v_init, results, mask, STATE)
    for t in range(steps):
        current = _currents(
            s + t * s_step, rows, there, s_token, weight, columns, tile, N, DEPTH, STATE
        )
        h = lif_charge(v, current, DECAY)
        fired = lif_fires(h, THRESHOLD)
        v = lif_reset(h, fired, THRESHOLD, HARD)
        spikes = fired.to(STATE).to(out.dtype.element_ty)
        tl.store(out + t * out_step + results, spikes, mask)
        if bits is not None:
            ROW_WORDS: tl.constexpr = (N + 31) // 32
            LANES: tl.constexpr = min(COLS, 32)  # 16 where a row has no more tokens
            TILE_WORDS: tl.constexpr = COLS // LANES
            words = pack_words(fired & mask, ROWS * TILE_WORDS, LANES).reshape(ROWS, TILE_WORDS)
            word = tl.program_id(1) * TILE_WORDS + tl.arange(0, TILE_WORDS)[None, :]
            at = t * tl.cast(bits_step, tl.int64) + place[:, None] * ROW_WORDS + word
            tl.store(bits + at, words, there & (word < ROW_WORDS))
    if v_out is not None:
        tl.store(v_out + results, v, mask)


@triton.jit(do_not_specialize=["batch"])
def _backward(
    gout, gv, s, weight, v_init, g, gv_init, checkpoints, batch, channels,
    s_step, s_batch, s_channel, s_token, step, g_batch, g_channel, g_token,
    N: tl.constexpr, HEADS: tl.constexpr,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr, STATE: tl.constexpr,
    DETACH: tl.constexpr, SURROGATE: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    STEPS: tl.constexpr, COUNT: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Gradient of the currents; everything but s is laid out alike, steps ``step`` apart."""
    s_step, step = tl.cast(s_step, tl.int64), tl.cast(step, tl.int64)
    rows, there, _ = _rows(batch, channels, s_batch, s_channel, HEADS, ROWS)
    columns = _columns(N, COLS)
    tile = _weights(weight, columns, 0, N, DEPTH)
    offsets, there, _ = _rows(batch, channels, g_batch, g_channel, HEADS, ROWS)
    offsets += columns * g_token
    mask = there & (columns < N)
    v = zeros_or_load(v_init, offsets, mask, STATE)
    if checkpoints is not None:
        for first in range(0, STEPS, COUNT):
            tl.store(checkpoints + first // COUNT * step + offsets, v, mask)
            for t in range(first, first + COUNT):
                inside = step_mask(there, t, COUNT, STEPS)
                current = _currents(
                    s + t * s_step, rows, inside, s_token, weight, columns, tile, N, DEPTH, STATE
                )
                h = lif_charge(v, current, DECAY)
                v = lif_reset(h, lif_fires(h, THRESHOLD), THRESHOLD, HARD)
        tl.debug_barrier()
    gm = zeros_or_load(gv, offsets, mask, STATE)
    for segment in range((STEPS + COUNT - 1) // COUNT):
        first = ((STEPS - 1) // COUNT - segment) * COUNT
        if checkpoints is not None:
            v = tl.load(checkpoints + first // COUNT * step + offsets, mask, 0.0)
        currents = ()
        for i in tl.static_range(COUNT):
            inside = step_mask(there, first + i, COUNT, STEPS)
            current = _currents(
                s + (first + i) * s_step, rows, inside, s_token, weight, columns, tile,
                N, DEPTH, STATE,
            )  # fmt: skip
            currents = currents + (current,)  # type: ignore[assignment]  # noqa: RUF005
        history, v = charge_steps(v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD)
        for i in tl.static_range(COUNT - 1, -1, -1):
            h, at = history[i], (first + i) * step + offsets
            inside = step_mask(mask, first + i, COUNT, STEPS)
            fired, slope = lif_fires(h, THRESHOLD), surrogate_slope(h - THRESHOLD, SURROGATE, A, B)
            through_spike = h * 0.0 if gout is None else tl.load(gout + at, inside, 0.0).to(STATE)
            gh = lif_gradient(h, fired, slope, through_spike, gm, THRESHOLD, HARD, DETACH)
            tl.store(g + at, gh.to(g.dtype.element_ty), inside)
            gm = keep_past_end(DECAY * gh, gm, mask, first + i, COUNT, STEPS)
    if gv_init is not None:
        tl.store(gv_init + offsets, gm, mask)


def _launch(s: Tensor, weight: Tensor) -> tuple[tuple[int, int, int], dict[str, object]]:
    """Grid and constants. Forward and backward cut alike, so that they sum in the same order and
    backward sees the spikes that forward made. (Where one tile holds all input tokens the compiler
    starts the sum at ``DECAY * v`` in place of zero, in both: machine code has one addition less.)
    """
    _, batch, channels, tokens = s.shape
    heads = weight.shape[0]
    columns = 16 if tokens <= 16 else _TILE
    rows = triton.cdiv(batch * channels // heads, _TILE)
    grid = rows, triton.cdiv(tokens, columns), heads
    return grid, {
        "N": tokens, "HEADS": heads, "STATE": _triton.state_type(s.dtype), "ROWS": _TILE,
        "COLS": columns, "DEPTH": columns, "num_warps": 8, **_triton.NO_FUSION,
    }  # fmt: skip


def token_mix(s: Tensor, weight: Tensor) -> Tensor:
    out = _native.empty_like_steps(s, _native.step_strides(s))
    if s.numel():
        grid, constants = _launch(s, weight)
        _mix[grid](
            s, weight.contiguous(), out, s.shape[1], s.shape[2], *s.stride(), *out.stride(),
            s.shape[0], **constants,
        )  # fmt: skip
    return out


def token_mix_lif(call: LIFCall) -> tuple[Tensor, Tensor, Tensor]:
    s, v_init, out, v, _ = lif_buffers.forward(call.s, call.v_init, call.return_state, pack=False)
    bits = _native.empty_bits(s) if call.pack else _native.placeholder(s, torch.int32)
    if s.numel():
        grid, constants = _launch(s, call.weight)
        _forward[grid](
            s, call.weight.contiguous(), v_init, out, _triton.requested(v),
            _triton.requested(bits), s.shape[1], s.shape[2], *s.stride(), *out.stride(),
            bits.stride(0), s.shape[0], **constants,
            **_triton.neuron(call.threshold, call.decay, call.reset),
        )  # fmt: skip
    return out, v, bits


def token_mix_lif_backward(
    gout: Tensor | None,
    gv: Tensor | None,
    s: Tensor,
    weight: Tensor,
    v_init: Tensor | None,
    *neuron: Any,
) -> tuple[Tensor, Tensor]:
    gout, gv, s, v_init, g, gv_init = lif_buffers.backward(gout, gv, s, v_init)
    if s.numel():
        steps = s.shape[0]
        count = steps if steps <= _MAX_COUNT else _RUN
        grid, constants = _launch(s, weight)
        if s.dtype == torch.float32 and _RUN < steps <= _MAX_COUNT:
            # All there are: left alone, the assembler spills a few bytes of some shapes to place
            # one more program on a multiprocessor.
            constants["maxnreg"] = 255
        _backward[grid](
            gout, gv, s, weight.contiguous(), v_init, g, _triton.requested(gv_init),
            _triton.checkpoints(gv_init, s, count), s.shape[1], s.shape[2], *s.stride(),
            *g.stride(), STEPS=steps, COUNT=count, **constants,
            **_triton.differentiable_neuron(*neuron),
        )  # fmt: skip
    return g, gv_init
