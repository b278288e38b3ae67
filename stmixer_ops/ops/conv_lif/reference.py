"""Convolution of spikes, bias, optional residual sum, LIF: plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..lif import reference as lif_reference
from ..lif.spec import LIFSpec, state_dtype
from ..pack import reference as pack_reference
from ..spike_linear import reference as linear_reference


def currents(
    s: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    residual: Tensor | None,
    keep_sum: bool,
) -> Tensor:
    """What the LIF integrates, ``[T, B, O, H, W]``, from dense ``s [T, B, C, H, W]``.

    It stays in the state's dtype, unless it is a result of its own (a residual, or ``keep_sum``):
    then it is rounded to the weight's dtype and the LIF sees the rounded value, as in ``bn_lif``.
    """
    dtype = state_dtype(weight.dtype)
    y = linear_reference.spike_conv2d(s.to(dtype), weight.to(dtype), stride, padding)
    if bias is not None:
        y = y + bias.to(dtype)[:, None, None]
    if residual is not None:
        y = y + residual.to(dtype)
    return y.to(weight.dtype) if keep_sum or residual is not None else y


def conv_lif(
    s: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    residual: Tensor | None,
    keep_sum: bool,
    spec: LIFSpec,
    v_init: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(spikes, sum, membrane)``; int32 ``s`` are words of spikes along the channels."""
    if not s.is_floating_point():
        s = pack_reference.unpack_spikes(s, weight.shape[1], 2, weight.dtype)
    y = currents(s, weight, bias, stride, padding, residual, keep_sum)
    out, v = lif_reference.lif(y, spec, v_init)
    return out.to(weight.dtype), y, v
