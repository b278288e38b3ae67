"""Leaky integrate-and-fire in plain PyTorch: the definition the kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor

from .spec import LIFSpec, state_dtype


def lif(x: Tensor, spec: LIFSpec, v_init: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``x [T, ...]`` to spikes ``[T, ...]`` (dtype of x) and the membrane after the last step."""
    dtype = state_dtype(x.dtype)
    v = torch.zeros_like(x[0], dtype=dtype) if v_init is None else v_init
    spikes = []
    for x_t in x.unbind(0):
        v = spec.decay * v + x_t.to(dtype)
        s = spec.surrogate(v - spec.threshold)
        fired = s.detach() if spec.detach_reset else s
        v = v * (1 - fired) if spec.reset == "hard" else v - spec.threshold * fired
        spikes.append(s.to(x.dtype))
    return torch.stack(spikes), v
