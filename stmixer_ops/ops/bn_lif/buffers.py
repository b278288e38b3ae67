"""What the kernels of every backend read and write: inputs laid out alike, results allocated."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _native
from ..lif import buffers as lif_buffers


class ForwardCall(NamedTuple):
    """The arguments of the operator, in the order of its schema, but for the backend."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    training: bool
    eps: float
    residual: Tensor | None
    v_init: Tensor | None
    channel_dim: int
    threshold: float
    decay: float
    reset: str
    keep_sum: bool
    return_state: bool
    pack: bool


class BackwardCall(NamedTuple):
    """Likewise."""

    gs: Tensor | None
    gsum: Tensor | None
    gv: Tensor | None
    x: Tensor
    total: Tensor | None
    v_init: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float
    training: bool
    residual_gradient: bool
    channel_dim: int
    threshold: float
    decay: float
    reset: str
    detach_reset: bool
    surrogate: str
    scale: float

    @property
    def neuron(self) -> tuple[Any, ...]:
        """With what differentiates it."""
        return self[-6:]


def _channel_run(dense: Tensor, channel_dim: int) -> int:
    """How many neighbours in memory share a channel: its stride in a dense step."""
    return 1 if dense.shape[channel_dim] == 1 else dense.stride(channel_dim)


def _in_state_type(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if parameter is None or (parameter.dtype == dtype and parameter.is_contiguous()):
        return parameter
    return parameter.to(dtype).contiguous()


class Forward(NamedTuple):
    x: Tensor
    inner: int
    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    residual: Tensor | None
    v_init: Tensor | None
    s: Tensor
    total: Tensor
    v: Tensor
    bits: Tensor


def forward(call: ForwardCall) -> Forward:
    """Statistics are for the kernels to fill in training, else copies of the running ones."""
    x, v_init, s, v, bits = lif_buffers.forward(call.x, call.v_init, call.return_state, call.pack)
    strides, channels, dtype = s.stride()[1:], x.shape[call.channel_dim], v.dtype
    if call.training:
        mean, var = (torch.empty(channels, dtype=dtype, device=x.device) for _ in range(2))
    else:
        assert call.running_mean is not None and call.running_var is not None
        # Results of an op must not be its arguments.
        running = (call.running_mean, call.running_var)
        mean, var = (r.to(dtype, copy=True).contiguous() for r in running)
    return Forward(
        x,
        _channel_run(s, call.channel_dim),
        _in_state_type(call.weight, dtype),
        _in_state_type(call.bias, dtype),
        mean,
        var,
        None if call.residual is None else _native.with_steps(call.residual, strides),
        v_init,
        s,
        _native.empty_like_steps(x, strides) if call.keep_sum else _native.placeholder(x, x.dtype),
        v,
        bits,
    )


class Backward(NamedTuple):
    gs: Tensor | None
    gsum: Tensor | None
    gv: Tensor | None
    x: Tensor
    inner: int
    total: Tensor | None
    v_init: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    g: Tensor
    gx: Tensor
    gweight: Tensor
    gbias: Tensor
    gv_init: Tensor


def backward(call: BackwardCall) -> Backward:
    """``g`` is the gradient of the sum. Without a residual it is only a step on the way to ``gx``,
    which is then finished in place."""
    gs, gv, x, v_init, g, gv_init = lif_buffers.backward(call.gs, call.gv, call.x, call.v_init)
    strides = g.stride()[1:]
    per_channel = torch.empty_like if x.numel() else torch.zeros_like
    return Backward(
        gs,
        None if call.gsum is None else _native.with_steps(call.gsum, strides, packed=True),
        gv,
        x,
        _channel_run(g, call.channel_dim),
        None if call.total is None else _native.with_steps(call.total, strides, packed=True),
        v_init,
        _in_state_type(call.weight, call.mean.dtype),
        _in_state_type(call.bias, call.mean.dtype),
        g,
        _native.empty_like_steps(x, strides) if call.residual_gradient else g,
        per_channel(call.mean),
        per_channel(call.mean),
        gv_init,
    )
