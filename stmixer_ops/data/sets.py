"""What the loaders of data sets are asked for, and what they give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .images import ImageSet


@dataclass(frozen=True)
class LoadOptions:
    """How a data set is to be read; see :func:`stmixer_ops.data.load_dataset`."""

    img_size: int
    in_channels: int
    in_memory: bool | None = None
    check: str = "off"
    skip_damaged: bool = False


class Sets(NamedTuple):
    """A training and a test set; ``notes`` are lines for the log."""

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
