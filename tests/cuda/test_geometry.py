"""How work is laid out over the threads of a GPU: every element exactly once, whatever its size."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cuda_host import library

from stmixer_ops import _C

NEURON = _C.Neuron(1.0, 0.5, True, False, 0, 2.5)
HUGE = 2**31 + 77
INT64 = ctypes.c_int64


def forward(neurons, steps=1, dtype=2, x_step=None, x=0, v_init=0, s=0):
    step = neurons if x_step is None else x_step
    return _C.LifForward(dtype, steps, neurons, step, NEURON, x, v_init, s, 0, 0)


def blocks(call, launch=0):
    return call.cuda_plan(0)[launch][2]


def is_vector(call):
    """The flag behind the parameters of the op, which are padded to 8 bytes."""
    plain = call.cuda_plan(0)[0][5]
    return bool(plain[-8])


@pytest.mark.compiles
@pytest.mark.parametrize("neurons", [1, 7, 8, 9, 1023, 1024, 1025, 123457, HUGE])
def test_lif_takes_every_neuron_once(neurons):
    assert library().covers_lif(INT64(neurons), blocks(forward(neurons))) == 1


@pytest.mark.compiles
@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize(
    ("outer", "channels", "inner"),
    [
        (1, 1, 1),
        (1, 3, 7),
        (5, 1, 63),
        (64, 384, 1),
        (16384, 7, 1),
        (9, 1536, 1),
        (2, 16, 49),
        (300, 24, 64),
        (1, 2, 100000),
        (70000, 5, 3),
        (1, 70000, 2),
    ],
)
def test_channels_take_every_neuron_once(outer, channels, inner, least):
    sizes = [INT64(n) for n in (outer * channels * inner, channels, inner, least)]
    assert library().covers_channels(*sizes) == 1


@pytest.mark.compiles
def test_channels_take_more_than_32_bits_count():
    """2^31 elements with the channels innermost, and with them outermost."""
    for channels, inner in ((64, 1), (2, 2**30)):
        sizes = [INT64(n) for n in (2**31, channels, inner, 4)]
        assert library().covers_channels(*sizes) == 1


@pytest.mark.compiles
@given(outer=st.integers(1, 200), channels=st.integers(1, 40), inner=st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_any_channel_layout(outer, channels, inner):
    sizes = [INT64(n) for n in (outer * channels * inner, channels, inner, 4)]
    assert library().covers_channels(*sizes) == 1


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("rows", "length"), [(1, 1), (3, 7), (5, 31), (5, 32), (7, 33), (2, 63), (9, 600), (3, HUGE)]
)
def test_packing_takes_every_spike_once_and_writes_every_byte(rows, length):
    call = _C.PackRows(2, rows, length, 0, 0)
    assert library().covers_rows(INT64(rows), INT64(length), blocks(call)) == 1


def test_more_blocks_than_a_gpu_has_are_refused():
    with pytest.raises(ValueError, match="lif_forward_bf16: .* blocks are more than a GPU can"):
        forward(2**42).cuda_plan(0)


def test_vectors_need_every_step_at_a_multiple_of_16_bytes():
    assert is_vector(forward(4096, steps=4, x=1 << 20, s=1 << 21))
    assert is_vector(forward(4096, steps=4, x_step=0))
    assert is_vector(forward(7))  # one step: only its start matters
    assert not is_vector(forward(4096, steps=4, x=(1 << 20) + 2))
    assert not is_vector(forward(4096, steps=4, s=(1 << 20) + 8))
    assert not is_vector(forward(4096, v_init=(1 << 20) + 4))
    assert not is_vector(forward(4100, steps=4))  # 8,200 bytes a step
    assert is_vector(forward(4100, steps=4, dtype=0))  # 16,400
    assert not is_vector(forward(4096, steps=4, x_step=4097))


def test_sums_do_not_depend_on_anything_but_sizes():
    """Where a tensor lies changes how it is read, never how sums are cut."""
    size = 64 * 384
    plans = [
        _C.BnLifForward(
            2, 4, size, size, 0, 384, 1, NEURON, 1e-5, *[0] * 4, True, x, *[0] * 6
        ).cuda_plan(0)
        for x in (0, 2)
    ]
    sums = [[launch[1:5] for launch in plan if "lif" not in launch[1]] for plan in plans]
    assert sums[0] == sums[1] and len(sums[0]) == 2


def test_short_runs_stay_in_registers():
    for dtype, most in ((0, 8), (1, 2), (2, 8), (3, 8)):
        for steps in (1, most, most + 1):
            call = _C.LifBackward(dtype, steps, 4096, 4096, NEURON, *[0] * 6)
            ((_, _, _, _, shared, _),) = call.cuda_plan(0)
            assert (shared > 0) == (steps > most)
    for dtype, most in ((0, 8), (1, 1), (2, 8), (3, 8)):
        for steps in (1, 4, most, most + 1):
            call = _C.BnLifBackward(
                dtype, steps, 4096, 4096, 8, 1, NEURON, 1e-5, *[0] * 4, True, *[0] * 11
            )
            assert (call.cuda_plan(0)[0][4] > 0) == (steps > most)
