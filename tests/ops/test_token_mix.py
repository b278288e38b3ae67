"""token_mix and token_mix_lif against explicit sums in float64."""

from __future__ import annotations

import pytest
import torch
from support.ops_calls import flips_outside, run_token_mix_lif
from support.ops_cases import (
    BACKENDS,
    LAYOUTS,
    PLACES,
    TOLERANCE,
    check_results,
    count_saved,
    error,
)
from support.pairs import pairwise

from stmixer_ops import functional as F

SHAPES = [
    (1, 2, 6, 7, 2),
    (3, 1, 32, 64, 2),
    (2, 2, 40, 63, 1),
    (2, 1, 34, 100, 17),
    (1, 1, 5, 1, 5),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def spikes(shape, rate=0.2):
    return (torch.rand(shape) < rate).float()


def brute_force(s, weight):
    """One head and one output token at a time."""
    channels, tokens = s.shape[2:]
    per_head = channels // weight.shape[0]
    y = torch.zeros(s.shape, dtype=torch.float64)
    for c in range(channels):
        for m in range(tokens):
            y[:, :, c, m] = (s[:, :, c].double() * weight[c // per_head, m].double()).sum(-1)
    return y


@pairwise(shape=SHAPES, layout=LAYOUTS, backend=BACKENDS, values=[spikes, torch.randn])
def test_brute_force(shape, layout, backend, values):
    *sizes, heads = shape
    weight = torch.randn(heads, sizes[-1], sizes[-1])
    s = LAYOUTS[layout](values(sizes))
    assert error(F.token_mix(s, weight, backend=backend), brute_force(s, weight)) <= 3e-6


@pairwise(
    kernels=PLACES,
    shape=SHAPES[:4],
    dtype=DTYPES,
    layout=["contiguous", "channels_last"],
    reset=["hard", "soft"],
)
def test_lif_epilogue_is_the_reference(kernels, shape, dtype, layout, reset):
    *sizes, heads = shape
    if kernels == "triton" and heads > 3:  # interpreted, every head takes as long as the first
        sizes[2], heads = sizes[2] // heads * 3, 3
    state = torch.float64 if dtype == torch.float64 else torch.float32
    s = LAYOUTS[layout](spikes(sizes).to(dtype))
    weight = (torch.randn(heads, sizes[-1], sizes[-1]) / 4).to(dtype)
    v_init, gv = torch.randn(2, *sizes[1:], dtype=state)
    gs = torch.randn(sizes)
    native, expected = (
        run_token_mix_lif(s, weight, v_init, gs, gv, backend, decay=0.9, reset=reset)
        for backend in (kernels, "reference")
    )
    check_results(native, expected, 10 * TOLERANCE[dtype], exact=2)


def test_float32_obeys_the_local_rule(kernels):
    s, weight = spikes((4, 4, 24, 64), 0.16), torch.randn(4, 64, 64) / 3
    out = F.token_mix_lif(s, weight, backend=kernels).double()
    assert flips_outside(out, brute_force(s, weight), decay=0.5) == 0


def test_bit_identical_over_isas_and_threads(same_bits_everywhere):
    s, weight = spikes((3, 8, 48, 64)), torch.randn(2, 64, 64)
    same_bits_everywhere(lambda: [F.token_mix(s, weight, backend="cpu")])
    v_init = torch.randn(s.shape[1:]).requires_grad_()

    def run():
        results = F.token_mix_lif(
            s, weight / 3, v_init=v_init, return_state=True, pack=True, backend="cpu"
        )
        return [*results, torch.autograd.grad(results[1].sum(), v_init)[0]]

    same_bits_everywhere(run)


def test_recomputed_membrane_is_that_of_forward():
    """Backward must see the spikes forward made, or the reset gradient is wrong at a flip."""
    s, weight = spikes((4, 2, 16, 48)).requires_grad_(), torch.randn(2, 48, 48, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float32):
        a, b = s.detach().to(dtype).requires_grad_(), weight.detach().to(dtype).requires_grad_()
        fused = F.token_mix_lif(a, b, backend="cpu")
        (gradient,) = torch.autograd.grad(fused.float().sum(), b)
        wide = b.detach().float().requires_grad_()
        unfused = F.lif(F.token_mix(a.detach().float(), wide, backend="cpu"), backend="cpu")
        assert torch.equal(fused.float(), unfused)
        (wanted,) = torch.autograd.grad(unfused.sum(), wide)
        assert error(gradient, wanted) <= TOLERANCE[dtype]


@pairwise(kernels=PLACES, steps=[1, 3, 8, 9], tokens=[15, 70])
def test_backward_sums_as_forward_did(kernels, steps, tokens):
    """Membranes at the threshold or a rounding below: another order of summation turns spikes.

    The last step alone has input, so the gradient of the state is 0 where it fired, else 1.
    """
    s, weight = spikes((steps, 1, 34, tokens)), torch.randn(2, tokens, tokens)
    s[:-1] = 0
    v_init = 1 - F.token_mix(s, weight, backend=kernels)[-1]
    below = torch.rand(v_init.shape) < 0.5
    v_init[below] = v_init[below].nextafter(torch.tensor(-9.0))
    early = v_init >= 1  # would fire before
    v_init[early] = 0
    out, v = F.token_mix_lif(
        s, weight, v_init=v_init.requires_grad_(), decay=1.0, detach_reset=True,
        return_state=True, backend=kernels,
    )  # fmt: skip
    (gradient,) = torch.autograd.grad(v.sum(), v_init)
    assert 0.3 < out[-1][~early].mean() < 0.9
    assert torch.equal(gradient, 1 - out[-1])


@pytest.mark.parametrize("steps", [5, 8, 9, 16])
def test_steps_in_registers_and_beyond(kernels, steps):
    s, weight = spikes((steps, 1, 4, 33)), torch.randn(2, 33, 33) / 4
    gs, results = torch.randn(s.shape), []
    for backend in (kernels, "reference"):
        leaves = [t.detach().requires_grad_() for t in (s, weight)]
        out = F.token_mix_lif(*leaves, decay=0.9, backend=backend)
        results.append([out, *torch.autograd.grad((out * gs).sum(), leaves)])
    assert all(error(a, b) <= 1e-5 for a, b in zip(*results, strict=True))


def test_nan_passes_and_never_fires(kernels):
    s = torch.ones(1, 1, 2, 40)
    s[0, 0, 0, 3] = float("nan")
    out = F.token_mix_lif(s, torch.ones(1, 40, 40), backend=kernels)
    assert out[0, 0, 0].sum() == 0
    assert out[0, 0, 1].sum() == 40


def test_saves_bits_and_the_weight(kernels):
    s = spikes((4, 8, 64, 64)).bfloat16().requires_grad_()
    weight = torch.randn(4, 64, 64, dtype=torch.bfloat16, requires_grad=True)
    with count_saved() as saved:
        F.token_mix_lif(s, weight, backend=kernels)
        assert sorted(saved().values()) == sorted([s.numel() // 8, weight.numel() * 2])


@pytest.mark.parametrize(
    ("s", "weight", "message"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(1, 4, 4), r"s must be \[T, B, C, N\]"),
        (torch.zeros(1, 1, 4, 5), torch.zeros(1, 4, 4), r"weight must be \[heads, 5, 5\]"),
        (torch.zeros(1, 1, 4, 5), torch.zeros(3, 5, 5), r"heads of weight \(3\) must divide"),
        (torch.zeros(1, 1, 4, 5), torch.zeros(0, 5, 5), r"heads of weight \(0\) must divide"),
        (torch.zeros(1, 1, 4, 5), torch.zeros(2, 5, 5).double(), "weight must be torch.float32"),
        (torch.zeros(0, 1, 4, 5), torch.zeros(2, 5, 5), "s must have T >= 1"),
    ],
)
def test_bad_arguments_are_named(s, weight, message):
    for op in (F.token_mix, F.token_mix_lif):
        with pytest.raises((ValueError, TypeError), match=message):
            op(s, weight)
