"""Launchers of the LIF kernels: tensors in, addresses down, tensors out."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from ..pack import cpu as pack_cpu
from . import buffers


def lif_forward(
    x: Tensor,
    v_init: Tensor | None,
    threshold: float,
    decay: float,
    reset: str,
    return_state: bool,
    pack: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x, v_init, s, v, bits = buffers.forward(x, v_init, return_state, pack)
    if x.numel():
        _native.extension().lif_forward(
            _native.DTYPE_CODES[x.dtype],
            x.shape[0],
            _native.step_size(x),
            x.stride(0),
            _native.neuron(threshold, decay, reset, False, "dspike", 1.0),
            x.data_ptr(),
            _native.address(v_init),
            s.data_ptr(),
            v.data_ptr(),
            bits.data_ptr(),
            torch.get_num_threads(),
        )
    return s, v, pack_cpu.pack_rows(s) if pack and not bits.numel() else bits


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
    gs, gv, x, v_init, gx, gv_init = buffers.backward(gs, gv, x, v_init)
    if x.numel():
        extension, code = _native.extension(), _native.DTYPE_CODES[x.dtype]
        threads = torch.get_num_threads()
        scratch = _native.scratch(threads * extension.lif_scratch_bytes(x.shape[0], code))
        extension.lif_backward(
            code,
            x.shape[0],
            _native.step_size(x),
            x.stride(0),
            _native.neuron(threshold, decay, reset, detach_reset, surrogate, scale),
            x.data_ptr(),
            _native.address(v_init),
            _native.address(gs),
            _native.address(gv),
            gx.data_ptr(),
            gv_init.data_ptr(),
            scratch.data_ptr(),
            threads,
        )
    return gx, gv_init
