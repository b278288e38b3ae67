"""What a data set is to everyone else: two sets, its classes, and how its samples are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from .frames import MemoryFrames
from .images import FolderImages, ImageSet, MemoryImages
from .preparation import PrepareFrames, PrepareImages

SampleSet: TypeAlias = MemoryImages | FolderImages | MemoryFrames


@dataclass(frozen=True)
class LoadOptions:
    """How a data set is to be read; see :func:`stmixer_ops.data.load_dataset`."""

    img_size: int
    in_channels: int
    in_memory: bool | None = None
    check: str = "off"
    skip_damaged: bool = False


class Sets(NamedTuple):
    """What a loader gives: a training and a test set, and the names of the classes.

    ``notes`` are lines for the log, ``skipped`` how many damaged files were left out.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    skipped: int = 0


class Data(Protocol):
    """A data set as training, evaluation and the commands see it.

    ``train`` and ``test`` hold samples in a form of their own; ``prepare(batch, device)`` makes of
    a batch of them what a model takes, images ``[B, C, H, W]`` or sequences ``[T, B, C, H, W]``.
    ``notes`` are lines for the log.
    """

    @property
    def name(self) -> str: ...
    @property
    def train(self) -> SampleSet: ...
    @property
    def test(self) -> SampleSet: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    @property
    def input_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of an image, ``(T, C, H, W)`` of a sequence."""
        ...

    def prepare(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """What a model takes, floating, on ``device``."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a checkpoint remembers, as JSON: name, classes, mean, std, sizes, root."""
        ...


@dataclass(frozen=True)
class ImageData:
    """A data set of images: what to train on, what to test on, and what a checkpoint has to
    remember of it.

    ``mean`` and ``std`` are per channel, of values scaled to [0, 1]. ``notes`` are lines for the
    log, about what was found and what was left out; ``root`` is the folder it was read from, and
    ``skipped`` counts damaged files that were left out.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_size: int
    notes: tuple[str, ...] = ()
    root: str | None = None
    skipped: int = 0

    @property
    def in_channels(self) -> int:
        return len(self.mean)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.img_size, self.img_size)

    def prepare(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return PrepareImages(self.mean, self.std)(batch, device)

    def describe(self) -> dict[str, Any]:
        return {
            **_common(self),
            "mean": list(self.mean),
            "std": list(self.std),
            "img_size": self.img_size,
            **({"skipped": self.skipped} if self.skipped else {}),
        }


@dataclass(frozen=True)
class FrameData:
    """A data set of frames of events; all samples have the same shape ``[T, C, H, W]``.

    ``made`` says how frames were made of recordings, as keywords of
    :func:`stmixer_ops.data.load_dataset`, and ``sensor`` how high and wide the camera is; None
    where nobody said. ``skipped`` counts damaged files that were left out.
    """

    name: str
    train: MemoryFrames
    test: MemoryFrames
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    root: str | None = None
    made: Mapping[str, Any] | None = None
    sensor: tuple[int, int] | None = None
    skipped: int = 0
    _shape: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes = [tuple(s.frames.shape[1:]) for s in (self.train, self.test)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"test frames must be {list(shapes[0])} as in training, "
                             f"got {list(shapes[1])}")  # fmt: skip
        object.__setattr__(self, "_shape", shapes[0])

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._shape

    def prepare(self, batch: Tensor, device: torch.device | str = "cpu") -> Tensor:
        return PrepareFrames()(batch, device)

    def describe(self) -> dict[str, Any]:
        _, channels, height, width = self.input_shape
        return {
            **_common(self),
            "mean": [0.0] * channels,
            "std": [1.0] * channels,
            "img_size": height if height == width else [height, width],
            **({} if self.made is None else {"made": dict(self.made)}),
            **({} if self.sensor is None else {"sensor": list(self.sensor)}),
            **({"skipped": self.skipped} if self.skipped else {}),
        }


def _common(data: ImageData | FrameData) -> dict[str, Any]:
    return {
        "name": data.name,
        "classes": list(data.classes),
        "input_shape": list(data.input_shape),
        "images": [len(data.train), len(data.test)],
        "root": data.root,
    }
