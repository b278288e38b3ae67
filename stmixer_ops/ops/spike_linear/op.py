"""spike_linear and spike_conv2d: checks, choice of backend, autograd that saves bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._backend import choose
from ..pack import op as pack_op
from . import reference


def _check_operands(s: Tensor, weight: Tensor, channels: int, bits: Tensor | None) -> None:
    if weight.shape[1] != channels:
        raise ValueError(
            f"weight must take the {channels} channels of s (shape {tuple(s.shape)}), "
            f"got shape {tuple(weight.shape)}"
        )
    if bits is not None:
        pack_op.check_bits(bits, s.shape[-1], -1)
        if bits.shape[:-1] != s.shape[:-1]:
            raise ValueError(
                f"bits must be pack_spikes(s) for s of shape {tuple(s.shape)}, "
                f"got shape {tuple(bits.shape)}"
            )


def check(s: Tensor, weight: Tensor, bits: Tensor | None) -> None:
    if weight.dim() != 2 or s.dim() < 1:
        raise ValueError(
            "s must be [..., C] and weight [O, C], "
            f"got shapes {tuple(s.shape)} and {tuple(weight.shape)}"
        )
    _check_operands(s, weight, s.shape[-1], bits)


def check_conv(s: Tensor, weight: Tensor, stride: int, padding: int, bits: Tensor | None) -> None:
    if weight.dim() != 4 or s.dim() < 4:
        raise ValueError(
            "s must be [..., B, C, H, W] and weight [O, C, K, K], "
            f"got shapes {tuple(s.shape)} and {tuple(weight.shape)}"
        )
    if stride < 1 or padding < 0:
        raise ValueError(f"stride must be >= 1 and padding >= 0, got {stride} and {padding}")
    _check_operands(s, weight, s.shape[-3], bits)


class _SpikeLinear(torch.autograd.Function):
    """A dense product whose left operand is kept as bits.

    Autocast reaches the product in forward; backward casts the weight again rather than keep the
    narrow copy.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, weight: Tensor, bits: Tensor | None, backend: str) -> Tensor:
        needs_weight = ctx.needs_input_grad[1]
        if needs_weight and bits is None:
            bits = torch.ops.stmixer.pack_rows(s, backend)
        ctx.save_for_backward(bits if needs_weight else None, weight)
        ctx.dtype, ctx.backend = s.dtype, backend
        return F.linear(s, weight)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        bits, weight = ctx.saved_tensors
        gs = (g @ weight.to(g.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        if bits is None:
            return gs, None, None, None
        s = torch.ops.stmixer.unpack_rows(bits, weight.shape[1], g.dtype, ctx.backend)
        gweight = g.flatten(0, -2).t() @ s.flatten(0, -2)
        return gs, gweight.to(weight.dtype), None, None


class _SpikeConv2d(torch.autograd.Function):
    """A dense convolution whose input is kept as bits, packed along its innermost dimension."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        weight: Tensor,
        stride: int,
        padding: int,
        bits: Tensor | None,
        backend: str,
    ) -> Tensor:
        ctx.geometry = (stride, padding)
        ctx.channels_inner = bits is None and s.stride(1) < s.stride(3)
        ctx.length = s.shape[1] if ctx.channels_inner else s.shape[3]
        needs_weight = ctx.needs_input_grad[1]
        if needs_weight and bits is None:
            rows = s.movedim(1, -1) if ctx.channels_inner else s
            bits = torch.ops.stmixer.pack_rows(rows, backend)
        ctx.save_for_backward(bits if needs_weight else None, weight)
        ctx.shape, ctx.dtype, ctx.backend = s.shape, s.dtype, backend
        return F.conv2d(s, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        bits, weight = ctx.saved_tensors
        if bits is None:
            s = g.new_empty(1).expand(ctx.shape)  # only its shape is read
        else:
            s = torch.ops.stmixer.unpack_rows(bits, ctx.length, g.dtype, ctx.backend)
            s = s.movedim(-1, 1) if ctx.channels_inner else s
        stride, padding = ctx.geometry
        gs, gweight, _ = torch.ops.aten.convolution_backward(
            g, s, weight.to(g.dtype), None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        gs = None if gs is None else gs.to(ctx.dtype)
        return gs, None if gweight is None else gweight.to(weight.dtype), *[None] * 4


def spike_linear(s: Tensor, weight: Tensor, bits: Tensor | None, backend: str | None) -> Tensor:
    chosen = choose("spike_linear", backend, {"cpu": None}, (s, weight, bits))
    if chosen == "reference":
        return reference.spike_linear(s, weight)
    return _SpikeLinear.apply(s, weight, bits, chosen)


def spike_conv2d(
    s: Tensor, weight: Tensor, stride: int, padding: int, bits: Tensor | None, backend: str | None
) -> Tensor:
    chosen = choose("spike_conv2d", backend, {"cpu": None}, (s, weight, bits))
    if chosen == "reference":
        return reference.spike_conv2d(s, weight, stride, padding)
    flat = None if bits is None else bits.flatten(0, -4)
    y = _SpikeConv2d.apply(s.flatten(0, -4), weight, stride, padding, flat, chosen)
    return y.unflatten(0, s.shape[:-3])
