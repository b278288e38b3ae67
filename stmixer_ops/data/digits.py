"""scikit-learn's handwritten digits: 1,797 grey 8x8 images that come with the package."""

from __future__ import annotations

import numpy as np
import torch

from .._optional import require
from .images import MemoryImages

# Every fifth image of a class is held out for testing: stratified, and the same everywhere.
TEST_EVERY = 5


def load_digits(img_size: int = 16) -> tuple[MemoryImages, MemoryImages]:
    """Train (1,442) and test (355) images, uint8 ``[N, 1, img_size, img_size]``.

    The test set is the 5th, 10th, ... image of each class in scikit-learn's order. Pixels are
    scaled from 0...16 to 0...255 and the 8x8 images enlarged bilinearly.
    """
    source = require("sklearn.datasets", "train", "the digits data set").load_digits()
    pixels = torch.from_numpy(np.rint(source.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(source.target.astype(np.int64))
    test = held_out(labels.tolist())
    images = MemoryImages(pixels.unsqueeze(1), labels).resized(img_size)
    return (
        MemoryImages(images.images[~test], labels[~test]),
        MemoryImages(images.images[test], labels[test]),
    )


def held_out(labels: list[int]) -> torch.Tensor:
    """bool ``[N]``: every fifth member of each class, in the order given."""
    seen: dict[int, int] = {}
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        chosen[index] = seen[label] % TEST_EVERY == 0
    return chosen
