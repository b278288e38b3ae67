"""Augmentation of frames of events, after NDA (Li et al. 2022, arXiv:2203.06145)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROLL, ROTATION, SHEAR = 5, 30.0, 30.0  # pixels, degrees, degrees
CUTOUT, CUTOUT_SHARE = 0.5, 3  # probability; the hole's side is at most this share of the frame's


def distort_frames(frames: Tensor, generator: torch.Generator) -> Tensor:
    """One of three distortions for each sample, the same in all its steps, then cutout.

    A sample is rolled by up to 5 pixels in both directions, or rotated by up to 30°, or sheared
    along x by up to 30° (each with probability 1/3). With probability 1/2 a square hole of at most
    a third of the side is cut out.

    Args:
        frames: ``[T, B, C, H, W]``, floating.
    """
    steps, batch, channels, height, width = frames.shape
    merged = frames.transpose(0, 1).flatten(1, 2)  # steps are further channels
    choice = torch.randint(3, (batch,), generator=generator)
    size = torch.rand(batch, generator=generator) * 2 - 1
    shifts = torch.randint(-ROLL, ROLL + 1, (2, batch), generator=generator)
    shifts = torch.where(choice == 0, shifts, torch.zeros_like(shifts))
    rolled = _roll(merged, shifts.to(frames.device))
    turned = _affine(rolled, _matrices(choice, size, height, width).to(frames.device))
    moved = torch.where((choice == 0).to(frames.device)[:, None, None, None], rolled, turned)
    hole = _holes(batch, height, width, generator).to(frames.device)
    moved = torch.where(hole[:, None], torch.zeros_like(moved), moved)
    return moved.unflatten(1, (steps, channels)).transpose(0, 1)


def _roll(x: Tensor, shifts: Tensor) -> Tensor:
    """Each sample rolled by its own ``shifts [2, B]`` down and to the right."""
    batch, _, height, width = x.shape
    rows = (torch.arange(height, device=x.device) - shifts[0][:, None]) % height
    columns = (torch.arange(width, device=x.device) - shifts[1][:, None]) % width
    index = torch.arange(batch, device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _matrices(choice: Tensor, size: Tensor, height: int, width: int) -> Tensor:
    """Where each pixel comes from, ``[B, 2, 3]`` in the coordinates of ``affine_grid``."""
    ratio = height / width
    angle = torch.where(choice == 1, size * math.radians(ROTATION), torch.zeros_like(size))
    slope = torch.where(choice == 2, (size * math.radians(SHEAR)).tan(), torch.zeros_like(size))
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    rows = [cos, (slope - sin) * ratio, zero, sin / ratio, cos, zero]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _affine(x: Tensor, matrices: Tensor) -> Tensor:
    """Nearest pixels, so that counts stay counts; zeros outside."""
    grid = F.affine_grid(matrices.to(x.dtype), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _holes(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Booleans ``[B, H, W]``: a square around a random pixel, or nothing."""
    most = max(1, min(height, width) // CUTOUT_SHARE)
    side = torch.randint(1, most + 1, (batch,), generator=generator)
    there = torch.rand(batch, generator=generator) < CUTOUT
    inside = []
    for length in (height, width):
        centre = torch.randint(length, (batch,), generator=generator)
        distance = torch.arange(length) - (centre - side // 2)[:, None]
        inside.append((distance >= 0) & (distance < side[:, None]))
    return inside[0][:, :, None] & inside[1][:, None, :] & there[:, None, None]


@dataclass(frozen=True)
class FrameCutMix:
    """A rectangle of each sample comes from another of its batch, in all steps, with
    probability 1/2 a batch; targets are mixed by area (Yun et al. 2019).

    Draws from torch's and NumPy's global generators, which the loop seeds at every step.
    """

    alpha: float
    smoothing: float
    classes: int

    def __call__(self, frames: Tensor, labels: Tensor, off: bool) -> tuple[Tensor, Tensor]:
        """``[T, B, C, H, W]`` and ``[B]`` to frames and targets ``[B, classes]``."""
        targets = F.one_hot(labels, self.classes).float()
        targets = targets * (1 - self.smoothing) + self.smoothing / self.classes
        if off or np.random.rand() < 0.5:
            return frames, targets
        height, width = frames.shape[-2:]
        side = math.sqrt(1 - np.random.beta(self.alpha, self.alpha))
        (top, bottom), (left, right) = (_span(length, side) for length in (height, width))
        order = torch.randperm(len(labels)).to(frames.device)
        mixed = frames.clone()
        mixed[..., top:bottom, left:right] = frames[:, order, :, top:bottom, left:right]
        share = (bottom - top) * (right - left) / (height * width)
        return mixed, (1 - share) * targets + share * targets[order]


def _span(length: int, share: float) -> tuple[int, int]:
    """``share`` of ``length`` around a random pixel, cut at the border."""
    half = length * share / 2
    centre = np.random.randint(length)
    return max(0, round(centre - half)), min(length, round(centre + half))
