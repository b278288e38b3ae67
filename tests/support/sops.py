"""Synaptic operations by loops over single spikes: what the recorder's figures are held to."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def linear(x: Tensor, outputs: int) -> int:
    return sum(int(value) for value in x.flatten().tolist()) * outputs


def convolution(x: Tensor, conv: nn.Module) -> int:
    """Walks every output (of a transposed convolution: every input) and every tap."""
    transposed = "Transpose" in type(conv).__name__
    x = x.double()
    kernel, stride, dilation, padding = conv.kernel_size, conv.stride, conv.dilation, conv.padding
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        low = [t // 2 for t in total]
        sizes = list(x.shape[2:])
    else:
        low = list(padding)
        sizes = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            if transposed
            else (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d, o in zip(
                x.shape[2:], kernel, stride, padding, dilation, conv.output_padding, strict=True
            )
        ]
    values = x.sum((0, 1))
    walked, other = (x.shape[2:], sizes) if transposed else (sizes, x.shape[2:])
    operations = 0
    for place in itertools.product(*map(range, walked)):
        for tap in itertools.product(*map(range, kernel)):
            there = [
                i * s - p + t * d
                for i, s, p, t, d in zip(place, stride, low, tap, dilation, strict=True)
            ]
            if all(0 <= i < n for i, n in zip(there, other, strict=True)):
                operations += int(values[place if transposed else tuple(there)])
    return operations * (conv.out_channels // conv.groups)


def pairs(q: Tensor, k: Tensor) -> int:
    """Of ``q [..., N, C]`` and ``k [..., M, C]``: spikes of one channel that meet, one by one."""
    count = 0
    for a, b in zip(q.flatten(0, -3), k.flatten(0, -3), strict=True):
        for n in range(len(a)):
            for m in range(len(b)):
                count += int(torch.dot(a[n].double(), b[m].double()))
    return count
