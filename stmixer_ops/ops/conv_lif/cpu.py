"""conv_lif on the CPU: PyTorch's convolution, then the LIF kernel."""

from __future__ import annotations

import torch

from .. import _native
from . import reference
from .buffers import Call, Results, images, rows


def conv_lif(call: Call) -> Results:
    ops, s, dtype = torch.ops.stmixer, call.s, call.weight.dtype
    if not s.is_floating_point():
        s = images(ops.unpack_rows(rows(s), call.weight.shape[1], dtype, "cpu"))
    y = reference.currents(
        s, call.weight, call.bias, call.stride, call.padding, call.residual, call.keep_sum
    )
    y = rows(y).contiguous()
    v = None if call.v_init is None else rows(call.v_init)
    requested = (call.return_state, call.keep_spikes, call.pack)
    neuron = (call.threshold, call.decay, call.reset)
    fired, v, bits = ops.lif_forward(y, v, *requested, *neuron, "cpu")
    return Results(
        images(fired.to(dtype)) if call.keep_spikes else _native.placeholder(s, dtype),
        images(y) if call.keep_sum else _native.placeholder(s, dtype),
        images(v) if call.return_state else v,
        images(bits) if call.pack else bits,
    )
