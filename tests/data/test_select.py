"""Which images are taken, and what a network gets of them."""

from __future__ import annotations

import torch

from stmixer_ops.data import MemoryImages, normalise, spread_images


def test_images_are_taken_from_everywhere():
    images = torch.arange(1000).repeat_interleave(4).view(1000, 1, 2, 2)
    images = MemoryImages(images.to(torch.uint8), torch.zeros(1000))
    chosen = spread_images(images, 3)
    assert chosen[:, 0, 0, 0].tolist() == [0, 499 - 256, 999 - 3 * 256]
    assert len(spread_images(images, 5000)) == 1000


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = normalise(images, torch.tensor([0.0, 0.2, 0.5]), torch.tensor([1.0, 1.0, 0.5]))
    torch.testing.assert_close(out.flatten(), torch.tensor([0.0, 0.0, 1.0]))
    assert normalise(out, torch.ones(3), torch.ones(3)) is out
