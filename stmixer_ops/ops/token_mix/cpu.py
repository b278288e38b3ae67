"""Launchers of the token mixing kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _native
from ..lif import cpu as lif_cpu
from ..lif.spec import state_dtype
from .buffers import LIFCall, allocate, through_dense

_PITCH = 32  # a row of weights is padded to whole words of spikes


def _input_rows(weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, int]:
    """``weight [H, out, in]`` as rows by input token, padded along the outputs."""
    rows = weight.transpose(1, 2).to(dtype)
    pad = -rows.shape[-1] % _PITCH
    return F.pad(rows, (0, pad)).contiguous(), rows.shape[-1] + pad


def _run(
    s: Tensor,
    weight: Tensor,
    out: Tensor,
    neuron: object | None = None,
    v_init: Tensor | None = None,
    v_out: Tensor | None = None,
    v_strides: tuple[int, ...] = (0, 0, 0),
    bits: Tensor | None = None,
) -> None:
    if not s.numel():
        return
    extension, code = _native.extension(), _native.DTYPE_CODES[s.dtype]
    rows, pitch = _input_rows(weight, state_dtype(s.dtype))
    threads = torch.get_num_threads()
    scratch = _native.scratch(threads * extension.token_mix_scratch_bytes(pitch, code))
    extension.token_mix(
        code,
        tuple(s.shape),
        weight.shape[0],
        s.stride(),
        out.stride(),
        s.data_ptr(),
        rows.data_ptr(),
        pitch,
        out.data_ptr(),
        neuron,
        _native.address(v_init),
        _native.address(v_out),
        v_strides,
        _native.address(bits),
        scratch.data_ptr(),
        threads,
    )


def token_mix(s: Tensor, weight: Tensor) -> Tensor:
    out = _native.empty_like_steps(s, _native.step_strides(s))
    _run(s, weight, out)
    return out


def token_mix_lif(call: LIFCall) -> tuple[Tensor, Tensor, Tensor]:
    out, v, bits = allocate(call)
    strides = out.stride()[1:]
    _run(
        call.s,
        call.weight,
        out,
        _native.neuron(call.threshold, call.decay, call.reset),
        _native.with_strides(call.v_init, strides),
        v if call.return_state else None,
        strides,
        bits if call.pack else None,
    )
    return out, v, bits


def token_mix_lif_backward(
    gout: Tensor | None,
    gv: Tensor | None,
    s: Tensor,
    weight: Tensor,
    v_init: Tensor | None,
    *neuron: Any,
) -> tuple[Tensor, Tensor]:
    wide = state_dtype(s.dtype)
    # The same kernel as in forward, unrounded, so that the recomputed spikes are the same too.
    currents = token_mix(s.to(wide), weight.to(wide))
    gout = None if gout is None else gout.to(wide)
    g, gv_init = lif_cpu.lif_backward(gout, gv, currents, v_init, *neuron)
    return g.to(s.dtype), gv_init


# Its kernel adds a row of weights for each spike of a channel, so it wants words along the tokens.
token_mix_lif_bits = partial(through_dense, "cpu")
