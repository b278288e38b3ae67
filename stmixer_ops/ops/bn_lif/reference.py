"""Batch normalisation, optional residual sum, LIF: plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..lif import reference as lif_reference
from ..lif.spec import LIFSpec, state_dtype


def bn_lif(
    y: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    keep_sum: bool,
    channel_dim: int,
    spec: LIFSpec,
    v_init: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(spikes, sum, membrane)``; ``sum`` is what the LIF integrates.

    Narrow inputs are normalised in float32. Where the sum is a result of its own (a residual, or
    ``keep_sum``) it is rounded to the input's dtype first and the LIF sees the rounded value, so
    that whoever keeps the sum can recompute the membrane from it.
    """
    dtype = state_dtype(y.dtype)
    # Three dimensions: with four, PyTorch's CPU backward mistakes some layouts for channels-last
    # (seen with a last dimension of 1, torch 2.13).
    moved = y.to(dtype).movedim(channel_dim, 1)
    x = F.batch_norm(
        moved.reshape(*moved.shape[:2], -1),
        running_mean,
        running_var,
        None if weight is None else weight.to(dtype),
        None if bias is None else bias.to(dtype),
        training=training,
        momentum=momentum,
        eps=eps,
    )
    x = x.reshape(moved.shape).movedim(1, channel_dim)
    if residual is not None:
        x = x + residual.to(dtype)
    if residual is not None or keep_sum:
        x = x.to(y.dtype)
    s, v = lif_reference.lif(x, spec, v_init)
    return s.to(y.dtype), x, v
