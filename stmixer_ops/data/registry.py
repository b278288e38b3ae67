"""One place that knows the data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cifar import load_cifar
from .digits import load_digits
from .folder import load_folder
from .idx import load_mnist_files
from .images import ImageData, ImageSet, MemoryImages

Sets = tuple[ImageSet, ImageSet, tuple[str, ...]]

DIGITS = tuple("0123456789")
FASHION = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class _Entry:
    """``load(root, img_size, in_channels, in_memory)``; mean and std of values in [0, 1]."""

    load: Callable[[Path, int, int, bool | None], Sets]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_size: int
    needs_root: bool = True


def _digits(root: Path, img_size: int, in_channels: int, in_memory: bool | None) -> Sets:
    return (*load_digits(img_size), DIGITS)


def _mnist_files(
    name: str, classes: tuple[str, ...]
) -> Callable[[Path, int, int, bool | None], Sets]:
    def load(root: Path, img_size: int, in_channels: int, in_memory: bool | None) -> Sets:
        return (*load_mnist_files(root, name, len(classes)), classes)

    return load


def _cifar(python_layout: str) -> Callable[[Path, int, int, bool | None], Sets]:
    def load(root: Path, img_size: int, in_channels: int, in_memory: bool | None) -> Sets:
        for folder in (root, root / python_layout):
            if folder.name == python_layout and folder.is_dir():
                return load_cifar(folder)
        if (root / "train").is_dir():
            return load_folder(root, img_size, in_channels, in_memory)
        raise FileNotFoundError(
            f"{root}: expected {python_layout} (as torchvision unpacks it) or "
            "{train,test}/<class>/*.jpg|png"
        )

    return load


# CIFAR-100 is normalised with CIFAR-10's mean and std, as the official STMixer code does.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_ENTRIES = {
    "digits": _Entry(_digits, (0.3052,), (0.3188,), 16, needs_root=False),
    "mnist": _Entry(_mnist_files("MNIST", DIGITS), (0.1307,), (0.3081,), 28),
    "fashion-mnist": _Entry(_mnist_files("FashionMNIST", FASHION), (0.2860,), (0.3530,), 28),
    "cifar10": _Entry(_cifar("cifar-10-batches-py"), _CIFAR_MEAN, _CIFAR_STD, 32),
    "cifar100": _Entry(_cifar("cifar-100-python"), _CIFAR_MEAN, _CIFAR_STD, 32),
    "folder": _Entry(load_folder, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224),
}


def list_datasets() -> list[str]:
    """Names that :func:`load_dataset` knows."""
    return list(_ENTRIES)


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    img_size: int | None = None,
    in_channels: int | None = None,
    in_memory: bool | None = None,
) -> ImageData:
    """A data set by name.

    Args:
        name: one of :func:`list_datasets`. ``digits`` comes with scikit-learn; ``mnist`` and
            ``fashion-mnist`` are the four idx files (``.gz`` or not); ``cifar10`` and
            ``cifar100`` are torchvision's python layout or ``{train,test}/<class>/*.jpg|png``;
            ``folder`` is any folder of images (ImageNet's mean and std).
        root: where the files are; not used by ``digits``.
        img_size: side of the square images; by default the data set's own (digits 16, folder
            224). Others are resized.
        in_channels: 1 reads a ``folder`` in grey; elsewhere it is given by the data.
        in_memory: for folders, see :func:`stmixer_ops.data.folder.load_folder`.
    Raises:
        FileNotFoundError, ValueError: naming the file and what was expected of it.
    """
    if name not in _ENTRIES:
        raise ValueError(f"data set must be one of {', '.join(_ENTRIES)}, got {name!r}")
    entry = _ENTRIES[name]
    if root is None and entry.needs_root:
        raise ValueError(f"data set {name!r} needs root, the folder its files are in")
    folder = Path(root) if root is not None else Path()
    if entry.needs_root and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected the folder of data set {name!r}, found none")
    size = entry.img_size if img_size is None else img_size
    if size < 1:
        raise ValueError(f"img_size must be positive, got {img_size}")
    mean, std = entry.mean, entry.std
    if in_channels is not None and in_channels != len(mean):
        if name != "folder" or in_channels != 1:
            raise ValueError(
                f"data set {name!r} has {len(mean)} channels, got in_channels={in_channels}"
            )
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    train, test, classes = entry.load(folder, size, len(mean), in_memory)
    return ImageData(name, _sized(train, size), _sized(test, size), classes, mean, std, size)


def _sized(images: ImageSet, size: int) -> ImageSet:
    return images.resized(size) if isinstance(images, MemoryImages) else images
