"""Recordings of event cameras as frames: one picture of counts a time step."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import InMemory


class MemoryFrames(InMemory):
    """Frames in memory: ``frames`` ``[N, T, C, H, W]`` (integers or floats), ``labels`` ``[N]``.

    Item i is ``(frames [T, C, H, W], label)``.

    Raises:
        ValueError: another shape or dtype, or a value that is not finite.
    """

    def __init__(self, frames: Tensor, labels: Tensor) -> None:
        if frames.ndim != 5 or frames.dtype == torch.bool or frames.is_complex():
            raise ValueError(
                f"frames must be numbers [N, T, C, H, W], got {frames.dtype} {list(frames.shape)}"
            )
        if frames.is_floating_point() and not torch.isfinite(frames).all():
            raise ValueError("frames must be finite, got NaN or infinity")
        super().__init__(frames, labels)

    @property
    def frames(self) -> Tensor:
        return self.samples
