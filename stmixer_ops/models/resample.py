"""Token matrices for another grid of tokens than they were trained on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resample_token_matrices(weight: Tensor, old: Grid, new: Grid) -> Tensor:
    """``weight [heads, N, N]`` over an ``old`` grid as one over the ``new`` grid.

    Spikes of the new grid are resampled to the old one, mixed there, and the currents resampled to
    the new grid: ``U weight D`` with ``D [N, N']`` and ``U [N', N]``, bicubic with antialiasing as
    timm resamples position embeddings. The rows of ``D`` sum to 1, as those of ``U`` do, so the sum
    of a row, which is the current where all tokens fire, is that of the old rows there, however
    many tokens share it. In float64; an equal grid gives ``weight`` itself.

    Args:
        old, new: (rows, columns) of tokens; ``N`` and ``N'`` are their products.
    """
    if old == new:
        return weight
    down, up = _resampling(new, old).to(weight.device), _resampling(old, new).to(weight.device)
    return (up @ weight.double() @ down).to(weight.dtype)


def _resampling(source: Grid, target: Grid) -> Tensor:
    """The matrix ``[target tokens, source tokens]`` of bicubic resampling between two grids."""
    tokens = math.prod(source)
    pixels = torch.eye(tokens, dtype=torch.float64, device="cpu").reshape(tokens, 1, *source)
    resized = F.interpolate(pixels, target, mode="bicubic", antialias=True, align_corners=False)
    return resized.reshape(tokens, -1).T


def square_grid(tokens: int) -> Grid | None:
    """The square with so many tokens, None if there is none."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else None
