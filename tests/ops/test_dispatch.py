"""Calls go around the dispatcher only where nobody would notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from stmixer_ops import functional as F


class Names(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def training_step(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    F.lif(x, backend="cpu").sum().backward()
    assert x.grad is not None
    return x.grad


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 32, generator=torch.Generator().manual_seed(0))


def test_modes_see_every_operator(x: Tensor) -> None:
    expected = training_step(x)
    with Names() as names:
        grad = training_step(x)
    assert {"stmixer::lif_forward", "stmixer::lif_backward"} <= set(names.seen)
    assert torch.equal(grad, expected)


def test_subclasses_reach_the_dispatcher(x: Tensor) -> None:
    fake = FakeTensorMode().from_tensor(x)
    spikes = F.lif(fake, backend="cpu")
    assert isinstance(spikes, FakeTensor) and spikes.shape == x.shape


def test_traces_hold_the_operator(x: Tensor) -> None:
    def spikes(x: Tensor) -> Tensor:
        return F.lif(x, backend="cpu")

    graph = make_fx(spikes)(x).graph
    assert "stmixer.lif_forward" in str(graph)
    other = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    traced = torch.jit.trace(spikes, x)
    assert torch.equal(traced(other), spikes(other))
    assert not torch.equal(spikes(other), spikes(x))


def test_a_plain_call_goes_around_the_dispatcher(x: Tensor, monkeypatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("the operator was called")

    expected = training_step(x)
    monkeypatch.setattr(torch._ops.OpOverloadPacket, "__call__", refuse)
    assert torch.equal(training_step(x), expected)
    with pytest.raises(AssertionError, match="operator was called"), Names():
        training_step(x)
