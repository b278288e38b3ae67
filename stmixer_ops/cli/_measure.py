"""Spikes, operations and energy of a model on images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import ImageSet, MemoryImages
from ..nn import record
from ..nn.recorder import AC_PICOJOULE, MAC_PICOJOULE


@dataclass(frozen=True)
class Row:
    """One layer; all figures per image. ``rate`` is None for layers that read real numbers."""

    path: str
    rate: float | None
    spikes: float
    macs: float
    sops: float

    @property
    def energy(self) -> float:
        """Picojoules."""
        return MAC_PICOJOULE * self.macs + AC_PICOJOULE * self.sops


@dataclass(frozen=True)
class Cost:
    """Of one image, on average."""

    rows: list[Row]
    rate: float

    def total(self, field: str) -> float:
        """Sum of a column: "spikes", "macs", "sops" or "energy"."""
        return sum(getattr(row, field) for row in self.rows)


@torch.inference_mode()
def measure(model: nn.Module, images: Tensor, batch_size: int = 64) -> Cost:
    """Run ``model`` over normalised ``images [B, C, H, W]`` and count."""
    model.eval()
    with record(model, keep_spikes=False) as counter:
        for batch in images.split(batch_size):
            model(batch)
    count = counter.images
    rows = [Row(path, None, 0.0, macs / count, 0.0) for path, macs in counter.macs.items()]
    rows += [
        Row(path, counter.rates[path], spikes / count, 0.0, counter.sops.get(path, 0) / count)
        for path, spikes in counter.counts.items()
    ]
    rate = sum(counter.counts.values()) / sum(counter.neuron_steps.values())
    return Cost(rows, rate)


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
