"""torch.compile without a graph break, opcheck, functional gradients, and dynamic shapes."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.config
from support.ops_calls import random_spikes as spikes
from support.ops_cases import KERNELS, SURROGATES, error
from torch.library import opcheck

import stmixer_ops as so
from stmixer_ops import functional as F
from stmixer_ops.ops.bn_lif.buffers import BackwardCall, ForwardCall
from stmixer_ops.ops.conv_lif.buffers import Call
from stmixer_ops.ops.token_mix.buffers import BitsCall

S = torch.ops.stmixer


def bn_lif(x, weight, bias):
    mean, var = x.new_zeros(8), x.new_ones(8)
    results = F.bn_lif(
        x, weight, bias, mean, var, training=True, residual=x, return_sum=True, pack=True
    )
    return (*results, mean, var)


CASES = {
    "lif": (F.lif, (torch.randn(3, 2, 8, 32),)),
    "lif_all": (
        lambda x, v: F.lif(x, v_init=v, return_state=True, pack=True),
        (torch.randn(3, 2, 8, 32), torch.randn(2, 8, 32)),
    ),
    "bn_lif": (bn_lif, (torch.randn(3, 2, 8, 32), torch.rand(8), torch.randn(8))),
    "token_mix": (F.token_mix, (spikes(3, 2, 8, 32), torch.randn(2, 32, 32))),
    "token_mix_lif": (
        lambda s, w: F.token_mix_lif(s, w, pack=True),
        (spikes(3, 2, 8, 32), torch.randn(2, 32, 32)),
    ),
    "spike_linear": (F.spike_linear, (spikes(3, 2, 8, 32), torch.randn(5, 32))),
    "spike_conv2d": (
        lambda s, w: F.spike_conv2d(s, w, 2, 1),
        (spikes(2, 3, 4, 9, 9), torch.randn(5, 4, 3, 3)),
    ),
    "pack": (lambda s: F.unpack_spikes(F.pack_spikes(s), 33) + s, (spikes(2, 33),)),
}


def values_and_gradients(function, inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out = out if isinstance(out, tuple) else (out,)
    loss = sum((o * o.detach().cos()).sum() for o in out if o.requires_grad)
    return [o.detach() for o in out], torch.autograd.grad(loss, leaves)


WITHOUT_TRITON = {"spike_linear", "spike_conv2d"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", KERNELS)
def test_full_graph(backend, case):
    if backend == "triton" and case in WITHOUT_TRITON:
        pytest.skip(f"{case} has no triton kernels")
    check_full_graph(*CASES[case], backend)


def check_full_graph(function, inputs, backend):
    torch.compiler.reset()
    with so.use_backend(backend):
        values, gradients = values_and_gradients(function, inputs)
        compiled = torch.compile(function, fullgraph=True)
        compiled_values, compiled_gradients = values_and_gradients(compiled, inputs)
    # Spikes and bits are the kernels' own; running statistics are updated by generated code.
    assert all(error(a, b) <= 1e-6 for a, b in zip(compiled_values, values, strict=True))
    assert all(error(a, b) <= 1e-5 for a, b in zip(compiled_gradients, gradients, strict=True))


def test_one_graph_for_every_batch_size():
    torch.compiler.reset()
    compiled = torch.compile(F.lif, fullgraph=True, dynamic=True)
    compiled(torch.randn(4, 2, 6, 7))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (3, 5, 8):
            x = torch.randn(4, batch, 6, 7)
            assert torch.equal(compiled(x), F.lif(x))


NEURON = (1.0, 0.9, "soft")
SURROGATE = (False, "atan", 2.0)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        (S.bn_lif_forward, ForwardCall),
        (S.bn_lif_backward, BackwardCall),
        (S.conv_lif, Call),
        (S.token_mix_lif_bits, BitsCall),
    ],
    ids=str,
)
def test_calls_are_the_arguments_of_the_schema(op, call):
    names = [argument.name for argument in op.default._schema.arguments]
    assert names == [*call._fields, "backend"]


def op_samples(backend):
    x, v = torch.randn(3, 2, 8, 32), torch.randn(2, 8, 32)
    channel = torch.rand(8)
    last = x.transpose(2, 3).contiguous().transpose(2, 3)
    s, weight = spikes(3, 2, 8, 33), torch.randn(2, 33, 33)
    return [
        (S.lif_forward, (x, None, *NEURON, False, True, False, backend)),
        (S.lif_forward, (last, v, *NEURON, True, True, True, backend)),
        (S.lif_forward, (x, v, *NEURON, True, False, True, backend)),
        (S.lif_backward, (x, None, last, v, *NEURON, *SURROGATE, backend)),
        (
            S.bn_lif_forward,
            (
                x,
                channel,
                None,
                None,
                None,
                True,
                1e-5,
                last,
                v,
                2,
                *NEURON,
                True,
                True,
                True,
                backend,
            ),
        ),
        (
            S.bn_lif_forward,
            (
                last,
                None,
                None,
                channel,
                channel,
                False,
                1e-5,
                None,
                None,
                2,
                *NEURON,
                False,
                False,
                False,
                backend,
            ),
        ),
        (
            S.bn_lif_backward,
            (
                x,
                None,
                v,
                x,
                None,
                v,
                channel,
                channel,
                channel,
                channel,
                1e-5,
                True,
                False,
                2,
                *NEURON,
                *SURROGATE,
                backend,
            ),
        ),
        (
            S.bn_lif_backward,
            (
                x,
                x,
                None,
                x,
                x,
                None,
                None,
                None,
                channel,
                channel,
                1e-5,
                True,
                True,
                2,
                *NEURON,
                *SURROGATE,
                backend,
            ),
        ),
        (S.token_mix, (s, weight, backend)),
        (S.token_mix_lif, (s, weight, None, *NEURON, True, True, backend)),
        (S.token_mix_lif_backward, (s, None, s, weight, None, *NEURON, *SURROGATE, backend)),
        (S.pack_rows, (s, backend)),
        (S.unpack_rows, (F.pack_spikes(s), 33, torch.bfloat16, backend)),
    ]


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
