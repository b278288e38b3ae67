"""Launchers of the BN + residual + LIF kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from ..lif.spec import state_dtype
from ..pack import cpu as pack_cpu


def _with_channel_runs(x: Tensor, channel_dim: int) -> tuple[Tensor, tuple[int, ...], int]:
    """``x``, the strides of a step, and how many neighbours in memory share a channel.

    In a dense layout that number is the channel dimension's stride.
    """
    strides = _native.step_strides(x)
    inner = 1 if x.shape[channel_dim] == 1 else strides[channel_dim - 1]
    return _native.with_steps(x, strides), strides, inner


def _in_state_type(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.to(dtype).contiguous()


def bn_lif_forward(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    residual: Tensor | None,
    v_init: Tensor | None,
    channel_dim: int,
    threshold: float,
    decay: float,
    reset: str,
    keep_sum: bool,
    return_state: bool,
    pack: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, strides, inner = _with_channel_runs(x, channel_dim)
    dtype = state_dtype(x.dtype)
    extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
    channels, steps, neurons = x.shape[channel_dim], x.shape[0], x[0].numel()
    threads = torch.get_num_threads()
    if training:
        mean, var = (torch.empty(channels, dtype=dtype) for _ in range(2))
        extension.bn_statistics(
            code,
            steps,
            neurons,
            x.stride(0),
            channels,
            inner,
            x.data_ptr(),
            mean.data_ptr(),
            var.data_ptr(),
            threads,
        )
    else:
        assert running_mean is not None and running_var is not None
        # Results of an op must not be its arguments.
        mean, var = (r.to(dtype, copy=True).contiguous() for r in (running_mean, running_var))
    weight, bias = _in_state_type(weight, dtype), _in_state_type(bias, dtype)
    residual = None if residual is None else _native.with_steps(residual, strides)
    v_init = _native.with_strides(v_init, strides)
    s = _native.empty_like_steps(x, strides)
    total = _native.empty_like_steps(x, strides) if keep_sum else _native.nothing(x, x.dtype)
    v = _native.empty_step(x, strides, dtype) if return_state else _native.nothing(x, dtype)
    in_kernel = pack and _native.rows_are_words(x, strides)
    bits = _native.empty_bits(s) if in_kernel else _native.nothing(x, torch.int32)
    if x.numel():
        extension.bn_lif_forward(
            code,
            steps,
            neurons,
            x.stride(0),
            0 if residual is None else residual.stride(0),
            channels,
            inner,
            _native.neuron(threshold, decay, reset, False, "dspike", 1.0),
            eps,
            _native.address(weight),
            _native.address(bias),
            mean.data_ptr(),
            var.data_ptr(),
            x.data_ptr(),
            _native.address(residual),
            _native.address(v_init),
            total.data_ptr() if keep_sum else 0,
            s.data_ptr(),
            v.data_ptr() if return_state else 0,
            bits.data_ptr() if in_kernel else 0,
            threads,
        )
    bits = pack_cpu.pack_rows(s) if pack and not in_kernel else bits
    return s, total, v, bits, mean, var


def bn_lif_backward(
    gs: Tensor | None,
    gsum: Tensor | None,
    gv: Tensor | None,
    x: Tensor,
    total: Tensor | None,
    v_init: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    training: bool,
    residual_gradient: bool,
    channel_dim: int,
    threshold: float,
    decay: float,
    reset: str,
    detach_reset: bool,
    surrogate: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, strides, inner = _with_channel_runs(x, channel_dim)
    dtype = state_dtype(x.dtype)
    channels, steps, neurons = x.shape[channel_dim], x.shape[0], x[0].numel()
    weight, bias = _in_state_type(weight, dtype), _in_state_type(bias, dtype)
    gweight, gbias = (torch.zeros_like(mean) for _ in range(2))
    gs = None if gs is None else _native.with_steps(gs, strides, packed=True)
    gsum = None if gsum is None else _native.with_steps(gsum, strides, packed=True)
    total = None if total is None else _native.with_steps(total, strides, packed=True)
    gv = _native.with_strides(gv, strides)
    start = _native.with_strides(v_init, strides)
    g = _native.empty_like_steps(x, strides)
    gv_init = _native.nothing(x, dtype) if start is None else _native.empty_step(x, strides, dtype)
    # Without a residual the gradient of the sum is only a step on the way: finish it in place.
    gx = _native.empty_like_steps(x, strides) if residual_gradient else g
    if x.numel():
        extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
        threads = torch.get_num_threads()
        scratch = _native.scratch(threads * extension.bn_lif_scratch_bytes(steps, code))
        extension.bn_lif_backward(
            code,
            steps,
            neurons,
            x.stride(0),
            channels,
            inner,
            _native.neuron(threshold, decay, reset, detach_reset, surrogate, scale),
            eps,
            _native.address(weight),
            _native.address(bias),
            mean.data_ptr(),
            var.data_ptr(),
            training,
            x.data_ptr(),
            _native.address(total),
            _native.address(start),
            _native.address(gs),
            _native.address(gsum),
            _native.address(gv),
            g.data_ptr(),
            gx.data_ptr(),
            gweight.data_ptr(),
            gbias.data_ptr(),
            0 if start is None else gv_init.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    gresidual = g if residual_gradient else _native.nothing(x, x.dtype)
    return gx, gresidual, gweight, gbias, gv_init
