"""The one definition of a LIF step for the Triton kernels: what ``lif_step.h`` is for C++ and CUDA.

Everything here is elementwise, so it serves tiles of any shape. Numbers of the neuron are
constants of the kernel (a Python float given at run time would be float32 in a float64 kernel).
Kernels are launched with :data:`NO_FUSION`: ``decay * v + x`` rounds twice, as in PyTorch.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..surrogate import ATan, Dspike, PiecewiseQuadratic, Rect, Sigmoid

NO_FUSION = {"enable_fp_fusion": False}

_DSPIKE = tl.constexpr(Dspike.name)
_PIECEWISE_QUADRATIC = tl.constexpr(PiecewiseQuadratic.name)
_RECT = tl.constexpr(Rect.name)
_SIGMOID = tl.constexpr(Sigmoid.name)
_ATAN = tl.constexpr(ATan.name)


def neuron(threshold: float, decay: float, reset: str) -> dict[str, object]:
    """Constants of a kernel that charges, fires and resets."""
    return {"THRESHOLD": threshold, "DECAY": decay, "HARD": reset == "hard"}


def differentiable_neuron(
    threshold: float, decay: float, reset: str, detach_reset: bool, surrogate: str, scale: float
) -> dict[str, object]:
    """Constants of a kernel that differentiates; A and B are those of :func:`surrogate_slope`."""
    constant = {
        Dspike.name: 2.0 * scale / math.tanh(scale),  # 4 gamma / (2 tanh gamma)
        PiecewiseQuadratic.name: scale * scale,
        Rect.name: 0.5 / scale,
        ATan.name: math.pi / 2 * scale,
        Sigmoid.name: 0.0,
    }[surrogate]
    return {
        **neuron(threshold, decay, reset),
        "DETACH": detach_reset,
        "SURROGATE": surrogate,
        "A": scale,
        "B": constant,
    }


@triton.jit
def lif_charge(v, x, DECAY: tl.constexpr):
    """Membrane before reset from the membrane after the last reset."""
    return DECAY * v + x


@triton.jit
def lif_fires(h, THRESHOLD: tl.constexpr):
    """NaN compares false, so it never fires."""
    return h >= THRESHOLD


@triton.jit
def lif_reset(h, fired, THRESHOLD: tl.constexpr, HARD: tl.constexpr):
    """``h * (1 - s)`` or ``h - threshold * s``, to the last bit and for infinities and NaN too."""
    if HARD:
        return tl.where(fired, h * 0.0, h)
    else:
        return tl.where(fired, h - THRESHOLD, h)


@triton.jit
def lif_gradient(
    h, fired, slope, gs, gv, THRESHOLD: tl.constexpr, HARD: tl.constexpr, DETACH: tl.constexpr
):
    """Gradient of h from that of the spike (gs) and of the membrane after reset (gv)."""
    if not DETACH:
        if HARD:
            gs -= h * gv
        else:
            gs -= THRESHOLD * gv
    if HARD:
        gv = tl.where(fired, gv * 0.0, gv)
    return gs * slope + gv


@triton.jit
def surrogate_slope(u, SURROGATE: tl.constexpr, A: tl.constexpr, B: tl.constexpr):
    """``ds/du`` at u = h - threshold; A is the surrogate's alpha or gamma."""
    magnitude = tl.abs(u)
    if SURROGATE == _PIECEWISE_QUADRATIC:
        slope = A - B * magnitude
        return tl.where(slope < 0.0, slope * 0.0, slope)
    elif SURROGATE == _RECT:
        return tl.where(magnitude < B, magnitude * 0.0 + A, magnitude * 0.0)
    elif SURROGATE == _ATAN:
        return A * 0.5 / (1.0 + (B * u) * (B * u))
    elif SURROGATE == _SIGMOID:
        # sigma' and, below with twice the argument, a quarter of 1 - tanh^2: e / (1 + e)^2.
        e = tl.exp(-A * magnitude)
        return A * e / ((1.0 + e) * (1.0 + e))
    else:
        tl.static_assert(SURROGATE == _DSPIKE, "unknown surrogate")
        e = tl.exp(-2.0 * A * magnitude)
        return tl.where(magnitude <= 1.0, B * e / ((1.0 + e) * (1.0 + e)), magnitude * 0.0)


# -- Steps of a tile -------------------------------------------------------------------------------


@triton.jit
def step_mask(mask, t, COUNT: tl.constexpr, STEPS: tl.constexpr):
    """``mask``, and nowhere past the last step where COUNT does not divide STEPS."""
    if STEPS % COUNT == 0:
        return mask
    else:
        return mask & (tl.full(mask.shape, t, tl.int32) < STEPS)


@triton.jit
def keep_past_end(new, old, mask, t, COUNT: tl.constexpr, STEPS: tl.constexpr):
    """``new``, or ``old`` where step ``t`` does not exist."""
    if STEPS % COUNT == 0:
        return new
    else:
        return tl.where(step_mask(mask, t, COUNT, STEPS), new, old)


@triton.jit
def load_steps(pointer, pitch, offsets, mask, first, COUNT: tl.constexpr, STEPS: tl.constexpr):
    """The tile at COUNT steps from ``first`` on, all loads in flight together; 0 past the end."""
    tiles = ()
    for i in tl.static_range(COUNT):
        inside = step_mask(mask, first + i, COUNT, STEPS)
        tile = tl.load(pointer + (first + i) * pitch + offsets, inside, 0.0)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def zeros_or_load(pointer, offsets, mask, STATE: tl.constexpr):
    """A membrane or its gradient; ``pointer`` is None where there is none."""
    if pointer is None:
        return tl.zeros(offsets.shape, STATE)
    else:
        return tl.load(pointer + offsets, mask, 0.0)


@triton.jit
def charge_steps(
    v, currents, mask, first, COUNT: tl.constexpr, STEPS: tl.constexpr,
    THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr,
):  # fmt: skip
    """Membranes before reset over COUNT steps, and the one after the last that exists."""
    history = ()
    for i in tl.static_range(COUNT):
        h = lif_charge(v, currents[i].to(v.dtype), DECAY)
        history = history + (h,)  # type: ignore[assignment]  # noqa: RUF005
        after = lif_reset(h, lif_fires(h, THRESHOLD), THRESHOLD, HARD)
        v = keep_past_end(after, v, mask, first + i, COUNT, STEPS)
    return history, v


@triton.jit
def pack_words(fired, WORDS: tl.constexpr, LANES: tl.constexpr = 32):
    """Spikes ``[LANES WORDS]``, one after the other in memory, as int32 words ``[WORDS]``."""
    lanes = fired.reshape(WORDS, LANES).to(tl.int32) << tl.arange(0, LANES)[None, :]
    return tl.sum(lanes, 1)


# -- Launching -------------------------------------------------------------------------------------


def steps_at_once(steps: int, most: int) -> int:
    """How many steps a kernel unrolls: all of them up to ``most``, whose membranes (and whatever
    goes with them) fit in registers."""
    return steps if steps <= most else min(most, 16)


def neurons_per_program(count: int, dtype: torch.dtype) -> int:
    """128 threads, each with as many neurons as leave room for ``count`` membranes of them."""
    each = 8 if count <= 8 else 4 if count <= 16 else 2
    return 128 * (max(each // 2, 1) if dtype == torch.float64 else each)


def checkpoints(gv: Tensor, x: Tensor, count: int) -> Tensor | None:
    """Room for the membrane before every unrolled run of steps, if there is more than one."""
    runs = triton.cdiv(x.shape[0], count)
    return gv.new_empty((runs, x[0].numel())) if runs > 1 else None


def state_type(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


def requested(result: Tensor) -> Tensor | None:
    """``result``, or None if it is a placeholder: kernels then leave it out."""
    return result if result.numel() else None
