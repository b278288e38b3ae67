"""conv_lif: checks, choice of backend, registration. Inference only: there is no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._backend import choose
from .._register import register
from ..lif.op import surrogate_obstacle
from ..lif.spec import NEURON_SCHEMA, LIFSpec, check_state, check_time_first
from ..pack import op as pack_op
from ..spike_linear.op import check_geometry
from . import reference
from .buffers import Call, Results, allocate, output_shape

_native.library.define(
    "conv_lif(Tensor s, Tensor weight, Tensor? bias, Tensor? residual, Tensor? v_init, int stride,"
    f" int padding, {NEURON_SCHEMA}, bool keep_spikes, bool keep_sum,"
    " bool return_state, bool pack, str backend) -> (Tensor, Tensor, Tensor, Tensor)"
)
register("conv_lif", __package__, Call)


@torch.library.register_fake("stmixer::conv_lif", lib=_native.library)
def _conv_lif_fake(*arguments: Any) -> Results:
    return allocate(Call(*arguments[:-1]))


def check(call: Call) -> None:
    s, weight, bias, residual, v_init, stride, padding, *_ = call
    check_geometry(s, weight, stride, padding)
    check_time_first(weight, "weight")
    if s.dim() != 5 or s.shape[0] == 0:
        raise ValueError(f"s must be [T, B, C, H, W] with T >= 1, got shape {tuple(s.shape)}")
    if s.dtype == torch.int32:
        pack_op.check_bits(s, weight.shape[1], 2)
    elif s.dtype != weight.dtype:
        raise TypeError(f"s must be {weight.dtype} like weight, or int32 words, got {s.dtype}")
    elif s.shape[2] != weight.shape[1]:
        raise ValueError(
            f"weight must take the {s.shape[2]} channels of s (shape {tuple(s.shape)}), "
            f"got shape {tuple(weight.shape)}"
        )
    shape = output_shape(s, weight, stride, padding)
    if min(shape[3:]) < 1:
        raise ValueError(
            f"the window of weight (shape {tuple(weight.shape)}) must fit in s of shape "
            f"{tuple(s.shape)} and padding {padding}"
        )
    if bias is not None and bias.shape != shape[2:3]:
        raise ValueError(f"bias must have shape ({shape[2]},), got {tuple(bias.shape)}")
    if residual is not None and (residual.shape != shape or residual.dtype != weight.dtype):
        raise ValueError(
            f"residual must be {weight.dtype} of shape {shape} like the result, "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )
    check_state(v_init, weight.new_empty(1).expand(shape))


def _obstacles(spec: LIFSpec, weight: Tensor, others: tuple[Any, ...]) -> dict[str, str | None]:
    obstacle = surrogate_obstacle(spec.surrogate)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in others):
        obstacle = "its kernels are for inference, and an argument requires a gradient"
    wide = "float64 has no kernel" if weight.dtype == torch.float64 else None
    return {"cpu": obstacle, "triton": obstacle or wide}


def conv_lif(call: Call, spec: LIFSpec, backend: str | None) -> Results:
    """Spikes, what the LIF integrated, last membrane, bits along the channels, where requested;
    ``call`` has the neuron of ``spec``."""
    s, weight, bias, residual, v_init, stride, padding, *_ = call
    tensors = (s, weight, bias, residual, v_init)
    chosen = choose("conv_lif", backend, _obstacles(spec, weight, tensors), tensors)
    if chosen == "reference":
        out, total, v = reference.conv_lif(
            s, weight, bias, stride, padding, residual, call.keep_sum, spec, v_init
        )
        return Results(out, total, v, pack_op.pack_spikes(out, 2, backend) if call.pack else v)
    return Results(*torch.ops.stmixer.conv_lif(*call, chosen))
