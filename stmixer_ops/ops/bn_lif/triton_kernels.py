"""Triton kernels of BN + residual + LIF.

A step is ``[outer, channels, inner]`` in memory, dense and in that order: ``inner`` is 1 where
channels are innermost. A tile has two axes, the second of which is contiguous: positions by
channels where they are innermost, channels by positions elsewhere. All sums over positions are made
in one order: lanes over the tiles and steps of a program, then the lanes, then the programs, in
float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

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


@triton.jit
def _channels(LAST: tl.constexpr, CH: tl.constexpr):
    """The channels of this program's tiles, as a row where they are innermost, else as a column."""
    channel = tl.program_id(1) * CH + tl.arange(0, CH)
    if LAST:
        return channel[None, :]
    else:
        return channel[:, None]


@triton.jit
def _tile(tile, channel, channels, inner, positions, LAST: tl.constexpr, POS: tl.constexpr):
    """Offsets into a step, and which of them exist."""
    position = tl.cast(tile, tl.int64) * POS + tl.arange(0, POS)
    if LAST:
        position = position[:, None]
        offsets = position * channels + channel
    else:
        position = position[None, :]
        start = position // inner * channels * inner + position % inner
        offsets = start + tl.cast(channel, tl.int64) * inner
    return offsets, (channel < channels) & (position < positions)


@triton.jit
def _per_channel(pointer, channel, channels, default, STATE: tl.constexpr):
    """A parameter of each channel, ``default`` where there is none."""
    if pointer is None:
        return tl.full(channel.shape, default, STATE)
    else:
        return tl.load(pointer + channel, channel < channels, default)


@triton.jit
def _invstd(var, channel, channels, EPS: tl.constexpr):
    return 1.0 / tl.sqrt(tl.load(var + channel, channel < channels, 1.0) + EPS)


@triton.jit
def _over_positions(lanes, LAST: tl.constexpr):
    """Sum of a tile over its positions: one value per channel."""
    return tl.sum(lanes, 0 if LAST else 1)


@triton.jit
def _store_partials(partials, first, second, channels, LAST: tl.constexpr, CH: tl.constexpr):
    """This program's row of both sums, ``partials [2, programs, channels]``."""
    channel = tl.program_id(1) * CH + tl.arange(0, CH)
    row = tl.program_id(0) * channels + channel
    tl.store(partials + row, _over_positions(first, LAST), channel < channels)
    partials += tl.num_programs(0) * channels
    tl.store(partials + row, _over_positions(second, LAST), channel < channels)


@triton.jit
def _sum_partials(partials, programs, channels, channel):
    """Both sums over the programs, in float64."""
    first = tl.zeros(channel.shape, tl.float64)
    second = tl.zeros(channel.shape, tl.float64)
    for begin in range(0, programs, 64):
        program = begin + tl.arange(0, 64)[:, None]
        row = program * channels + channel[None, :]
        inside = (program < programs) & (channel < channels)[None, :]
        first += tl.sum(tl.load(partials + row, inside, 0.0).to(tl.float64), 0)
        row += programs * channels
        second += tl.sum(tl.load(partials + row, inside, 0.0).to(tl.float64), 0)
    return first, second


@triton.jit
def _pivot(x, channel, channels, inner):
    """The first value of each channel."""
    return tl.load(x + tl.cast(channel, tl.int64) * inner, channel < channels, 0.0)


@triton.jit
def _normalise(values, centre, scale, shift, COUNT: tl.constexpr):
    tiles = ()
    for i in tl.static_range(COUNT):
        tile = (values[i].to(centre.dtype) - centre) * scale + shift
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit(do_not_specialize=["tiles"])
def statistics(
    x, partials, x_pitch, channels, inner, positions, tiles,
    STATE: tl.constexpr, STEPS: tl.constexpr, COUNT: tl.constexpr,
    LAST: tl.constexpr, CH: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """Sums of x and of its square, both relative to the channel's first value."""
    x_pitch = tl.cast(x_pitch, tl.int64)
    channel = _channels(LAST, CH)
    pivot = _pivot(x, channel, channels, inner).to(STATE)
    first = tl.zeros([POS, CH] if LAST else [CH, POS], STATE)
    second = first
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, mask = _tile(tile, channel, channels, inner, positions, LAST, POS)
        for begin in range(0, STEPS, COUNT):
            values = load_steps(x, x_pitch, offsets, mask, begin, COUNT, STEPS)
            for i in tl.static_range(COUNT):
                inside = step_mask(mask, begin + i, COUNT, STEPS)
                centred = tl.where(inside, values[i].to(STATE) - pivot, 0.0)
                first += centred
                second += centred * centred
    _store_partials(partials, first, second, channels, LAST, CH)


@triton.jit(do_not_specialize=["programs", "count"])
def moments(x, partials, mean, var, programs, count, channels, inner, CH: tl.constexpr):
    """Mean and biased variance of each channel."""
    channel = tl.program_id(0) * CH + tl.arange(0, CH)
    first, second = _sum_partials(partials, programs, channels, channel)
    offset = first / count
    spread = second / count - offset * offset
    pivot = _pivot(x, channel, channels, inner).to(tl.float64)
    STATE: tl.constexpr = mean.dtype.element_ty
    tl.store(mean + channel, (pivot + offset).to(STATE), channel < channels)
    # Rounding can make the variance of a constant channel negative; NaN stays NaN.
    tl.store(var + channel, tl.where(spread < 0.0, 0.0, spread).to(STATE), channel < channels)


@triton.jit
def forward(
    x, weight, bias, mean, var, residual, v_init, total, s, v_out, bits,
    x_pitch, residual_pitch, channels, inner, positions,
    EPS: tl.constexpr, THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr,
    STATE: tl.constexpr, STEPS: tl.constexpr, COUNT: tl.constexpr,
    LAST: tl.constexpr, CH: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    x_pitch, residual_pitch = tl.cast(x_pitch, tl.int64), tl.cast(residual_pitch, tl.int64)
    pitch = tl.cast(positions, tl.int64) * channels
    channel = _channels(LAST, CH)
    offsets, mask = _tile(tl.program_id(0), channel, channels, inner, positions, LAST, POS)
    centre = _per_channel(mean, channel, channels, 0.0, STATE)
    scale = _per_channel(weight, channel, channels, 1.0, STATE)
    scale *= _invstd(var, channel, channels, EPS)
    shift = _per_channel(bias, channel, channels, 0.0, STATE)
    if bits is not None:  # 32 neighbours share a word, and with it their place in the mask
        word_offsets = tl.min(offsets.reshape(CH * POS // 32, 32), 1) // 32
        word_mask = tl.max(mask.to(tl.int32).reshape(CH * POS // 32, 32), 1) > 0
    v = zeros_or_load(v_init, offsets, mask, STATE)
    for first in range(0, STEPS, COUNT):
        values = load_steps(x, x_pitch, offsets, mask, first, COUNT, STEPS)
        if residual is not None:
            others = load_steps(residual, residual_pitch, offsets, mask, first, COUNT, STEPS)
        normalised, currents = _normalise(values, centre, scale, shift, COUNT), ()
        for i in tl.static_range(COUNT):
            current = normalised[i]
            if residual is not None:
                current += others[i].to(STATE)
            if total is not None:
                current = current.to(total.dtype.element_ty)
                inside = step_mask(mask, first + i, COUNT, STEPS)
                tl.store(total + (first + i) * pitch + offsets, current, inside)
            currents = currents + (current,)  # type: ignore[assignment]  # noqa: RUF005
        history, v = charge_steps(v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD)
        for i in tl.static_range(COUNT):
            fired = lif_fires(history[i], THRESHOLD)
            inside = step_mask(mask, first + i, COUNT, STEPS)
            at = (first + i) * pitch + offsets
            tl.store(s + at, fired.to(STATE).to(s.dtype.element_ty), inside)
            if bits is not None:
                there = step_mask(word_mask, first + i, COUNT, STEPS)
                words = pack_words(fired, CH * POS // 32)
                tl.store(bits + (first + i) * pitch // 32 + word_offsets, words, there)
    if v_out is not None:
        tl.store(v_out + offsets, v, mask)


@triton.jit(do_not_specialize=["tiles"])
def backward(
    gs, gsum, gv, x, total, v_init, weight, bias, mean, var, g, gv_init, checkpoints, partials,
    x_pitch, channels, inner, positions, tiles,
    EPS: tl.constexpr, THRESHOLD: tl.constexpr, DECAY: tl.constexpr, HARD: tl.constexpr,
    DETACH: tl.constexpr, SURROGATE: tl.constexpr, A: tl.constexpr, B: tl.constexpr,
    STATE: tl.constexpr, STEPS: tl.constexpr, COUNT: tl.constexpr,
    LAST: tl.constexpr, CH: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """Gradient g of what the LIF integrates, and per channel the sums of g and of g times the
    normalised x."""
    x_pitch = tl.cast(x_pitch, tl.int64)
    pitch = tl.cast(positions, tl.int64) * channels
    channel = _channels(LAST, CH)
    centre = _per_channel(mean, channel, channels, 0.0, STATE)
    invstd = _invstd(var, channel, channels, EPS)
    scale = _per_channel(weight, channel, channels, 1.0, STATE) * invstd
    shift = _per_channel(bias, channel, channels, 0.0, STATE)
    sums = tl.zeros([POS, CH] if LAST else [CH, POS], STATE)
    projections = sums
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        offsets, mask = _tile(tile, channel, channels, inner, positions, LAST, POS)
        v = zeros_or_load(v_init, offsets, mask, STATE)
        if checkpoints is not None:
            for first in range(0, STEPS, COUNT):
                tl.store(checkpoints + first // COUNT * pitch + offsets, v, mask)
                if total is not None:
                    currents = load_steps(total, pitch, offsets, mask, first, COUNT, STEPS)
                else:
                    values = load_steps(x, x_pitch, offsets, mask, first, COUNT, STEPS)
                    currents = _normalise(values, centre, scale, shift, COUNT)
                _, v = charge_steps(v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD)
            tl.debug_barrier()
        gm = zeros_or_load(gv, offsets, mask, STATE)
        for segment in range((STEPS + COUNT - 1) // COUNT):
            first = ((STEPS - 1) // COUNT - segment) * COUNT
            if checkpoints is not None:
                v = tl.load(checkpoints + first // COUNT * pitch + offsets, mask, 0.0)
            values = load_steps(x, x_pitch, offsets, mask, first, COUNT, STEPS)
            if total is not None:
                currents = load_steps(total, pitch, offsets, mask, first, COUNT, STEPS)
            else:
                currents = _normalise(values, centre, scale, shift, COUNT)
            if gs is not None:
                spike_gradients = load_steps(gs, pitch, offsets, mask, first, COUNT, STEPS)
            if gsum is not None:
                sum_gradients = load_steps(gsum, pitch, offsets, mask, first, COUNT, STEPS)
            history, v = charge_steps(
                v, currents, mask, first, COUNT, STEPS, THRESHOLD, DECAY, HARD
            )
            for i in tl.static_range(COUNT - 1, -1, -1):
                h = history[i]
                fired = lif_fires(h, THRESHOLD)
                slope = surrogate_slope(h - THRESHOLD, SURROGATE, A, B)
                through_spike = h * 0.0 if gs is None else spike_gradients[i].to(STATE)
                gh = lif_gradient(h, fired, slope, through_spike, gm, THRESHOLD, HARD, DETACH)
                gm = keep_past_end(DECAY * gh, gm, mask, first + i, COUNT, STEPS)
                gt = gh if gsum is None else gh + sum_gradients[i].to(STATE)
                inside = step_mask(mask, first + i, COUNT, STEPS)
                tl.store(g + (first + i) * pitch + offsets, gt.to(g.dtype.element_ty), inside)
                gt = tl.where(inside, gt, 0.0)
                sums += gt
                projections += gt * ((values[i].to(STATE) - centre) * invstd)
        if gv_init is not None:
            tl.store(gv_init + offsets, gm, mask)
    _store_partials(partials, sums, projections, channels, LAST, CH)


@triton.jit(do_not_specialize=["programs"])
def parameter_gradients(partials, gweight, gbias, programs, channels, CH: tl.constexpr):
    channel = tl.program_id(0) * CH + tl.arange(0, CH)
    sums, projections = _sum_partials(partials, programs, channels, channel)
    STATE: tl.constexpr = gbias.dtype.element_ty
    tl.store(gbias + channel, sums.to(STATE), channel < channels)
    tl.store(gweight + channel, projections.to(STATE), channel < channels)


@triton.jit(do_not_specialize=["count"])
def input_gradient(
    g, x, weight, mean, var, gweight, gbias, gx, x_pitch, count, channels, inner, positions,
    TRAINING: tl.constexpr, EPS: tl.constexpr, STATE: tl.constexpr, STEPS: tl.constexpr,
    COUNT: tl.constexpr, LAST: tl.constexpr, CH: tl.constexpr, POS: tl.constexpr,
):  # fmt: skip
    """``gx`` from ``g``. Batch statistics depend on x too: the mean of g, and its projection on x,
    drop out."""
    x_pitch = tl.cast(x_pitch, tl.int64)
    pitch = tl.cast(positions, tl.int64) * channels
    channel = _channels(LAST, CH)
    offsets, mask = _tile(tl.program_id(0), channel, channels, inner, positions, LAST, POS)
    invstd = _invstd(var, channel, channels, EPS)
    scale = _per_channel(weight, channel, channels, 1.0, STATE) * invstd
    if TRAINING:
        centre = _per_channel(mean, channel, channels, 0.0, STATE)
        mean_g = _per_channel(gbias, channel, channels, 0.0, STATE) / count
        slope = _per_channel(gweight, channel, channels, 0.0, STATE) / count * invstd
    for first in range(0, STEPS, COUNT):
        gradients = load_steps(g, pitch, offsets, mask, first, COUNT, STEPS)
        if TRAINING:
            values = load_steps(x, x_pitch, offsets, mask, first, COUNT, STEPS)
        for i in tl.static_range(COUNT):
            gradient = gradients[i].to(STATE)
            if TRAINING:
                gradient -= mean_g + slope * (values[i].to(STATE) - centre)
            inside = step_mask(mask, first + i, COUNT, STEPS)
            gradient = (gradient * scale).to(gx.dtype.element_ty)
            tl.store(gx + (first + i) * pitch + offsets, gradient, inside)
