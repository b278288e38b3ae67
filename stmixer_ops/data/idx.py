"""The idx format of MNIST and Fashion-MNIST, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np
import torch

from .._files import user_path
from .images import MemoryImages

UINT8 = 0x08  # the only element type these data sets use


def read_idx(path: str | Path, ndim: int) -> np.ndarray:
    """The uint8 array with ``ndim`` dimensions in an idx file (``.gz`` or not).

    Layout: two zero bytes, the element type, the number of dimensions, each size as a big-endian
    32-bit number, then the elements.
    """
    path = user_path(path)
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error
    magic = bytes([0, 0, UINT8, ndim])
    if raw[:4] != magic:
        raise ValueError(
            f"{path}: expected the idx magic number {magic.hex()} "
            f"(uint8, {ndim} dimensions), got {raw[:4].hex() or 'an empty file'}"
        )
    header = 4 + 4 * ndim
    if len(raw) < header:
        raise ValueError(f"{path}: truncated, expected a header of {header} bytes, got {len(raw)}")
    shape = struct.unpack(f">{ndim}I", raw[4:header])
    if len(raw) != header + prod(shape):
        raise ValueError(
            f"{path}: the header says {' x '.join(map(str, shape))} values, so {prod(shape)} bytes "
            f"were expected after it, got {len(raw) - header}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def load_idx_pair(images: Path, labels: Path, num_classes: int) -> MemoryImages:
    """Images and labels that belong together, as uint8 ``[N, 1, H, W]``."""
    pixels, targets = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(targets):
        raise ValueError(
            f"{labels}: expected {len(pixels)} labels, as many as images in {images.name}, "
            f"got {len(targets)}"
        )
    if len(targets) == 0:
        raise ValueError(f"{images}: holds no images")
    if targets.max() >= num_classes:
        raise ValueError(f"{labels}: expected labels below {num_classes}, got {int(targets.max())}")
    return MemoryImages(
        torch.from_numpy(pixels[:, None].copy()), torch.from_numpy(targets.astype(np.int64))
    )


def load_mnist_files(root: Path, name: str, num_classes: int) -> tuple[MemoryImages, MemoryImages]:
    """Train and test set from the four files of (Fashion-)MNIST.

    They are looked for in ``root``, ``root/raw`` and ``root/<name>/raw``, where ``name`` is the
    folder that torchvision makes (it keeps both sets side by side).
    """
    folders = [root, root / "raw", root / name / "raw"]
    pairs = []
    for prefix in ("train", "t10k"):
        folder, images = _find(folders, f"{prefix}-images-idx3-ubyte")
        _, labels = _find([folder], f"{prefix}-labels-idx1-ubyte")
        pairs.append(load_idx_pair(images, labels, num_classes))
    return pairs[0], pairs[1]


def _find(folders: list[Path], stem: str) -> tuple[Path, Path]:
    """The folder among ``folders`` with the file ``stem``, and the file: plain before ``.gz``, also
    as ``train-images.idx3-ubyte``, or in a folder of its own name, as unpacking leaves it."""
    for folder in folders:
        for suffix in ("", ".gz"):
            for place in (folder, *_named(folder, stem + suffix)):
                for path in _named(place, stem + suffix):
                    if path.is_file():
                        return folder, path
    raise FileNotFoundError(
        f"expected {stem} or {stem}.gz (or {stem.replace('-idx', '.idx')}) in {folders[0]}, "
        "found neither"
    )


def _named(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.name.lower().replace(".idx", "-idx") == name)
