"""Batches of a set in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data import ImageSet, InMemory, SampleSet
from .seeds import generator, seed_all


class Transformed(Dataset):
    """A set under a PIL transform. Each item seeds its own random numbers from ``seed`` (whole
    numbers) and its index: what comes out does not depend on workers or on their number."""

    def __init__(
        self, samples: ImageSet, transform: Callable[[Any], Tensor], seed: tuple[int, ...]
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        seed_all(*self.seed, index)
        return self.transform(self.samples.pil(index)), int(self.samples.labels[index])


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Full batches in a training epoch; a set smaller than one batch is one step."""
    return max(1, count // batch_size)


def training_batches(
    samples: SampleSet,
    batch_size: int,
    seed: tuple[int, int],
    transform: Callable[[Any], Tensor] | None = None,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; ``seed`` is (seed, epoch). The incomplete last batch is left out.

    Samples are as the set holds them, or whatever ``transform`` makes of a PIL image.
    """
    order = torch.randperm(len(samples), generator=generator(*seed), device="cpu")
    order = order[: batch_size * steps_per_epoch(len(samples), batch_size)]
    source: SampleSet | Transformed = samples
    if transform is not None:
        source = Transformed(cast(ImageSet, samples), transform, seed)
    return _batches(source, order, batch_size, workers)


def evaluation_batches(
    samples: SampleSet, batch_size: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples in their order, as the set holds them."""
    return _batches(samples, torch.arange(len(samples), device="cpu"), batch_size, workers)


def _batches(
    source: SampleSet | Dataset, order: Tensor, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(source, InMemory):
        for index in order.split(batch_size):
            yield source.samples[index], source.labels[index]
        return
    yield from DataLoader(
        source,
        batch_size=batch_size,
        sampler=order.tolist(),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
