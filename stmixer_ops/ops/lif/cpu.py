"""Launchers of the LIF kernels: tensors in, addresses down, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from ..pack import cpu as pack_cpu
from .spec import state_dtype


def lif_forward(
    x: Tensor,
    v_init: Tensor | None,
    threshold: float,
    decay: float,
    reset: str,
    return_state: bool,
    pack: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    strides = _native.step_strides(x)
    x = _native.with_steps(x, strides)
    v_init = _native.with_strides(v_init, strides)
    dtype = state_dtype(x.dtype)
    s = _native.empty_like_steps(x, strides)
    v = _native.empty_step(x, strides, dtype) if return_state else _native.nothing(x, dtype)
    in_kernel = pack and _native.rows_are_words(x, strides)
    bits = _native.empty_bits(s) if in_kernel else _native.nothing(x, torch.int32)
    if x.numel():
        _native.extension().lif_forward(
            _native.DTYPE_CODES[x.dtype],
            x.shape[0],
            x[0].numel(),
            x.stride(0),
            _native.neuron(threshold, decay, reset, False, "dspike", 1.0),
            x.data_ptr(),
            _native.address(v_init),
            s.data_ptr(),
            v.data_ptr() if return_state else 0,
            bits.data_ptr() if in_kernel else 0,
            torch.get_num_threads(),
        )
    return s, v, pack_cpu.pack_rows(s) if pack and not in_kernel else bits


def lif_backward(
    gs: Tensor | None,
    gv: Tensor | None,
    x: Tensor,
    v_init: Tensor | None,
    threshold: float,
    decay: float,
    reset: str,
    detach_reset: bool,
    surrogate: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    strides = _native.step_strides(x)
    x = _native.with_steps(x, strides)
    gs = None if gs is None else _native.with_steps(gs, strides, packed=True)
    gv = _native.with_strides(gv, strides)
    start = _native.with_strides(v_init, strides)
    dtype = state_dtype(x.dtype)
    gx = _native.empty_like_steps(x, strides)
    gv_init = _native.nothing(x, dtype) if start is None else _native.empty_step(x, strides, dtype)
    if x.numel():
        extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
        threads = torch.get_num_threads()
        scratch = _native.scratch(threads * extension.lif_scratch_bytes(x.shape[0], code))
        extension.lif_backward(
            code,
            x.shape[0],
            x[0].numel(),
            x.stride(0),
            _native.neuron(threshold, decay, reset, detach_reset, surrogate, scale),
            x.data_ptr(),
            _native.address(start),
            _native.address(gs),
            _native.address(gv),
            gx.data_ptr(),
            0 if start is None else gv_init.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    return gx, gv_init
