"""A few samples of a set."""

from __future__ import annotations

import torch
from torch import Tensor

from .images import InMemory
from .sets import SampleSet


def spread_images(images: SampleSet, count: int) -> Tensor:
    """``count`` samples at even distances, as the set holds them: of all classes, also where a
    folder lists one after the other."""
    chosen = torch.linspace(0, len(images) - 1, min(count, len(images))).long().tolist()
    return torch.stack([images[i][0] for i in chosen])


def first_images(images: SampleSet, count: int) -> Tensor:
    """The first ``count`` samples, as the set holds them."""
    if isinstance(images, InMemory):
        return images.samples[:count]
    return torch.stack([images[i][0] for i in range(min(count, len(images)))])
