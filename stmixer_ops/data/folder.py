"""Folders of images as people have them: ``{train,test}/<class>/*.jpg``, or ``<class>/*.jpg``.

Names of splits are known in any case. Hidden files and folders (``.ipynb_checkpoints``, macOS's
``._*``) and those of operating systems (``__MACOSX``, ``@eaDir``) are no data.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from .damage import listed, thoroughness
from .digits import TEST_EVERY, held_out
from .images import FolderImages, ImageSet
from .pictures import picture_size
from .sets import LoadOptions, Sets

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".ppm", ".pgm", ".pbm",
    ".pnm", ".tif", ".tiff", ".webp", ".avif", ".jp2",
)  # fmt: skip
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")  # the first that is there
SYSTEM_NAMES = {
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found",
    "__pycache__",
}  # fmt: skip
MEMORY_LIMIT = 512 << 20  # bytes of decoded images that are kept instead of read again

_Files = list[tuple[Path, int]]


class Kind(NamedTuple):
    """The files that a data set is made of, and what errors call them."""

    suffixes: tuple[str, ...]
    word: str


PICTURES = Kind(SUFFIXES, "images")


class SplitFiles(NamedTuple):
    """Files with their labels, names of the classes, and a note on what was found."""

    train: _Files
    test: _Files
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def split_files(root: Path, kind: Kind = PICTURES) -> SplitFiles:
    """The files of a folder by class; the classes are the folders' names, sorted.

    With ``root/train`` (or ``training``) the test set is ``root/test``, ``testing``, ``val``,
    ``valid`` or ``validation``, the first of them that is there; both must have the same classes.
    A root that holds the classes themselves is split, every fifth file of a class (by name) being
    held out.

    Raises:
        FileNotFoundError, ValueError: naming the folder, what was looked for and what was found.
    """
    train_root, test_root, notes = find_splits(root)
    classes = _classes(train_root, kind)
    names = tuple(classes)
    if test_root is not None:
        test_classes = _classes(test_root, kind)
        _compare_classes(train_root, classes, test_root, test_classes)
        test_files = _scan({name: test_classes[name] for name in names}, kind)
        return SplitFiles(_scan(classes, kind), test_files, names, notes)
    files = _scan(classes, kind)
    test = held_out([label for _, label in files])
    train_files = [f for f, t in zip(files, test, strict=True) if not t]
    test_files = [f for f, t in zip(files, test, strict=True) if t]
    if not test_files:
        raise ValueError(f"{root}: expected at least 5 {kind.word} in a class to hold one out")
    return SplitFiles(train_files, test_files, names, notes)


def load_folder(root: Path, options: LoadOptions) -> Sets:
    """The two sets of a folder of images, see :func:`split_files`.

    ``options.in_memory=None`` decodes everything now where the images have the size ``img_size``
    already and take at most 512 MiB.

    Raises:
        FileNotFoundError, ValueError: naming the folder, what was looked for and what was found.
    """
    train_files, test_files, names, notes = split_files(root)
    whole = [
        FolderImages([p for p, _ in f], [c for _, c in f], options.img_size, options.in_channels)
        for f in (train_files, test_files)
    ]
    train, test_set, left_out = _readable(root, whole, options)
    skipped = sum(map(len, whole)) - len(train) - len(test_set)
    counts = train.labels.bincount(minlength=len(names))
    if skipped and (int(counts.min()) == 0 or len(test_set) == 0):
        empty = f"class {names[int(counts.argmin())]!r}" if len(test_set) else "the test set"
        raise ValueError(f"{root}: {empty} has no readable image; {left_out[0]}")
    return Sets(train, test_set, names, (*notes, *left_out), skipped)


def _readable(
    root: Path, sets: Sequence[FolderImages], options: LoadOptions
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Both sets, decoded if they are to be kept in memory, and a note on what is left out."""
    check = options.check
    if options.skip_damaged and check == "off":
        check = "auto"
    if _keep_in_memory(options, sets):
        read: list[tuple[ImageSet, dict[int, str]]] = [images.decode() for images in sets]
    else:
        check = thoroughness(check, [path for images in sets for path in images.paths])
        read = [(images, images.damaged(check)) for images in sets]
    reasons = [reason for _, damaged in read for reason in damaged.values()]
    if not reasons:
        return read[0][0], read[1][0], ()
    text = listed(reasons, sum(map(len, sets)))
    if not options.skip_damaged:
        raise ValueError(f"{root}: {text} (skip_damaged, --skip-damaged, leaves them out)")
    train, test = (
        images.subset(torch.tensor([i for i in range(len(images)) if i not in damaged]))
        for images, damaged in read
    )
    return train, test, (f"left out: {text}",)


def survey(root: Path, opened: int = 32) -> tuple[int, int]:
    """How many training images there are, and the median of the shorter sides of some of them.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_folder`.
    """
    train_root, test_root, _ = find_splits(root)
    files = _scan(_classes(train_root, PICTURES), PICTURES)
    count = len(files) if test_root is not None else len(files) - len(files) // TEST_EVERY
    sides = []
    for path, _ in files[:: -(-len(files) // opened)]:
        with suppress(OSError, ValueError):
            sides.append(min(picture_size(path)))
    return count, sorted(sides)[len(sides) // 2] if sides else 0


def find_splits(root: Path) -> tuple[Path, Path | None, tuple[str, ...]]:
    """Folder of the training set, folder of the test set (None: in one with it), and a note.

    Raises:
        FileNotFoundError: one of the two is missing, or one is there twice.
    """
    folders = _folders(root)
    # A folder of that name without folders in it may be a class: pictures of trains.
    trains = [f for f in folders if f.name.lower() in TRAIN_NAMES and _folders(f)]
    tests = [f for f in folders if f.name.lower() in TEST_NAMES]
    if not trains and (not tests or len(tests) < len(folders)):
        return root, None, ()
    if len(trains) != 1:
        raise FileNotFoundError(
            f"{root}: expected one training set (a folder {' or '.join(TRAIN_NAMES)} with a "
            f"folder per class), found {_listed(trains or folders)}"
        )
    tests.sort(key=lambda f: (TEST_NAMES.index(f.name.lower()), f.name))
    # Without class folders it is a test set without labels, as competitions have it.
    chosen = next((f for f in tests if _folders(f)), None)
    if chosen is None:
        raise FileNotFoundError(
            f"{root}: expected a folder test or val beside {trains[0].name} (or "
            f"{', '.join(TEST_NAMES)}, in any case) with a folder per class, "
            f"found {_listed(folders)}"
        )
    others = [f for f in tests if f != chosen]
    unused = f"; not used: {_listed(others)}" if others else ""
    note = f"training set: {trains[0].name}, test set: {chosen.name}{unused}"
    return trains[0], chosen, (note,)


def _keep_in_memory(options: LoadOptions, sets: Sequence[FolderImages]) -> bool:
    if options.in_memory is not None:
        return options.in_memory
    size = options.img_size
    if sum(map(len, sets)) * options.in_channels * size**2 > MEMORY_LIMIT:
        return False
    for index in range(len(sets[0])):
        with suppress(OSError, ValueError):  # the first that can be read
            return sets[0].pil(index).size == (size, size)
    return False


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in SYSTEM_NAMES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _folders(folder: Path) -> list[Path]:
    return sorted(Path(e.path) for e in os.scandir(folder) if _is_data(e.name) and _is_folder(e))


def _files_in(folder: Path, kind: Kind) -> list[Path]:
    return [
        Path(e.path)
        for e in os.scandir(folder)
        if _is_data(e.name) and e.name.lower().endswith(kind.suffixes) and not _is_folder(e)
    ]


def _walk(folder: Path, kind: Kind, seen: set[str]) -> list[Path]:
    """Files in ``folder`` and below, through links too, but in no folder twice."""
    real = os.path.realpath(folder)
    if real in seen:
        return []
    seen.add(real)
    below = [p for f in _folders(folder) for p in _walk(f, kind, seen)]
    return _files_in(folder, kind) + below


def _classes(folder: Path, kind: Kind) -> dict[str, Path]:
    """Name of each class and its folder. Letters with accents are one character in the names, as
    Linux writes them; macOS takes them apart."""
    folders = _folders(folder)
    names = dict(sorted((unicodedata.normalize("NFC", f.name), f) for f in folders))
    if len(names) < len(folders):
        raise ValueError(f"{folder}: two folders have the same name, of {_listed(folders)}")
    if not names:
        loose = len(_files_in(folder, kind))
        found = f"{loose} {kind.word} without one" if loose else "no folder"
        raise ValueError(
            f"{folder}: expected one folder of {kind.word} per class "
            f"(<class>/*{kind.suffixes[0]}, ...), or "
            f"train/<class> and test/<class>, found {found}"
        )
    return names


def _compare_classes(
    train: Path, classes: Collection[str], test: Path, test_classes: Collection[str]
) -> None:
    missing = {test: set(classes) - set(test_classes), train: set(test_classes) - set(classes)}
    if any(missing.values()):
        parts = [
            f"class {', '.join(map(repr, sorted(names)[:5]))}"
            + (f" (and {len(names) - 5} more)" if len(names) > 5 else "")
            + f" has no folder in {folder}"
            for folder, names in missing.items()
            if names
        ]
        raise ValueError(f"{test}: expected the classes of {train.name}: {'; '.join(parts)}")


def _scan(classes: Mapping[str, Path], kind: Kind) -> _Files:
    found: _Files = []
    for label, (name, folder) in enumerate(classes.items()):
        paths = sorted(_walk(folder, kind, set()))
        if not paths:
            raise ValueError(
                f"{folder}: expected {kind.word} ({', '.join(kind.suffixes)}) of class {name!r}, "
                "found none"
            )
        found += [(path, label) for path in paths]
    return found


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(f.name for f in folders) or "nothing"
