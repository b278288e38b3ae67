"""Sets of labelled images: held as uint8 in memory, or read from files when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from .._optional import require
from .damage import find_damaged, listed
from .pictures import fit, open_image, picture_size, to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class InMemory(Dataset):
    """Samples in memory, ``samples [N, ...]`` with ``labels`` int64 ``[N]``.

    Item i is ``(sample [...], label)``.
    """

    def __init__(self, samples: Tensor, labels: Tensor) -> None:
        if labels.shape != samples.shape[:1]:
            raise ValueError(
                f"labels must have shape [{len(samples)}] like the images, got {list(labels.shape)}"
            )
        self.samples = samples
        self.labels = labels.to(torch.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.samples[index], int(self.labels[index])


class MemoryImages(InMemory):
    """Images in memory: ``images`` uint8 ``[N, C, H, W]``, ``labels`` int64 ``[N]``.

    Item i is ``(image uint8 [C, H, W], label)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}"
            )
        super().__init__(images, labels)

    @property
    def images(self) -> Tensor:
        return self.samples

    def subset(self, indices: Tensor) -> MemoryImages:
        return MemoryImages(self.images[indices], self.labels[indices])

    def pil(self, index: int) -> Image:
        """Image ``index`` for PIL-based transforms."""
        pil = require("PIL.Image", "train", "an image transform")
        pixels = self.images[index].permute(1, 2, 0).numpy()
        return pil.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)

    def resized(self, size: int) -> MemoryImages:
        """The same images at ``size`` x ``size`` (bilinear, antialiased, rounded to uint8)."""
        if self.images.shape[2:] == (size, size):
            return self
        parts = [
            F.interpolate(
                part.float(), (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for part in self.images.split(4096)
        ]
        return MemoryImages(torch.cat(parts), self.labels)


class FolderImages(Dataset):
    """Image files, opened when asked for.

    Item i is ``(image uint8 [C, img_size, img_size], label)``: the shorter side is scaled to
    ``img_size / 0.875`` (bicubic) and the centre is cut out; pictures that are ``img_size``
    square already are left as they are.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], img_size: int, in_channels: int = 3
    ) -> None:
        if len(paths) != len(labels):
            raise ValueError(
                f"expected as many labels as paths, got {len(labels)} and {len(paths)}"
            )
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels of image files must be 1 or 3, got {in_channels}")
        self.paths = list(paths)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.img_size = img_size
        self.in_channels = in_channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = fit(self.pil(index), self.img_size)
        return to_tensor(image), int(self.labels[index])

    def pil(self, index: int) -> Image:
        """Image ``index`` at its own size, for PIL-based transforms."""
        return open_image(self.paths[index], self.in_channels)

    def damaged(self, check: str) -> dict[int, str]:
        """Index of each picture that cannot be read, and why: ``check="full"`` decodes them all,
        ``"headers"`` opens them, which finds what is empty or no picture."""
        if check == "off":
            return {}
        if check == "full":
            return find_damaged(len(self), self.pil)
        return find_damaged(len(self), lambda index: picture_size(self.paths[index]))

    def decode(self) -> tuple[MemoryImages, dict[int, str]]:
        """All pictures, and index and reason of those that cannot be read (zeros)."""
        shape = (len(self), self.in_channels, self.img_size, self.img_size)
        pixels = torch.zeros(shape, dtype=torch.uint8)

        def read(index: int) -> None:
            pixels[index] = self[index][0]

        damaged = find_damaged(len(self), read)
        return MemoryImages(pixels, self.labels), damaged

    def subset(self, indices: Tensor) -> FolderImages:
        paths = [self.paths[i] for i in indices.tolist()]
        return FolderImages(paths, self.labels[indices].tolist(), self.img_size, self.in_channels)

    def in_memory(self) -> MemoryImages:
        """All images, decoded.

        Raises:
            ValueError: naming all that cannot be read.
        """
        images, damaged = self.decode()
        if damaged:
            raise ValueError(listed(list(damaged.values()), len(self)))
        return images


ImageSet: TypeAlias = MemoryImages | FolderImages
