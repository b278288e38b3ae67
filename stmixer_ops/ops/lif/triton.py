"""Triton kernels of the LIF and their launchers.

A program holds a block of neurons in registers over all T steps. Bytes per neuron-step in a dtype
of b bytes: forward 2 b (plus 1/8 for bits; b + 1/8 for bits alone), backward 3 b up to 32 steps,
whose membranes stay in registers. Beyond that backward reads the input twice and keeps a membrane
every 16 steps: 4 b + 1/2 (4 b + 1 in float64).
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .. import _native, _triton
from .._triton import (
    charge_steps,
    keep_past_end,
    lif_fires,
    lif_gradient,
    load_steps,
    pack_words,
    step_mask,
    surrogate_slope,
    zeros_or_load,
)
from ..pack import triton as pack_triton
from . import buffers

_MAX_COUNT = 32  # steps whose membranes, input and gradients fit in registers together


@triton.jit
def _forward(
    x, v_init, s, v_out, bits, neurons, x_pitch,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr, STATE: tl.constexpr,
    STEPS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    pitch, x_pitch = tl.cast(neurons, tl.int64), tl.cast(x_pitch, tl.int64)
    offsets, words = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 32)
    mask, word_mask = offsets < pitch - start, words < (pitch - start) // 32
    v = zeros_or_load(v_init, start + offsets, mask, STATE)
    for first in range(0, STEPS, COUNT):
        currents = load_steps(x + start, x_pitch, offsets, mask, first, COUNT, STEPS)
        history, v = charge_steps(v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD)
        for i in tl.static_range(COUNT):
            at = (first + i) * pitch + start
            fired = lif_fires(history[i], THRESHOLD)
            inside = step_mask(mask, first + i, COUNT, STEPS)
            if s is not None:
                tl.store(s + at + offsets, fired.to(STATE).to(s.dtype.element_ty), inside)
            if bits is not None:
                inside = step_mask(word_mask, first + i, COUNT, STEPS)
                tl.store(bits + at // 32 + words, pack_words(fired, BLOCK // 32), inside)
    if v_out is not None:
        tl.store(v_out + start + offsets, v, mask)


@triton.jit
def _backward(
    x, v_init, gs, gv, gx, gv_init, checkpoints, neurons, x_pitch,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr, STATE: tl.constexpr,
    DETACH: tl.constexpr, SURROGATE: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    STEPS: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * BLOCK
    pitch, x_pitch = tl.cast(neurons, tl.int64), tl.cast(x_pitch, tl.int64)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < pitch - start
    v = zeros_or_load(v_init, start + offsets, mask, STATE)
    if checkpoints is not None:
        for first in range(0, STEPS, COUNT):
            tl.store(checkpoints + first // COUNT * pitch + start + offsets, v, mask)
            currents = load_steps(x + start, x_pitch, offsets, mask, first, COUNT, STEPS)
            history, v = charge_steps(
                v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD
            )
        tl.debug_barrier()
    g = zeros_or_load(gv, start + offsets, mask, STATE)
    for segment in range((STEPS + COUNT - 1) // COUNT):
        first = ((STEPS - 1) // COUNT - segment) * COUNT
        if checkpoints is not None:
            v = tl.load(checkpoints + first // COUNT * pitch + start + offsets, mask, 0.0)
        currents = load_steps(x + start, x_pitch, offsets, mask, first, COUNT, STEPS)
        if gs is not None:
            gradients = load_steps(gs + start, pitch, offsets, mask, first, COUNT, STEPS)
        history, v = charge_steps(v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD)
        for i in tl.static_range(COUNT - 1, -1, -1):
            h = history[i]
            fired, slope = lif_fires(h, THRESHOLD), surrogate_slope(h - THRESHOLD, SURROGATE, A, B)
            through_spike = tl.zeros([BLOCK], STATE) if gs is None else gradients[i].to(STATE)
            gh = lif_gradient(h, fired, slope, through_spike, g, THRESHOLD, HARD, DETACH)
            inside = step_mask(mask, first + i, COUNT, STEPS)
            at = (first + i) * pitch + start
            tl.store(gx + at + offsets, gh.to(gx.dtype.element_ty), inside)
            g = keep_past_end(DECAY * gh, g, mask, first + i, COUNT, STEPS)
    if gv_init is not None:
        tl.store(gv_init + start + offsets, g, mask)


def lif_forward(
    x: Tensor, v_init: Tensor | None, return_state: bool, dense: bool, pack: bool, *neuron: Any
) -> tuple[Tensor, Tensor, Tensor]:
    x, v_init, s, v, bits = buffers.forward(x, v_init, return_state, pack, dense)
    if x.numel():
        steps, neurons = x.shape[0], x[0].numel()
        count = min(steps, 8)
        block = _triton.neurons_per_program(count, x.dtype)
        _forward[(triton.cdiv(neurons, block),)](
            x, v_init, _triton.requested(s), _triton.requested(v), _triton.requested(bits), neurons,
            x.stride(0),
            STATE=_triton.state_type(x.dtype), STEPS=steps, COUNT=count, BLOCK=block,
            **_triton.neuron(*neuron), **_triton.NO_FUSION,
        )  # fmt: skip
    bits = pack_triton.pack_rows(s) if pack and not bits.numel() else bits
    return s if dense else _native.placeholder(x, x.dtype), v, bits


def lif_backward(
    gs: Tensor | None, gv: Tensor | None, x: Tensor, v_init: Tensor | None, *neuron: Any
) -> tuple[Tensor, Tensor]:
    gs, gv, x, v_init, gx, gv_init = buffers.backward(gs, gv, x, v_init)
    if x.numel():
        steps, neurons = x.shape[0], x[0].numel()
        count = _triton.steps_at_once(steps, _MAX_COUNT)
        block = _triton.neurons_per_program(count, x.dtype)
        checkpoints = _triton.checkpoints(gv_init, x, count)
        _backward[(triton.cdiv(neurons, block),)](
            x, v_init, gs, gv, gx, _triton.requested(gv_init), checkpoints, neurons, x.stride(0),
            STATE=_triton.state_type(x.dtype), STEPS=steps, COUNT=count, BLOCK=block,
            **_triton.differentiable_neuron(*neuron), **_triton.NO_FUSION,
        )  # fmt: skip
    return gx, gv_init
