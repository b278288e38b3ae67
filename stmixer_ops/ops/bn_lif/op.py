"""bn_lif: checks, choice of backend, registration, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._autograd import once_differentiable, save, saved
from .._backend import choose
from .._register import register
from ..lif.op import surrogate_obstacle
from ..lif.spec import GRADIENT_SCHEMA, NEURON_SCHEMA, LIFSpec, state_dtype
from ..pack import op as pack_op
from . import reference
from .buffers import BackwardCall, ForwardCall

_native.library.define(
    "bn_lif_forward(Tensor x, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    " Tensor? running_var, bool training, float eps, Tensor? residual, Tensor? v_init,"
    f" int channel_dim, {NEURON_SCHEMA}, bool keep_sum, bool return_state, bool pack,"
    " str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_forward = register("bn_lif_forward", __package__, ForwardCall)
_native.library.define(
    "bn_lif_backward(Tensor? gs, Tensor? gsum, Tensor? gv, Tensor x, Tensor? total,"
    " Tensor? v_init, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps,"
    f" bool training, bool residual_gradient, int channel_dim, {NEURON_SCHEMA},"
    f" {GRADIENT_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_backward = register("bn_lif_backward", __package__, BackwardCall)


@torch.library.register_fake("stmixer::bn_lif_forward", lib=_native.library)
def _bn_lif_forward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    call = ForwardCall(*arguments[:-1])
    x = call.x
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    per_channel = [x.new_empty(x.shape[call.channel_dim], dtype=dtype) for _ in range(2)]
    return (
        _native.empty_like_steps(x, strides),
        _native.empty_like_steps(x, strides) if call.keep_sum else _native.placeholder(x, x.dtype),
        _native.empty_step(x, strides, dtype)
        if call.return_state
        else _native.placeholder(x, dtype),
        _native.empty_bits(x) if call.pack else _native.placeholder(x, torch.int32),
        *per_channel,
    )


@torch.library.register_fake("stmixer::bn_lif_backward", lib=_native.library)
def _bn_lif_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    call = BackwardCall(*arguments[:-1])
    x = call.x
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    with_residual, stateless = call.residual_gradient, call.v_init is None
    return (
        _native.empty_like_steps(x, strides),
        _native.empty_like_steps(x, strides) if with_residual else _native.placeholder(x, x.dtype),
        torch.empty_like(call.mean),
        torch.empty_like(call.mean),
        _native.placeholder(x, dtype) if stateless else _native.empty_step(x, strides, dtype),
    )


def check_channel_dim(x: Tensor, channel_dim: int) -> int:
    """The normalised ``channel_dim``."""
    dim = pack_op.check(x, channel_dim, "x")
    if dim == 0:
        raise ValueError("channel_dim must not be 0, which is time")
    return dim


def check(call: ForwardCall) -> None:
    """Every per-channel tensor must be ``[C]``."""
    x, weight, bias, running_mean, running_var, training, _, residual, _, dim, *_ = call
    channels = x.shape[dim]
    given = {
        "weight": weight,
        "bias": bias,
        "running_mean": running_mean,
        "running_var": running_var,
    }
    for name, value in given.items():
        if value is not None and value.shape != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},), the channels of x along dim {dim}, "
                f"got {tuple(value.shape)}"
            )
    if not training and (running_mean is None or running_var is None):
        raise ValueError("running_mean and running_var are needed unless training=True")
    if training and x.numel() <= channels:
        raise ValueError(
            f"training needs more than one value per channel, got x of shape {tuple(x.shape)}"
        )
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual must be {x.dtype} of shape {tuple(x.shape)} like x, "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )


class _BNLIF(torch.autograd.Function):
    """Saves the input (and the sum where it is kept); normalisation and membrane are recomputed.

    Gives those of spikes, sum, state, bits, mean and variance that were requested: each output
    costs the graph 3 us.
    """

    @staticmethod
    def forward(
        ctx: Any,
        return_sum: bool,
        backend: str,
        detach_reset: bool,
        surrogate: str,
        scale: float,
        *arguments: Any,
    ) -> tuple[Tensor, ...]:
        call = ForwardCall(*arguments)
        s, total, v, bits, mean, var = _forward(*arguments, backend)
        ctx.set_materialize_grads(False)
        total_or_none = total if call.keep_sum else None
        save(ctx, call.x, call.weight, call.bias, total_or_none, call.v_init, mean, var)
        ctx.requested = return_sum, call.return_state
        ctx.has_residual = call.residual is not None
        ctx.options = (call.eps, call.training, ctx.has_residual, call.channel_dim)
        ctx.options += (call.threshold, call.decay, call.reset, detach_reset, surrogate, scale)
        ctx.backend = backend
        plain = (*((bits,) if call.pack else ()), *((mean, var) if call.training else ()))
        ctx.mark_non_differentiable(*plain)
        return s, *((total,) if return_sum else ()), *((v,) if call.return_state else ()), *plain

    @staticmethod
    @once_differentiable("bn_lif")
    def backward(ctx: Any, gs: Tensor | None, *gradients: Tensor | None) -> tuple[Any, ...]:
        x, weight, bias, total, v_init, mean, var = saved(ctx)
        rest = iter(gradients)
        gsum, gv = (next(rest) if wanted else None for wanted in ctx.requested)
        call = BackwardCall(gs, gsum, gv, x, total, v_init, weight, bias, mean, var, *ctx.options)
        gx, gresidual, gweight, gbias, gv_init = _backward(*call, ctx.backend)
        return (
            *[None] * 5,  # of what is not in the call
            gx,
            None if weight is None else gweight.to(weight.dtype),
            None if bias is None else gbias.to(bias.dtype),
            *[None] * 4,  # running statistics, training, eps
            gresidual if ctx.has_residual else None,
            None if v_init is None else gv_init,
            *[None] * 7,
        )


def bn_lif(
    call: ForwardCall, spec: LIFSpec, momentum: float, return_sum: bool, backend: str | None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Spikes, what the LIF integrated, last membrane, bits; the last three where requested.

    ``call`` has the neuron of ``spec``.
    """
    kernels = dict.fromkeys(("cuda", "triton", "cpu"), surrogate_obstacle(spec.surrogate))
    x, weight, bias, running_mean, running_var, training, eps, residual, v_init, *_ = call
    tensors = (x, weight, bias, running_mean, running_var, residual, v_init)
    chosen = choose("bn_lif", backend, kernels, tensors)
    total: Tensor | None
    v: Tensor | None
    if chosen == "reference":
        s, total, v = reference.bn_lif(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=training,
            momentum=momentum,
            eps=eps,
            residual=residual,
            keep_sum=return_sum,
            channel_dim=call.channel_dim,
            spec=spec,
            v_init=v_init,
        )
        return s, total, v, pack_op.pack_spikes(s, s.dim() - 1, backend) if call.pack else v
    results = iter(_BNLIF.apply(return_sum, chosen, *spec.gradient, *call))
    s = next(results)
    requested = (return_sum, call.return_state, call.pack)
    total, v, bits = (next(results) if wanted else None for wanted in requested)
    if training and running_mean is not None and running_var is not None:
        mean, var = results
        count = x.numel() // x.shape[call.channel_dim]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = var * (count / (count - 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return s, total, v, bits
