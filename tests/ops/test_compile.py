"""torch.compile without a graph break, opcheck, functional gradients, and dynamic shapes."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.config
from support.compile_cases import CASES, S, check_full_graph, compiler, op_samples
from support.ops_cases import KERNELS, SURROGATES, error
from torch.library import opcheck

import stmixer_ops as so
from stmixer_ops import functional as F
from stmixer_ops.ops.bn_lif.buffers import BackwardCall, ForwardCall
from stmixer_ops.ops.conv_lif.buffers import Call
from stmixer_ops.ops.token_mix.buffers import BitsCall, LIFCall

WITHOUT_TRITON = {"spike_linear", "spike_conv2d"}


@pytest.mark.compiles
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", KERNELS)
def test_full_graph(backend, case, full):
    if backend == "triton" and case in WITHOUT_TRITON:
        pytest.skip(f"{case} has no triton kernels")
    check_full_graph(*CASES[case], backend, compiler(backend, full))


@pytest.mark.compiles
def test_one_graph_for_every_batch_size():
    torch.compiler.reset()
    compiled = torch.compile(F.lif, fullgraph=True, dynamic=True)
    compiled(torch.randn(4, 2, 6, 7))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (3, 5, 8):
            x = torch.randn(4, batch, 6, 7)
            assert torch.equal(compiled(x), F.lif(x))


@pytest.mark.compiles
@pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="Inductor of torch 2.6 fails on these symbolic sizes",
)
def test_a_smaller_last_batch_trains_in_one_graph():
    """Inductor wants tokens behind a convolution laid out as images, which needs sizes."""
    torch.compiler.reset()
    torch.manual_seed(0)
    stem, mlp, side = torch.nn.Conv2d(2, 4, 1), so.ChannelMLP(4, 1), torch.nn.Conv2d(2, 4, 1)

    def network(images):
        y = mlp(stem(images).flatten(2)[None])
        return y + side(images).flatten(2)

    compiled = torch.compile(network, fullgraph=True)
    parameters = [p for part in (stem, mlp, side) for p in part.parameters()]
    first = torch.randn(8, 2, 2, 2)
    torch._dynamo.mark_dynamic(first, 0)
    for images in (first, torch.randn(5, 2, 2, 2)):
        with torch._dynamo.config.patch(error_on_recompile=images is not first):
            y, expected = compiled(images), network(images)
        assert error(y, expected) <= 1e-5
        gradients = [torch.autograd.grad(out.square().sum(), parameters) for out in (y, expected)]
        assert all(error(a, b) <= 1e-4 for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("op", "call"),
    [
        (S.bn_lif_forward, ForwardCall),
        (S.bn_lif_backward, BackwardCall),
        (S.conv_lif, Call),
        (S.token_mix_lif, LIFCall),
        (S.token_mix_lif_bits, BitsCall),
    ],
    ids=str,
)
def test_calls_are_the_arguments_of_the_schema(op, call):
    names = [argument.name for argument in op.default._schema.arguments]
    assert names == [*call._fields, "backend"]


@pytest.mark.parametrize("index", range(len(op_samples(backend="cpu"))))
@pytest.mark.parametrize("backend", KERNELS)
def test_opcheck(backend, index):
    op, arguments = op_samples(backend)[index]
    results = opcheck(op.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_reference_differentiates_twice(surrogate):
    """The reference is plain autograd: its gradient has a gradient."""
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    gs = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    s = F.lif(x, surrogate=surrogate, backend="reference")
    (gx,) = torch.autograd.grad((s * gs).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gx.sum(), gs)
    assert second.shape == gs.shape
    assert second.abs().sum() > 0


def test_reference_exports_to_plain_onnx(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")

    class Net(torch.nn.Module):
        def forward(self, x):
            return F.lif(x * 2, backend="reference")

    path = tmp_path / "lif.onnx"
    torch.onnx.export(Net(), (torch.randn(2, 3, 4),), str(path), dynamo=False)
    graph = onnx.load(str(path)).graph
    assert {node.domain for node in graph.node} == {""}
