"""Folders of images: ``{train,test}/<class>/*.jpg``, or ``<class>/*.jpg`` alone."""

from __future__ import annotations

import os
from pathlib import Path

from .digits import held_out
from .images import FolderImages, ImageSet, open_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("test", "val")
MEMORY_LIMIT = 512 << 20  # bytes of decoded images that are kept instead of read again


def load_folder(
    root: Path, img_size: int, in_channels: int = 3, in_memory: bool | None = None
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Train set, test set and class names (sorted) of a folder of images.

    With ``root/train`` the test set is ``root/test`` or ``root/val``; a root that holds the
    classes themselves is split, every fifth file of a class (by name) being held out.

    Args:
        in_memory: decode everything now; None does so where the images have the size
            ``img_size`` already and take at most 512 MiB.
    """
    if (root / "train").is_dir():
        test_root = next((root / n for n in TEST_NAMES if (root / n).is_dir()), None)
        if test_root is None:
            raise FileNotFoundError(f"{root}: expected a folder test or val beside train")
        classes = _class_names(root / "train")
        train_files = _scan(root / "train", classes)
        if extra := sorted(set(_class_names(test_root)) - set(classes)):
            raise ValueError(f"{test_root}: class {extra[0]!r} has no folder in {root / 'train'}")
        test_files = _scan(test_root, classes)
    else:
        classes = _class_names(root)
        files = _scan(root, classes)
        test = held_out([label for _, label in files])
        train_files = [f for f, t in zip(files, test, strict=True) if not t]
        test_files = [f for f, t in zip(files, test, strict=True) if t]
        if not test_files:
            raise ValueError(f"{root}: expected at least 5 images in a class to hold one out")
    sets = [
        FolderImages([p for p, _ in files], [c for _, c in files], img_size, in_channels)
        for files in (train_files, test_files)
    ]
    if in_memory is None:
        total = sum(len(s) for s in sets) * in_channels * img_size**2
        size = open_image(train_files[0][0], in_channels).size
        in_memory = size == (img_size, img_size) and total <= MEMORY_LIMIT
    train, test_set = (s.in_memory() if in_memory else s for s in sets)
    return train, test_set, classes


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != ".")
    if not names:
        raise ValueError(f"{folder}: expected one folder of images per class, found no folder")
    return tuple(names)


def _scan(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    found = []
    for label, name in enumerate(classes):
        paths = sorted(
            Path(parent) / file
            for parent, _, files in os.walk(folder / name)
            for file in files
            if file.lower().endswith(SUFFIXES)
        )
        if not paths:
            raise ValueError(
                f"{folder / name}: expected images ({', '.join(SUFFIXES)}) of class {name!r}, "
                "found none"
            )
        found += [(path, label) for path in paths]
    return found
