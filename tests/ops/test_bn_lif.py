"""bn_lif against the same thing composed of PyTorch's own pieces in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn import drawn_case
from support.ops_calls import BNCase as Case
from support.ops_calls import flips_outside
from support.ops_cases import (
    ISAS,
    KERNELS,
    LAYOUTS,
    PLACES,
    TOLERANCE,
    check_results,
    count_saved,
    error,
)
from support.pairs import pairwise

from stmixer_ops import functional as F
from stmixer_ops import surrogate as sg

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def assert_reference(case, kernels, training, dtype, **options):
    native = case.run(kernels, training, decay=0.9, **options)
    expected = case.run("reference", training, decay=0.9, **options)
    assert torch.equal(native[0], expected[0])
    assert torch.equal(native[3], expected[3])
    check_results(native, expected, 4 * TOLERANCE[dtype])


@pairwise(
    kernels=PLACES, layout=LAYOUTS, dtype=DTYPES, training=[True, False], residual=[True, False]
)
def test_kernels_are_the_reference(kernels, layout, dtype, training, residual):
    case = Case((3, 2, 20, 5, 7), dtype, layout, residual=residual)
    assert_reference(case, kernels, training, dtype)


# Channels enough for the CPU's groups: with sums gathered more than once and more steps than a
# buffer holds, and of sixteen with a short last one that ends in a short block.
GROUPED = [(33, 2, 256, 64), (2, 3, 501, 32), (3, 2, 500, 196)]


@pairwise(isa=ISAS, shape=GROUPED, dtype=DTYPES, training=[True, False], residual=[True, False])
def test_groups_of_channels(isa, shape, dtype, training, residual):
    assert_reference(Case(shape, dtype, residual=residual), "cpu", training, dtype)


@pytest.mark.parametrize("residual", [True, False])
def test_large_results_are_streamed_out_whole(residual):
    """From 16 MiB on; 26,217 neighbours of a channel end in a short row."""
    case = Case((4, 2, 20, 26217), residual=residual)
    # Of four million values some lie on the edge of a slope that ends suddenly.
    assert_reference(case, "cpu", True, torch.float32, surrogate=sg.Sigmoid(4.0))


@pairwise(
    kernels=PLACES,
    training=[True, False],
    residual=[True, False],
    asked=itertools.product([False, True], repeat=3),
)
def test_any_results_may_be_asked_for(kernels, residual, training, asked):
    case = Case((2, 3, 6, 32), residual=residual)
    mean, var = torch.zeros(6), torch.ones(6)
    x = case.x.detach().requires_grad_()
    results, gradients = {}, {}
    for backend in (kernels, "reference"):
        out = F.bn_lif(
            x, case.weight, case.bias, mean.clone(), var.clone(), training=training,
            residual=case.residual, backend=backend,
            **dict(zip(("return_sum", "return_state", "pack"), asked, strict=True)),
        )  # fmt: skip
        results[backend] = out if isinstance(out, tuple) else (out,)
        real = [y for y in results[backend] if y.is_floating_point()]
        loss = sum((y.double() * (i + 1)).square().sum() for i, y in enumerate(real))
        gradients[backend] = torch.autograd.grad(loss, x)[0]
    assert len(results[kernels]) == 1 + sum(asked)
    assert all(error(a, b) <= 1e-5 for a, b in zip(*results.values(), strict=True))
    assert error(gradients[kernels], gradients["reference"]) <= 1e-5


@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_float32_obeys_the_local_rule(kernels, reset):
    """Outside |u| < 1e-4 of the float64 membrane every spike matches."""
    case = Case((4, 8, 48, 64), residual=True)
    s = case.run(kernels, True, reset=reset)[0].double()
    total = (
        torch.nn.functional.batch_norm(
            case.x.double().movedim(2, 1),
            None,
            None,
            case.weight.double(),
            case.bias.double(),
            training=True,
            eps=1e-3,
        ).movedim(1, 2)
        + case.residual.double()
    )
    assert flips_outside(s, total, case.v_init, decay=0.5, reset=reset) == 0


@pytest.mark.parametrize("channel_dim", [1, 2, 3, -1])
def test_any_channel_dimension(kernels, channel_dim):
    case = Case((2, 6, 5, 7), channel_dim=channel_dim)
    native, expected = case.run(kernels, True), case.run("reference", True)
    assert all(error(a, b) <= 2e-5 for a, b in zip(native, expected, strict=True))


@pairwise(
    kernels=PLACES,
    channels=[1, 7, 63, 513, 1536],
    steps=[1, 33],
    allowed=lambda kernels, channels, steps: kernels != "triton" or steps * channels < 20_000,
)
def test_any_number_of_channels_innermost(kernels, channels, steps):
    case = Case((steps, 3, 2, channels), channel_dim=3)
    native, expected = case.run(kernels, True), case.run("reference", True)
    assert torch.equal(native[0], expected[0])
    assert all(error(a, b) <= 3e-5 for a, b in zip(native, expected, strict=True))


def test_large_mean_keeps_its_variance(kernels):
    x = torch.randn(2, 8, 16, 100) * 0.1 + 1000
    _, total = F.bn_lif(x, None, None, None, None, training=True, return_sum=True, backend=kernels)
    wanted = torch.nn.functional.batch_norm(
        x.double().movedim(2, 1), None, None, training=True
    ).movedim(1, 2)
    assert error(total, wanted) < 1e-3


@pytest.mark.parametrize("shape", [(2, 16, 24, 64), *GROUPED], ids=str)
def test_does_not_depend_on_threads(shape, isa, same_bits_everywhere):
    case = Case(shape)
    same_bits_everywhere(lambda: case.run("cpu", True), isas=[isa])


def test_static_current_repeated_over_time(kernels):
    step = torch.randn(1, 4, 6, 8, 8, requires_grad=True)
    results = []
    for backend in (kernels, "reference"):
        s = F.bn_lif(
            step.expand(3, -1, -1, -1, -1), None, None, None, None, training=True, backend=backend
        )
        results.append((s, *torch.autograd.grad((s * s.cumsum(-1)).sum(), step)))
    assert torch.equal(results[0][0], results[1][0])
    assert error(results[0][1], results[1][1]) <= 1e-5


def test_running_statistics_follow_batch_norm():
    bn = torch.nn.BatchNorm2d(6, momentum=0.2)
    x = torch.randn(2, 4, 6, 5, 5) * 3 + 1
    mean, var = bn.running_mean.clone(), bn.running_var.clone()
    F.bn_lif(x, bn.weight, bn.bias, mean, var, training=True, momentum=0.2)
    bn(x.flatten(0, 1))
    assert error(mean, bn.running_mean) < 1e-6
    assert error(var, bn.running_var) < 1e-6


def test_nan_passes_and_never_fires(kernels):
    x = torch.full((2, 1, 3, 40), 2.0)
    x[0, 0, 1, 7] = float("nan")
    s, total = F.bn_lif(
        x,
        None,
        None,
        torch.zeros(3),
        torch.ones(3),
        training=False,
        return_sum=True,
        backend=kernels,
    )
    assert total.isnan().sum() == 1
    assert s[:, 0, 1, 7].tolist() == [0.0, 0.0]
    assert s.sum() == s.numel() - 2


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_shape_and_layout(data):
    case = drawn_case(data)
    kernels = data.draw(st.sampled_from(KERNELS))
    native, expected = case.run(kernels, True), case.run("reference", True)
    assert all(error(a, b) <= 1e-9 for a, b in zip(native, expected, strict=True))


def test_saves_input_sum_and_two_values_per_channel(kernels):
    case = Case((4, 8, 32, 64), torch.bfloat16)
    x = case.x.requires_grad_()
    values = x.numel()
    with count_saved() as saved:
        F.bn_lif(
            x,
            case.weight,
            case.bias,
            None,
            None,
            training=True,
            residual=case.residual,
            pack=True,
            backend=kernels,
        )
        sizes = sorted(saved().values())
    assert sizes[-2:] == [2 * values, 2 * values]  # x and the sum
    assert sum(sizes[:-2]) <= 4 * 32 * 4  # weight, bias, mean, invstd


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(3)}, r"weight must have shape \(4,\).*got \(3,\)"),
        ({"running_mean": torch.ones(5)}, r"running_mean must have shape \(4,\)"),
        ({"training": False}, "running_mean and running_var are needed unless training=True"),
        ({"residual": torch.zeros(2, 3, 4, 6)}, "residual must be torch.float32 of shape"),
        ({"residual": torch.zeros(2, 3, 4, 5).bfloat16()}, "residual must be torch.float32"),
        ({"channel_dim": 0}, "channel_dim must not be 0"),
        ({"channel_dim": 7}, "dim must name one of the 4 dimensions of x"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "x": torch.zeros(2, 3, 4, 5),
        "weight": None,
        "bias": None,
        "running_mean": None,
        "running_var": None,
        "training": True,
    } | change
    with pytest.raises((ValueError, TypeError), match=message):
        F.bn_lif(**arguments)


def test_reference_gradient_in_a_layout_that_looks_channels_last():
    """With a last dimension of 1 PyTorch's own batch norm gives another gradient here."""
    x = torch.randn(2, 3, 4, 1, dtype=torch.float64).transpose(1, 2).contiguous().transpose(1, 2)
    g, gradients = torch.randn(2, 3, 4, 1, dtype=torch.float64), []
    for backend in ("cpu", "reference"):
        leaf = x.detach().requires_grad_()
        _, total = F.bn_lif(leaf, None, None, None, None, training=True, return_sum=True,
                            channel_dim=1, backend=backend)  # fmt: skip
        gradients.append(torch.autograd.grad(total, leaf, g)[0])
    leaf = x.detach().requires_grad_()
    centred = leaf - leaf.mean((0, 2, 3), keepdim=True)
    exact = centred / ((centred**2).mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    (wanted,) = torch.autograd.grad(exact, leaf, g)
    assert all(error(gradient, wanted) <= 1e-12 for gradient in gradients)
