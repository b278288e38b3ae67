"""Derivatives other than a backward pass: second ones, torch.func, forward mode, traces."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.ops_calls import random_spikes
from support.ops_cases import KERNELS, SURROGATES, error

import stmixer_ops as so
from stmixer_ops import functional as F

CHANNELS = [torch.ones(8), torch.zeros(8), torch.zeros(8), torch.ones(8)]

# Of each op a call of one tensor that needs a gradient, and that tensor.
CALLS = {
    "lif": (F.lif, torch.randn(3, 2, 8, 8)),
    "bn_lif": (
        lambda x: F.bn_lif(x, *(c.to(x) for c in CHANNELS), training=True),
        torch.randn(3, 2, 8, 8),
    ),
    "token_mix_lif": (lambda w: F.token_mix_lif(SPIKES.to(w), w), torch.randn(2, 8, 8)),
    "spike_linear": (lambda w: F.spike_linear(SPIKES.to(w), w), torch.randn(5, 8)),
    "spike_conv2d": (lambda w: F.spike_conv2d(SPIKES.to(w), w), torch.randn(5, 2, 3, 3)),
}
SPIKES = random_spikes(3, 2, 8, 8)


@pytest.mark.parametrize("op", CALLS)
def test_a_second_derivative_is_an_error_that_names_the_op(op):
    function, x = CALLS[op]
    x = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x).square().sum(), x)
    (first,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    assert torch.equal(first, expected)
    message = f"functional.{op}: second derivatives are not implemented by the cpu backend; use"
    with pytest.raises(RuntimeError, match=message):
        (first.norm() - 1).square().backward()
    first.detach_().add_(1)  # as optimisers do with a gradient


def test_a_gradient_penalty_through_a_block_says_what_to_use():
    block, x = so.STMBlock(8, 4, 2), torch.randn(2, 2, 8, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="use stmixer_ops.use_backend\\('reference'\\)"):
        gradient.norm().backward()


@pytest.mark.parametrize("backend", KERNELS)
def test_token_mixing_differentiates_twice(backend):
    """sum(y^3) of y = weight s: second derivatives by hand, in float64."""
    s = torch.randn(2, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(1, 5, 5, dtype=torch.float64, requires_grad=True)
    out = F.token_mix(s, weight, backend=backend)
    (gradient,) = torch.autograd.grad((out**3).sum(), s, create_graph=True)
    second = torch.autograd.grad(gradient.sum(), (s, weight))
    y, w, ones = out.detach(), weight.detach()[0], torch.ones_like(s)
    through_y = 6 * y * (ones @ w.T)  # d(3 y^2)/dy times the derivative of y along ones
    assert error(second[0], through_y @ w) <= 1e-12
    expected = torch.einsum("tbcm,tbcn->mn", through_y, s.detach())
    expected += torch.einsum("tbcm,tbcn->mn", 3 * y**2, ones)
    assert error(second[1][0], expected) <= 1e-12


# -- torch.func and forward mode ------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_forward_mode_is_the_adjoint_of_backward(surrogate):
    x, v, w = torch.randn(3, 4, 2, 8, dtype=torch.float64)

    def lif(x):
        return F.lif(x, surrogate=surrogate)

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((lif(leaf) * w).sum(), leaf)
    spikes, tangent = torch.func.jvp(lif, (x,), (v,))
    assert torch.equal(spikes, lif(x))
    assert error((tangent * w).sum(), (v * gradient).sum()) <= 1e-12
    with torch.autograd.forward_ad.dual_level():
        dual = lif(torch.autograd.forward_ad.make_dual(x, v))
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)


def test_gradients_per_sample_of_a_model():
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = torch.randn(3, 3, 8, 8)

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
    for i, image in enumerate(images):
        model.zero_grad()
        model(image[None]).square().sum().backward()
        assert all(error(found[name][i], p.grad) <= 1e-5 for name, p in model.named_parameters())


def test_a_transform_of_a_kernel_that_was_asked_for_is_refused():
    message = "lif: backend='cpu' cannot run this call: torch.func sees through plain PyTorch only"
    with pytest.raises(RuntimeError, match=message):
        torch.func.vmap(lambda x: F.lif(x, backend="cpu"))(torch.randn(2, 3, 4))


def test_a_transform_can_be_compiled():
    torch.compiler.reset()
    x = torch.randn(3, 2, 8)
    gradient = torch.func.grad(lambda x: F.lif(x).sum())
    compiled = torch.compile(torch.func.vmap(F.lif), backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.stack([x, -x])), torch.stack([F.lif(x), F.lif(-x)]))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.lif(leaf).sum(), leaf)
    assert error(gradient(x), expected) <= 1e-6


# -- Traces ---------------------------------------------------------------------------------------


def test_a_trace_of_a_model_is_saved_runs_and_trains(tmp_path):
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1).eval()
    images = torch.randn(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing takes sizes for constants
        torch.jit.trace(model, images).save(tmp_path / "model.pt")
    traced = torch.jit.load(tmp_path / "model.pt")
    assert error(traced(images), model(images)) <= 1e-5
    for network in (model, traced):
        network(images).square().sum().backward()
    expected = dict(model.named_parameters())
    assert all(error(p.grad, expected[n].grad) <= 1e-5 for n, p in traced.named_parameters())


def test_a_model_exports_to_plain_onnx(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1).eval()
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.randn(2, 3, 8, 8),), str(path), dynamo=False)
    assert {node.domain for node in onnx.load(str(path)).graph.node} == {""}
