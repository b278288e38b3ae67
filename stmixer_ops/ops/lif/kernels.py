"""Calls of the LIF kernels in C++ and CUDA, which take the same parameters."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import _native
from ..pack.kernels import pack_rows
from . import buffers


def lif_forward(
    run: _native.Run,
    x: Tensor,
    v_init: Tensor | None,
    return_state: bool,
    dense: bool,
    pack: bool,
    *neuron: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    x, v_init, s, v, bits = buffers.forward(x, v_init, return_state, pack, dense)
    if x.numel():
        parameters = _native.extension().LifForward(
            _native.DTYPE_CODES[x.dtype],
            x.shape[0],
            _native.step_size(x),
            x.stride(0),
            _native.neuron(*neuron),
            x.data_ptr(),
            _native.address(v_init),
            s.data_ptr(),
            v.data_ptr(),
            bits.data_ptr(),
        )
        run(parameters, x.device)
    bits = pack_rows(run, s) if pack and not bits.numel() else bits
    return s if dense else _native.placeholder(x, x.dtype), v, bits


def lif_backward(
    run: _native.Run,
    gs: Tensor | None,
    gv: Tensor | None,
    x: Tensor,
    v_init: Tensor | None,
    *neuron: Any,
) -> tuple[Tensor, Tensor]:
    gs, gv, x, v_init, gx, gv_init = buffers.backward(gs, gv, x, v_init)
    if x.numel():
        parameters = _native.extension().LifBackward(
            _native.DTYPE_CODES[x.dtype],
            x.shape[0],
            _native.step_size(x),
            x.stride(0),
            _native.neuron(*neuron),
            x.data_ptr(),
            _native.address(v_init),
            _native.address(gs),
            _native.address(gv),
            gx.data_ptr(),
            gv_init.data_ptr(),
        )
        run(parameters, x.device)
    return gx, gv_init
