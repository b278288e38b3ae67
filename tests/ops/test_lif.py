"""lif against scalar loops, its own reference, and what it promises to keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ops_calls import check_nan, check_threshold
from support.ops_calls import run_lif as run
from support.ops_cases import (
    BACKENDS,
    DTYPES,
    KERNELS,
    LAYOUTS,
    OPTIONS,
    PLACES,
    SURROGATES,
    TOLERANCE,
    check_results,
    count_saved,
    error,
    scalar_lif,
)
from support.pairs import pairwise

from stmixer_ops import functional as F
from stmixer_ops import surrogate as sg


@pairwise(backend=BACKENDS, option=OPTIONS, surrogate=SURROGATES)
def test_scalar_loops(backend, option, surrogate):
    steps, neurons, (reset, detach) = 6, 40, option
    options = {
        "threshold": 0.7,
        "decay": 0.9,
        "reset": reset,
        "detach_reset": detach,
        "surrogate": surrogate,
    }
    x = torch.randn(steps, neurons, dtype=torch.float64)
    v_init, gv = torch.randn(2, neurons, dtype=torch.float64)
    gs = torch.randn_like(x)
    s, v, _, gx, gv_init = run(x, v_init, gs, gv, backend=backend, **options)
    for m in range(neurons):
        spikes, last, grad, grad_init = scalar_lif(
            x[:, m].tolist(), gs[:, m].tolist(), gv[m].item(), v_init[m].item(), **options
        )
        assert s[:, m].tolist() == spikes
        assert v[m].item() == pytest.approx(last, rel=1e-12)
        assert gx[:, m].tolist() == pytest.approx(grad, rel=1e-11, abs=1e-13)
        assert gv_init[m].item() == pytest.approx(grad_init, rel=1e-11, abs=1e-13)


@pairwise(kernels=PLACES, layout=LAYOUTS, dtype=DTYPES, decay=[0.5, 0.9], option=OPTIONS)
def test_kernels_are_the_reference(kernels, layout, dtype, decay, option):
    """Spikes, state and bits to the last bit; a contracted multiply-add shows at decay 0.9."""
    x = LAYOUTS[layout](torch.randn(5, 3, 7, 9, 7).to(dtype))
    state = torch.float64 if dtype == torch.float64 else torch.float32
    v_init, gv = torch.randn(2, 3, 7, 9, 7, dtype=state)
    gs = torch.randn(x.shape).to(dtype)
    options = dict(zip(("reset", "detach_reset"), option, strict=True)) | {"decay": decay}
    native = run(x, v_init, gs, gv, backend=kernels, **options)
    expected = run(x, v_init, gs, gv, backend="reference", **options)
    check_results(native, expected, TOLERANCE[dtype], exact=3)


@pairwise(kernels=PLACES, steps=[1, 2, 31, 1000], neurons=[1, 7, 63, 64, 1025])
def test_every_length(kernels, steps, neurons):
    if kernels == "triton":
        steps = min(steps, 100)  # its interpreter is slow; 32 is where the kernel changes
    x = torch.randn(steps, neurons)
    native, expected = run(x, backend=kernels, decay=0.9), run(x, backend="reference", decay=0.9)
    assert torch.equal(native[0], expected[0])
    assert torch.equal(native[2], expected[2])
    assert error(native[3], expected[3]) <= TOLERANCE[torch.float32]


def test_all_isas_and_thread_counts_agree(same_bits_everywhere):
    x, gs = torch.randn(2, 4, 8, 33, 64)
    same_bits_everywhere(lambda: run(x, gs=gs, decay=0.9, backend="cpu"))


def test_one_image_repeated_over_time(backend):
    image = torch.randn(3, 8, 7).requires_grad_()
    s = F.lif(image.expand(4, 3, 8, 7), backend=backend)
    expected = F.lif(image.expand(4, 3, 8, 7), backend="reference")
    assert torch.equal(s, expected)
    (gradient,) = torch.autograd.grad(s.sum(), image)
    (wanted,) = torch.autograd.grad(expected.sum(), image)
    assert error(gradient, wanted) <= 1e-5


def test_output_keeps_the_strides(kernels):
    x = LAYOUTS["channels_last"](torch.randn(2, 3, 8, 5, 7))
    assert F.lif(x, backend=kernels).stride() == x.stride()


@pairwise(dtype=DTYPES, kernels=PLACES)
def test_a_membrane_at_the_threshold_fires(dtype, kernels):
    check_threshold(dtype, kernels)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_passes_and_never_fires(backend, dtype):
    check_nan(dtype, backend)


def test_infinite_input_matches_the_reference(kernels):
    x = torch.tensor([[float("inf")], [float("-inf")], [1.0]])
    native, expected = (
        F.lif(x, return_state=True, backend=kernels),
        F.lif(x, return_state=True, backend="reference"),
    )
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(native, expected, strict=True)
    )


def test_empty_batch(kernels):
    x = torch.empty(4, 0, 8, requires_grad=True)
    s = F.lif(x, backend=kernels)
    s.sum().backward()
    assert s.shape == x.shape == x.grad.shape


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_shape_stride_and_option(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from(DTYPES))
    options = {
        "decay": data.draw(st.sampled_from([0.25, 0.9, 1.0])),
        "threshold": data.draw(st.sampled_from([0.5, 1.0])),
        "reset": data.draw(st.sampled_from(["hard", "soft"])),
        "detach_reset": data.draw(st.booleans()),
        "surrogate": data.draw(st.sampled_from(SURROGATES)),
    }
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    back = [order.index(i) for i in range(len(order))]
    x = torch.randn([shape[i] for i in order], generator=generator).to(dtype).permute(back)
    if data.draw(st.booleans()):
        x = x.flip(-1)[..., :: data.draw(st.integers(1, 2))]
    kernels = data.draw(st.sampled_from(KERNELS))
    native, expected = run(x, backend=kernels, **options), run(x, backend="reference", **options)
    check_results(native, expected, TOLERANCE[dtype], exact=3)


@pairwise(
    shape=[(3, 2, 64), (1, 5, 32), (9, 3, 160), (2, 3, 33), (2, 0, 32)],
    dtype=[torch.float32, torch.bfloat16],
    kernels=PLACES,
)
def test_packed_only(shape, dtype, kernels):
    x = torch.randn(shape).to(dtype).requires_grad_()
    v_init = torch.randn(shape[1:])
    s, v, bits = F.lif(x, v_init=v_init, return_state=True, pack=True, backend=kernels)
    only, state = F.lif(x, v_init=v_init, return_state=True, pack="only", backend=kernels)
    assert torch.equal(only, bits) and torch.equal(state, v)
    assert s.requires_grad and not only.requires_grad and not state.requires_grad
    assert torch.equal(F.lif(x, v_init=v_init, pack="only", backend="reference"), bits)


def test_packed_only_of_another_layout(kernels):
    x = torch.randn(3, 32, 4, 64).transpose(1, 3)
    expected = F.pack_spikes(F.lif(x, backend="reference"))
    assert torch.equal(F.lif(x, pack="only", backend=kernels), expected)


def test_pack_is_checked():
    with pytest.raises(ValueError, match="pack must be False, True or 'only', got 'none'"):
        F.lif(torch.zeros(2, 3), pack="none")


def test_saves_its_input_and_nothing_else(kernels):
    x = torch.randn(4, 8, 32, 64, dtype=torch.bfloat16).requires_grad_()
    with count_saved() as saved:
        F.lif(x, pack=True, backend=kernels)
        assert saved() == {x.untyped_storage().data_ptr(): x.numel() * 2}


def test_custom_surrogate_runs_on_the_reference():
    class Triangle(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return (u >= 0).to(u.dtype)

        @staticmethod
        def backward(ctx, g):
            return g * (1 - ctx.saved_tensors[0].abs()).clamp(min=0)

    x = torch.randn(4, 50, dtype=torch.float64, requires_grad=True)
    (own,) = torch.autograd.grad(F.lif(x, surrogate=Triangle.apply).sum(), x)
    (same,) = torch.autograd.grad(F.lif(x, surrogate=sg.PiecewiseQuadratic(1.0)).sum(), x)
    assert error(own, same) <= 1e-12
    with pytest.raises(RuntimeError, match="cannot run this call: the surrogate"):
        F.lif(x, surrogate=Triangle.apply, backend="cpu")


def test_subclass_of_a_surrogate_keeps_its_own_derivative():
    class Flat(sg.Rect):
        def derivative(self, u):
            return torch.ones_like(u)

    x = torch.randn(1, 50, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.lif(x, surrogate=Flat(), detach_reset=True).sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("reset", "none", "reset must be 'hard' or 'soft', got 'none'"),
        ("decay", 0.0, r"decay must lie in \(0, 1\].*got 0.0"),
        ("decay", 1.5, r"decay must lie in \(0, 1\].*got 1.5"),
        ("threshold", float("nan"), "threshold must be a finite number, got nan"),
        ("surrogate", 3, "surrogate must be .*got 3"),
        ("v_init", torch.zeros(4), r"v_init must have the shape of one time step, \(3,\)"),
        ("v_init", torch.zeros(3, dtype=torch.float64), "v_init must be torch.float32"),
        ("backend", "gpu", "backend must be one of cuda, triton, cpu, reference, got 'gpu'"),
        ("backend", "cuda", "lif: backend='cuda' cannot run this call"),
    ],
)
def test_bad_arguments_are_named(argument, value, message):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        F.lif(torch.zeros(2, 3), **{argument: value})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(0, 3), r"x must have T >= 1 time steps, got shape \(0, 3\)"),
        (torch.zeros(2, 3, dtype=torch.int32), "x must be float32.*got torch.int32"),
        (torch.tensor(1.0), "x must have at least 1 dimensions"),
        ([1.0], "x must be a tensor, got list"),
    ],
)
def test_bad_input_is_named(x, message):
    with pytest.raises((ValueError, TypeError), match=message):
        F.lif(x)


@pytest.mark.parametrize("kind", [sg.Dspike, sg.PiecewiseQuadratic, sg.Rect, sg.Sigmoid, sg.ATan])
def test_surrogates_refuse_bad_scales(kind):
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"{kind.__name__}: .* positive finite"):
            kind(value)
