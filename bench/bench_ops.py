"""Training ops against torch.compile, eager PyTorch and SpikingJelly: forward + backward.

Run through ``python -m bench`` (or pytest with pytest-benchmark). All peers of a group get the
same input and the same incoming gradient; the spike rate is recorded beside the times.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stmixer_ops import functional as F
from stmixer_ops import surrogate as sg

STEPS, BATCH, CHANNELS, TOKENS = SHAPE = (4, 16, 384, 64)
SURROGATE = sg.PiecewiseQuadratic(1.0)

Step = Callable[[], Tensor]


def training_step(forward: Callable[[Tensor], Tensor], x: Tensor, parameters=()) -> Step:
    """One forward + backward; returns the spikes."""
    x = x.detach().requires_grad_()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def step() -> Tensor:
        for leaf in (x, *parameters):
            leaf.grad = None
        spikes = forward(x)
        spikes.backward(gradient)
        return spikes

    return step


def lif_peer(name: str, x: Tensor) -> Step:
    if name == "stmixer_ops":
        return training_step(lambda x: F.lif(x, surrogate=SURROGATE, backend="cpu"), x)

    def reference(x: Tensor) -> Tensor:
        return F.lif(x, surrogate=SURROGATE, backend="reference")

    if name == "eager reference":
        return training_step(reference, x)
    if name == "torch.compile":
        return training_step(torch.compile(reference), x)
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron", reason="SpikingJelly is not installed"
    )
    from spikingjelly.activation_based import functional, surrogate

    node = neuron.LIFNode(
        tau=2.0, decay_input=False, v_reset=0.0, step_mode="m",
        surrogate_function=surrogate.PiecewiseQuadratic(1.0),
    )  # fmt: skip

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return training_step(forward, x)


def bn_lif_peer(name: str, x: Tensor) -> Step:
    bn = nn.BatchNorm1d(CHANNELS)
    parameters = tuple(bn.parameters())

    def fused(x: Tensor) -> Tensor:
        return F.bn_lif(
            x, bn.weight, bn.bias, bn.running_mean, bn.running_var, training=True,
            surrogate=SURROGATE, backend="cpu",
        )  # fmt: skip

    def composed(x: Tensor) -> Tensor:
        y = bn(x.flatten(0, 1)).view(x.shape)
        return F.lif(y, surrogate=SURROGATE, backend="reference")

    forward = {
        "stmixer_ops": fused,
        "eager reference": composed,
        "torch.compile": torch.compile(composed),
    }[name]
    return training_step(forward, x, parameters)


PEERS = {
    "lif": (lif_peer, ("stmixer_ops", "torch.compile", "eager reference", "spikingjelly torch")),
    "bn_lif": (bn_lif_peer, ("stmixer_ops", "torch.compile", "eager reference")),
}
CASES = [(op, peer) for op, (_, peers) in PEERS.items() for peer in peers]


@pytest.mark.parametrize(("op", "peer"), CASES, ids=lambda value: str(value))
def test_training_step(benchmark, op, peer):
    benchmark.group = f"{op} forward + backward, {list(SHAPE)} float32"
    benchmark.extra_info["peer"] = peer
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    torch.compiler.reset()
    step = PEERS[op][0](peer, x)
    benchmark.extra_info["rate"] = round(step().mean().item(), 4)
    benchmark.pedantic(step, rounds=200, warmup_rounds=20)
