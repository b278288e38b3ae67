"""Data sets by name, the digits' split, and what a bundle promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stmixer_ops.data import MemoryImages, list_datasets, load_dataset


def test_digits_split_is_stratified_and_disjoint():
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    data = load_dataset("digits", img_size=8)
    assert (len(data.train), len(data.test)) == (1442, 355)
    counts = np.bincount(sklearn.target)
    np.testing.assert_array_equal(data.test.labels.bincount().numpy(), counts // 5)
    # At 8x8 nothing is resampled: together the two sets are scikit-learn's images.
    pixels = torch.cat([data.train.images, data.test.images]).flatten(1).numpy()
    original = np.rint(sklearn.images * 255 / 16).astype(np.uint8).reshape(len(pixels), 64)
    as_rows = sorted(map(bytes, pixels))
    assert as_rows == sorted(map(bytes, original))


def test_digits_are_enlarged_to_16_and_normalised():
    data = load_dataset("digits")
    assert data.train.images.shape == (1442, 1, 16, 16)
    scaled = data.train.images.double() / 255
    assert scaled.mean() == pytest.approx(data.mean[0], abs=1e-3)
    assert scaled.std() == pytest.approx(data.std[0], abs=1e-3)
    # Doubling bilinearly: each new pixel is 3/4 of the old one it lies in and 1/4 of the next.
    old = np.pad(
        load_dataset("digits", img_size=8).train.images.numpy().astype(float),
        ((0, 0), (0, 0), (1, 1), (1, 1)),
        "edge",
    )
    for axis in (2, 3):
        before, at, after = (np.take(old, range(i, i + 8), axis) for i in range(3))
        pairs = np.stack([0.75 * at + 0.25 * before, 0.75 * at + 0.25 * after], axis + 1)
        shape = list(at.shape)
        shape[axis] = 16
        old = pairs.reshape(shape)
    assert np.abs(old - data.train.images.numpy()).max() <= 0.5


def test_unknown_names_and_bad_arguments():
    with pytest.raises(ValueError, match=r"one of digits, mnist, .*got 'imagenot'"):
        load_dataset("imagenot")
    with pytest.raises(ValueError, match="'cifar10' needs root"):
        load_dataset("cifar10")
    with pytest.raises(ValueError, match="img_size must be positive, got 0"):
        load_dataset("digits", img_size=0)
    with pytest.raises(ValueError, match="'digits' has 1 channels, got in_channels=3"):
        load_dataset("digits", in_channels=3)
    assert "fashion-mnist" in list_datasets()


def test_memory_images_check_their_shapes():
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\], got torch.float32"):
        MemoryImages(images.float(), torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels must have shape \[3\]"):
        MemoryImages(images, torch.zeros(2))


def test_pil_gives_the_pixels_back():
    pytest.importorskip("PIL")
    for channels in (1, 3):
        images = torch.randint(0, 256, (2, channels, 5, 4), dtype=torch.uint8)
        picture = MemoryImages(images, torch.zeros(2)).pil(1)
        assert picture.mode == ("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(picture)).reshape(5, 4, channels)
        assert torch.equal(pixels.permute(2, 0, 1), images[1])
