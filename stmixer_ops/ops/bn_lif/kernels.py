"""Calls of the BN + residual + LIF kernels in C++ and CUDA, which take the same parameters."""

from __future__ import annotations

from torch import Tensor

from .. import _native
from ..pack.kernels import pack_rows
from . import buffers
from .buffers import BackwardCall, ForwardCall


def bn_lif_forward(
    run: _native.Run, call: ForwardCall
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, inner, weight, bias, mean, var, residual, v_init, s, total, v, bits = buffers.forward(call)
    extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
    channels, steps, neurons = x.shape[call.channel_dim], x.shape[0], _native.step_size(x)
    if x.numel():
        parameters = extension.BnLifForward(
            code,
            steps,
            neurons,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            channels,
            inner,
            _native.neuron(call.threshold, call.decay, call.reset),
            call.eps,
            _native.address(weight),
            _native.address(bias),
            mean.data_ptr(),
            var.data_ptr(),
            call.training,
            x.data_ptr(),
            _native.address(residual),
            _native.address(v_init),
            total.data_ptr(),
            s.data_ptr(),
            v.data_ptr(),
            bits.data_ptr(),
        )
        run(parameters, x.device)
    bits = pack_rows(run, s) if call.pack and not bits.numel() else bits
    return s, total, v, bits, mean, var


def bn_lif_backward(
    run: _native.Run, call: BackwardCall
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gs, gsum, gv, x, inner, total, v_init, weight, bias, g, gx, gweight, gbias, gv_init = (
        buffers.backward(call)
    )
    if x.numel():
        extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
        parameters = extension.BnLifBackward(
            code,
            x.shape[0],
            _native.step_size(x),
            x.stride(0),
            x.shape[call.channel_dim],
            inner,
            _native.neuron(*call.neuron),
            call.eps,
            _native.address(weight),
            _native.address(bias),
            call.mean.data_ptr(),
            call.var.data_ptr(),
            call.training,
            x.data_ptr(),
            _native.address(total),
            _native.address(v_init),
            _native.address(gs),
            _native.address(gsum),
            _native.address(gv),
            g.data_ptr(),
            gx.data_ptr(),
            gweight.data_ptr(),
            gbias.data_ptr(),
            gv_init.data_ptr(),
        )
        run(parameters, x.device)
    gresidual = g if call.residual_gradient else _native.placeholder(x, x.dtype)
    return gx, gresidual, gweight, gbias, gv_init
