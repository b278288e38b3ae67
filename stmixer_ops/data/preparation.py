"""From samples as a data set holds them to what a model takes: the one place that knows both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor


class Prepare(Protocol):
    """``prepare(batch, device)``: a batch of samples to a model's floating input on ``device``."""

    def __call__(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor: ...


@dataclass(frozen=True)
class PrepareImages:
    """uint8 ``[B, C, H, W]`` to ``(images / 255 - mean) / std``; floats are taken as normalised.

    ``mean`` and ``std`` are per channel, of values in [0, 1].
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
        mean, std = (_constant(tuple(v), torch.device(device)) for v in (self.mean, self.std))
        return normalise(batch.to(device), mean, std)


@dataclass(frozen=True)
class PrepareFrames:
    """Frames of events ``[B, T, C, H, W]``, counts of any dtype, to float32 ``[T, B, C, H, W]``."""

    def __call__(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return batch.to(device).float().transpose(0, 1)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device)


def stored_preparation(stored: Mapping[str, Any]) -> Prepare:
    """That of the data set which ``stored`` describes: the section ``data`` of a checkpoint."""
    if len(stored.get("input_shape", ())) == 4:
        return PrepareFrames()
    return PrepareImages(stored["mean"], stored["std"])


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 ``[B, C, H, W]`` to float ``(images / 255 - mean) / std``; floats are left alone."""
    if images.is_floating_point():
        return images
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
