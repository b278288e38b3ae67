"""Calls of the ops for torch.compile and opcheck, shared by the tests of all devices."""

from __future__ import annotations

import torch
from support.ops_calls import random_spikes as spikes
from support.ops_cases import error

import stmixer_ops as so
from stmixer_ops import functional as F

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


def compiler(backend, full):
    """Graphs of two backends differ in a name: Inductor, which is slow, sees one of them."""
    return "inductor" if full or backend == "cpu" else "aot_eager"


def check_full_graph(function, inputs, backend, compiler="inductor"):
    torch.compiler.reset()
    with so.use_backend(backend):
        values, gradients = values_and_gradients(function, inputs)
        compiled = torch.compile(function, fullgraph=True, backend=compiler)
        compiled_values, compiled_gradients = values_and_gradients(compiled, inputs)
    # Spikes and bits are the kernels' own; running statistics are updated by generated code.
    assert all(error(a, b) <= 1e-6 for a, b in zip(compiled_values, values, strict=True))
    assert all(error(a, b) <= 1e-5 for a, b in zip(compiled_gradients, gradients, strict=True))


NEURON = (1.0, 0.9, "soft")
SURROGATE = (False, "atan", 2.0)


def op_samples(backend):
    x, v = torch.randn(3, 2, 8, 32), torch.randn(2, 8, 32)
    channel = torch.rand(8)
    last = x.transpose(2, 3).contiguous().transpose(2, 3)
    s, weight = spikes(3, 2, 8, 33), torch.randn(2, 33, 33)
    return [
        (S.lif_forward, (x, None, False, True, False, *NEURON, backend)),
        (S.lif_forward, (last, v, True, True, True, *NEURON, backend)),
        (S.lif_forward, (x, v, True, False, True, *NEURON, backend)),
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
        (S.token_mix_lif, (s, weight, None, True, True, *NEURON, backend)),
        (S.token_mix_lif_backward, (s, None, s, weight, None, *NEURON, *SURROGATE, backend)),
        (S.pack_rows, (s, backend)),
        (S.unpack_rows, (F.pack_spikes(s), 33, torch.bfloat16, backend)),
    ]
