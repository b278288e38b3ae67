"""Images of a set as a network takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import ImageSet, MemoryImages


def spread_images(images: ImageSet, count: int) -> Tensor:
    """``count`` images at even distances, uint8 ``[B, C, H, W]``: of all classes, also where a
    folder lists one after the other."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist()
    return torch.stack([images[i][0] for i in chosen])


def first_images(images: ImageSet, count: int) -> Tensor:
    """The first ``count`` images, uint8 ``[B, C, H, W]``."""
    if isinstance(images, MemoryImages):
        return images.images[:count]
    return torch.stack([images[i][0] for i in range(min(count, len(images)))])


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 ``[B, C, H, W]`` to float ``(images / 255 - mean) / std``; floats are left alone."""
    if images.is_floating_point():
        return images
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])
