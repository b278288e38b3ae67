"""What the kernels of every backend read and write: inputs laid out alike, results allocated.

A step is one dense run of neurons, whatever its strides; a result that was not requested is an
empty tensor, whose address is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .spec import state_dtype


def forward(
    x: Tensor, v_init: Tensor | None, return_state: bool, pack: bool, dense: bool = True
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """``x`` and ``v_init`` as the kernel reads them; spikes, state and bits for it to fill.

    There are bits only where a kernel that packs 32 neighbours in memory packs along the last
    dimension; elsewhere the launcher packs the spikes afterwards, so these are there too.
    """
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    in_kernel = pack and x.numel() > 0 and _native.rows_are_words(x, strides)
    return (
        _native.with_steps(x, strides),
        _native.with_strides(v_init, strides),
        _native.empty_like_steps(x, strides)
        if dense or not in_kernel
        else _native.placeholder(x, x.dtype),
        _native.empty_step(x, strides, dtype) if return_state else _native.placeholder(x, dtype),
        _native.empty_bits(x) if in_kernel else _native.placeholder(x, torch.int32),
    )


def backward(
    gs: Tensor | None, gv: Tensor | None, x: Tensor, v_init: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor, Tensor]:
    """The arguments as the kernel reads them; gradients of ``x`` and ``v_init`` for it to fill."""
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    return (
        None if gs is None else _native.with_steps(gs, strides, packed=True),
        _native.with_strides(gv, strides),
        _native.with_steps(x, strides),
        _native.with_strides(v_init, strides),
        _native.empty_like_steps(x, strides),
        _native.placeholder(x, dtype) if v_init is None else _native.empty_step(x, strides, dtype),
    )
