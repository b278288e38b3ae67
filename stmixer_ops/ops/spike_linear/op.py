"""spike_linear and spike_conv2d: checks, choice of backend, autograd that saves bits."""

from __future__ import annotations

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


def spike_linear(s: Tensor, weight: Tensor, bits: Tensor | None, backend: str | None) -> Tensor:
    choose("spike_linear", backend, {"reference": None})
    return reference.spike_linear(s, weight)


def spike_conv2d(
    s: Tensor, weight: Tensor, stride: int, padding: int, bits: Tensor | None, backend: str | None
) -> Tensor:
    choose("spike_conv2d", backend, {"reference": None})
    return reference.spike_conv2d(s, weight, stride, padding)
