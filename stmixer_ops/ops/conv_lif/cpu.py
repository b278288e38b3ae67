"""conv_lif on the CPU: PyTorch's convolution, then the LIF kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from . import reference
from .buffers import Results, images, rows


def conv_lif(
    s: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    v_init: Tensor | None,
    stride: int,
    padding: int,
    threshold: float,
    decay: float,
    reset: str,
    keep_spikes: bool,
    keep_sum: bool,
    return_state: bool,
    pack: bool,
) -> Results:
    ops = torch.ops.stmixer
    if not s.is_floating_point():
        s = images(ops.unpack_rows(rows(s), weight.shape[1], weight.dtype, "cpu"))
    y = reference.currents(s, weight, bias, stride, padding, residual, keep_sum)
    y = rows(y).contiguous()
    v = None if v_init is None else rows(v_init)
    fired, v, bits = ops.lif_forward(
        y, v, threshold, decay, reset, return_state, keep_spikes, pack, "cpu"
    )
    return Results(
        images(fired.to(weight.dtype)) if keep_spikes else _native.nothing(s, weight.dtype),
        images(y) if keep_sum else _native.nothing(s, weight.dtype),
        images(v) if return_state else v,
        images(bits) if pack else bits,
    )
