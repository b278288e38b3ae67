"""Linear maps of spikes in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spike_linear(s: Tensor, weight: Tensor) -> Tensor:
    """``s [..., C]`` times ``weight [O, C]`` transposed."""
    return F.linear(s, weight)


def spike_conv2d(s: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution of ``s [..., C, H, W]`` (any leading dimensions) with ``weight [O, C, K, K]``."""
    y = F.conv2d(s.flatten(0, -4), weight, stride=stride, padding=padding)
    return y.unflatten(0, s.shape[:-3])
