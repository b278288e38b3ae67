"""The LIF module: its options against a plain loop, time constants, state, refusals."""

import copy
import math

import numpy as np
import pytest
import torch

import stmixer_ops as so


def loop(x, *, threshold, decay, input_scale, v_reset, hard):
    """SpikingJelly's charge-fire-reset, written out for one neuron type."""
    v = torch.full_like(x[0], v_reset)
    spikes = []
    for x_t in x:
        v = v_reset + decay * (v - v_reset) + input_scale * x_t
        s = (v >= threshold).to(x.dtype)
        v = torch.where(s > 0, torch.full_like(v, v_reset), v) if hard else v - threshold * s
        spikes.append(s)
    return torch.stack(spikes), v


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize(
    ("input_scale", "v_reset", "reset"),
    [(1.0, 0.0, "hard"), (0.5, 0.0, "soft"), (1.0, -0.3, "hard"), (0.7, 0.2, "hard")],
)
def test_options_mean_what_they_say(T, input_scale, v_reset, reset):
    torch.manual_seed(0)
    x = torch.randn(T, 2, 7, 5, dtype=torch.float64) * 2
    options = {"threshold": 0.8, "decay": 0.9, "input_scale": input_scale, "v_reset": v_reset}
    lif = so.LIF(**options, reset=reset)
    s, v = lif(x, return_state=True)
    expected, state = loop(x, **options, hard=reset == "hard")
    assert torch.equal(s, expected)
    torch.testing.assert_close(v, state, rtol=1e-12, atol=1e-12)
    assert torch.equal(lif(x), s)


def test_state_continues_a_sequence():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    lif = so.LIF(v_reset=0.1, decay=0.9)
    whole, end = lif(x, return_state=True)
    first, state = lif(x[:2], return_state=True)
    second, state = lif(x[2:], v_init=state, return_state=True)
    assert torch.equal(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, end, rtol=1e-12, atol=1e-12)


def test_input_scale_scales_the_gradient():
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    (so.LIF(input_scale=0.25)(x) * weights).sum().backward()
    (so.LIF()(y * 0.25) * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=0)


def test_reset_is_a_method_and_a_mode():
    lif = so.LIF(reset="soft", threshold=0.5)
    x = torch.rand(4, 1, 3, 3)
    before = lif(x)
    assert lif.reset() is None
    assert lif.reset_mode == "soft"
    assert torch.equal(lif(x), before)
    assert torch.equal(copy.deepcopy(lif)(x), before)
    assert not lif.state_dict()


def test_tau_is_explained():
    with pytest.raises(TypeError, match=r"decay_from_tau"):
        so.LIF(tau=2.0)
    with pytest.raises(TypeError, match="unexpected arguments: treshold"):
        so.LIF(treshold=2.0)


@pytest.mark.parametrize(
    ("tau", "convention", "decay"),
    [
        (2.0, "spikingjelly", 0.5),
        (4.0, "spikingjelly", 0.75),
        (10.0, "exponential", math.exp(-0.1)),
        (10.0, "snntorch", math.exp(-0.1)),
        (0.5, "stmixer", 0.5),
        (1.0, "stmixer", 1.0),
    ],
)
def test_decay_from_tau(tau, convention, decay):
    assert so.decay_from_tau(tau, convention=convention) == pytest.approx(decay, rel=1e-15)


@pytest.mark.parametrize(
    ("tau", "convention"),
    [(1.0, "spikingjelly"), (0.0, "spikingjelly"), (0.0, "exponential"), (2.0, "stmixer")],
)
def test_decay_from_tau_refuses(tau, convention):
    with pytest.raises(ValueError, match="tau must be"):
        so.decay_from_tau(tau, convention=convention)
    with pytest.raises(ValueError, match="convention must be"):
        so.decay_from_tau(tau, convention="norse")


@pytest.mark.parametrize(
    "options",
    [
        {"reset": "none"},
        {"decay": 0.0},
        {"decay": 1.5},
        {"threshold": float("nan")},
        {"input_scale": 0.0},
        {"v_reset": None},
        {"v_reset": 0.1, "reset": "soft"},
    ],
)
def test_refuses_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        so.LIF(**options)


def test_custom_surrogate_callable():
    def straight_through(u):
        return (u >= 0).to(u.dtype) + u - u.detach()

    x = torch.randn(2, 1, 3, 3, requires_grad=True)
    so.LIF(surrogate=straight_through, decay=1.0, reset="soft", detach_reset=True)(
        x
    ).sum().backward()
    # ds[t]/dx[i] = 1 for every i <= t: x[0] reaches both steps.
    assert torch.equal(x.grad[0], torch.full((1, 3, 3), 2.0))
    assert torch.equal(x.grad[1], torch.ones(1, 3, 3))


LEARNT = torch.nn.Parameter(torch.tensor(0.5))


@pytest.mark.parametrize("name", ["threshold", "decay", "input_scale", "v_reset"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (LEARNT, "must be a number, got a Parameter to be learnt"),
        (torch.tensor(0.5, requires_grad=True), "must be a number, got a Tensor to be learnt"),
        (torch.full((8,), 0.5), r"got a Tensor of shape \(8,\): one \w+ for each channel"),
        (np.full(8, 0.5), r"must be a number, got an array of shape \(8,\)"),
        ("0.5", "must be a number, got '0.5'"),
    ],
    ids=["parameter", "gradient", "channels", "array", "text"],
)
def test_numbers_that_would_be_learnt_or_vary_are_refused(name, value, message):
    with pytest.raises(TypeError, match=f"{name} {message}|{name} must be a number, {message}"):
        so.LIF(**{name: value})
    with pytest.raises(TypeError, match=name):
        so.STMBlock(8, 4, 2, **{name: value})
    if name in ("threshold", "decay") and not isinstance(value, str):
        with pytest.raises(TypeError, match=name):
            so.functional.lif(torch.randn(2, 8), **{name: value})
        lif = so.LIF()
        setattr(lif, name, value)
        with pytest.raises(TypeError, match=name):
            lif(torch.randn(2, 8))


def test_the_number_of_a_surrogate_is_not_learnt_either():
    with pytest.raises(TypeError, match="gamma must be a number, got a Parameter to be learnt"):
        so.surrogate.Dspike(LEARNT)
    assert so.surrogate.ATan(np.float32(2)) == so.surrogate.ATan(2.0)


@pytest.mark.parametrize("number", [1, np.float32(1), np.int64(1), torch.tensor(1.0)], ids=repr)
def test_scalars_are_numbers(number):
    lif = so.LIF(threshold=number, decay=number, input_scale=number)
    assert [type(v) for v in (lif.threshold, lif.decay, lif.input_scale)] == [float] * 3
    x = torch.randn(3, 8)
    expected = so.functional.lif(x, threshold=1.0, decay=1.0)
    assert torch.equal(lif(x), expected)
    assert torch.equal(so.functional.lif(x, threshold=number, decay=number), expected)
