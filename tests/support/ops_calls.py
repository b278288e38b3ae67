"""Calls of the ops with everything that can have a gradient, shared by the tests of all devices."""

from __future__ import annotations

import torch
from support.ops_cases import LAYOUTS
from torch import Tensor

from stmixer_ops import functional as F


def state_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_spikes(*shape: int, rate: float = 0.3) -> Tensor:
    return (torch.rand(shape) < rate).float()


def run_lif(x, v_init=None, gs=None, gv=None, **options):
    """Spikes, state, bits and gradients of one call."""
    x = x.detach().requires_grad_()
    v_init = None if v_init is None else v_init.detach().requires_grad_()
    s, v, bits = F.lif(x, v_init=v_init, return_state=True, pack=True, **options)
    loss = (s.double() * (1.0 if gs is None else gs)).sum()
    loss = loss + (v.double() * (0.0 if gv is None else gv)).sum()
    inputs = [x] if v_init is None else [x, v_init]
    return s, v, bits, *torch.autograd.grad(loss, inputs)


class BNCase:
    """One random BN + residual + LIF with gradients of everything that can have one."""

    def __init__(
        self,
        shape,
        dtype=torch.float32,
        layout="contiguous",
        channel_dim=2,
        residual=True,
        affine=True,
        device="cpu",
    ):
        channels = shape[channel_dim]
        state = state_type(dtype)

        def place(x, kind=state):
            return x.to(kind).to(device)

        self.channel_dim = channel_dim
        self.x = LAYOUTS[layout](place(torch.randn(shape) * 2 + 3, dtype))
        self.residual = LAYOUTS[layout](place(torch.randn(shape), dtype)) if residual else None
        self.weight = place(torch.rand(channels) + 0.5) if affine else None
        self.bias = place(torch.randn(channels)) if affine else None
        self.mean = place(torch.randn(channels) + 3)
        self.var = place(torch.rand(channels) + 3)
        self.v_init, self.gv = place(torch.randn(2, *shape[1:], dtype=state))
        self.gs, self.gsum = place(torch.randn(2, *shape), dtype)

    def run(self, backend, training, cast=None, **options):
        def leaf(value):
            value = value if value is None or cast is None else value.to(cast)
            return None if value is None else value.detach().requires_grad_()

        x, weight, bias, residual, v_init = map(
            leaf, (self.x, self.weight, self.bias, self.residual, self.v_init)
        )
        mean, var = (b.to(cast or b.dtype).clone() for b in (self.mean, self.var))
        s, total, v, bits = F.bn_lif(
            x,
            weight,
            bias,
            mean,
            var,
            training=training,
            momentum=0.3,
            eps=1e-3,
            residual=residual,
            return_sum=True,
            channel_dim=self.channel_dim,
            pack=True,
            v_init=v_init,
            return_state=True,
            backend=backend,
            **options,
        )
        loss = (s.double() * self.gs).sum() + (total.double() * self.gsum).sum()
        loss = loss + (v.double() * self.gv).sum()
        leaves = [t for t in (x, weight, bias, residual, v_init) if t is not None]
        return [s, total, v, bits, mean, var, *torch.autograd.grad(loss, leaves)]


def run_token_mix_lif(s, weight, v_init, gs, gv, backend, **options):
    """Spikes, bits, state and the gradients of all three operands."""
    leaves = [t.detach().requires_grad_() for t in (s, weight, v_init)]
    out, v, bits = F.token_mix_lif(
        leaves[0],
        leaves[1],
        v_init=leaves[2],
        return_state=True,
        pack=True,
        backend=backend,
        **options,
    )
    loss = (out.double() * gs).sum() + (v.double() * gv).sum()
    return [out, bits, v, *torch.autograd.grad(loss, leaves)]


def flips_outside(
    spikes, currents, v_init=None, decay=0.9, threshold=1.0, reset="hard", margin=1e-4
):
    """Spikes that no rounding explains: the membrane in float64 follows the tested run's own.

    ``spikes`` and ``currents`` are ``[T, ...]``; counted is where ``|u| >= margin`` and the spike
    is not what the membrane says.
    """
    s, x = spikes.double(), currents.double()
    v, wrong = torch.zeros_like(x[0]) if v_init is None else v_init.double(), 0
    for t in range(len(x)):
        h = decay * v + x[t]
        clear = (h - threshold).abs() >= margin
        wrong += int((clear & (s[t] != (h >= threshold).double())).sum())
        v = h * (1 - s[t]) if reset == "hard" else h - threshold * s[t]
    return wrong


AT_THE_THRESHOLD = ([1.0, 0.75, 0.625], [1.0, 0.0, 1.0])
"""Currents and spikes at threshold 1 and decay 1/2, exact in every type: the first membrane is 1,
the second 0.75 only if the first was reset, the third 0.375 + 0.625 = 1."""


def check_threshold(dtype, backend, device="cpu"):
    """A membrane that equals the threshold fires and is reset."""
    currents, expected = AT_THE_THRESHOLD
    x = torch.tensor(currents, dtype=dtype, device=device)[:, None].repeat(1, 70)
    for reset in ("hard", "soft"):
        s, v = F.lif(x, reset=reset, return_state=True, backend=backend)
        assert all(set(step.tolist()) == {fired} for step, fired in zip(s, expected, strict=True))
        assert not v.any()


def check_nan(dtype, backend, device="cpu"):
    """A neuron that has seen NaN passes it on and fires no more; its neighbours do not notice."""
    x = torch.full((3, 70), 2.0).to(device, dtype)
    x[1, 5] = float("nan")
    s, v, bits = F.lif(x, return_state=True, pack=True, backend=backend)
    assert s[:, 5].tolist() == [1.0, 0.0, 0.0]
    assert v[5].isnan()
    s[:, 5] = 1
    assert bool((s == 1).all())
    assert int(bits[2, 0]) & (1 << 5) == 0
