"""spike_linear and spike_conv2d: checks, choice of backend, autograd that saves bits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _native
from .._autograd import once_differentiable
from .._backend import choose
from .._register import register
from ..pack import op as pack_op
from . import reference

_native.library.define(
    "spike_weight_gradient(Tensor g, Tensor bits, int channels, int kernel, int stride,"
    " int padding, str backend) -> Tensor"
)
register("spike_weight_gradient", __package__)


@torch.library.register_fake("stmixer::spike_weight_gradient", lib=_native.library)
def _spike_weight_gradient_fake(
    g: Tensor, bits: Tensor, channels: int, kernel: int, *geometry: Any
) -> Tensor:
    weight = g.new_empty((kernel, kernel, channels, g.shape[1]), dtype=torch.float32)
    return weight.permute(3, 2, 0, 1)


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


def check_geometry(s: Tensor, weight: Tensor, stride: int, padding: int) -> None:
    if weight.dim() != 4 or s.dim() < 4 or weight.shape[2] != weight.shape[3]:
        raise ValueError(
            "s must be [..., B, C, H, W] and weight [O, C, K, K], "
            f"got shapes {tuple(s.shape)} and {tuple(weight.shape)}"
        )
    if stride < 1 or padding < 0:
        raise ValueError(f"stride must be >= 1 and padding >= 0, got {stride} and {padding}")


def check_conv(s: Tensor, weight: Tensor, stride: int, padding: int, bits: Tensor | None) -> None:
    check_geometry(s, weight, stride, padding)
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
    @once_differentiable("spike_linear")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        bits, weight = ctx.saved_tensors
        gs = (g @ weight.to(g.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        if bits is None:
            return gs, None, None, None
        g, bits = g.flatten(0, -2), bits.flatten(0, -2)
        if ctx.backend == "triton":  # rows are images of one pixel
            gweight = torch.ops.stmixer.spike_weight_gradient(
                g[:, :, None, None], bits[:, None, None], weight.shape[1], 1, 1, 0, ctx.backend
            ).flatten(1)
        else:
            s = torch.ops.stmixer.unpack_rows(bits, weight.shape[1], g.dtype, ctx.backend)
            gweight = g.t() @ s
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
    @once_differentiable("spike_conv2d")
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        bits, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        needs_input, needs_weight = ctx.needs_input_grad[:2]
        gweight = None
        s = g.new_empty(1).expand(ctx.shape)  # only its shape is read without needs_weight
        if needs_weight and ctx.backend == "triton" and ctx.channels_inner:
            needs_weight = False
            gweight = torch.ops.stmixer.spike_weight_gradient(
                g, bits, ctx.length, weight.shape[2], stride, padding, ctx.backend
            )
        elif needs_weight:
            s = torch.ops.stmixer.unpack_rows(bits, ctx.length, g.dtype, ctx.backend)
            s = s.movedim(-1, 1) if ctx.channels_inner else s
        gs, gdense, _ = torch.ops.aten.convolution_backward(
            g, s, weight.to(g.dtype), None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1,
            [needs_input, needs_weight, False],
        )  # fmt: skip
        gweight = gdense if gweight is None else gweight
        gs = None if gs is None else gs.to(ctx.dtype)
        return gs, None if gweight is None else gweight.to(weight.dtype), *[None] * 4


def _kernels(weight: Tensor) -> dict[str, str | None]:
    wide = "float64 has no tensor-core product" if weight.dtype == torch.float64 else None
    return {"cpu": None, "triton": wide}


def spike_linear(s: Tensor, weight: Tensor, bits: Tensor | None, backend: str | None) -> Tensor:
    chosen = choose("spike_linear", backend, _kernels(weight), (s, weight, bits))
    if chosen == "reference":
        return reference.spike_linear(s, weight)
    return _SpikeLinear.apply(s, weight, bits, chosen)


def spike_conv2d(
    s: Tensor, weight: Tensor, stride: int, padding: int, bits: Tensor | None, backend: str | None
) -> Tensor:
    chosen = choose("spike_conv2d", backend, _kernels(weight), (s, weight, bits))
    if chosen == "reference":
        return reference.spike_conv2d(s, weight, stride, padding)
    flat = None if bits is None else bits.flatten(0, -4)
    y = _SpikeConv2d.apply(s.flatten(0, -4), weight, stride, padding, flat, chosen)
    return y.unflatten(0, s.shape[:-3])
