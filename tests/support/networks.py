"""Networks that this library knows nothing of, for the recorder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from support import sops as brute
from torch import Tensor, nn

import stmixer_ops as so


def spiking(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(*shape) * 2


class Own(nn.Module):
    """Convolution, LIF, convolution, LIF, sums over 2x2, linear: nothing of it wired by anybody."""

    def __init__(self, T: int = 3) -> None:
        super().__init__()
        self.T = T
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.lif1 = so.LIF(threshold=0.2)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.lif2 = so.LIF(threshold=0.3)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).expand(self.T, -1, -1, -1, -1)
        y = self.bn(self.conv(self.lif1(y).flatten(0, 1)))
        y = self.lif2(y.unflatten(0, (self.T, -1))).flatten(0, 1)
        y = F.avg_pool2d(y, 2, divisor_override=1)
        return self.head(self.drop(y).flatten(1)).unflatten(0, (self.T, -1)).mean(0)


def own(**options) -> Own:
    torch.manual_seed(0)
    return Own(**options)


def expected_of_own(r, images: int) -> tuple[dict, dict]:
    lif1, lif2 = (r.spikes[f"lif{i}"].flatten(0, 1) for i in (1, 2))
    pooled = lif2.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2))
    sops = {"lif1": brute.convolution(lif1, own().conv), "lif2": brute.linear(pooled, 5)}
    return sops, {"stem": images * 8 * 8 * 4 * 2 * 9}
