"""One place that knows the data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._files import user_path
from .cifar import CIFAR10, CIFAR100, CifarLayout, load_cifar
from .digits import load_digits
from .folder import find_splits, load_folder
from .idx import load_mnist_files
from .images import ImageSet, MemoryImages
from .load_events import EVENT_SETS, load_event_set
from .recordings import Progress
from .sets import FrameData, ImageData, LoadOptions, Sets

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
    """``load`` takes the data set's folder; mean and std are of values in [0, 1]."""

    load: Callable[[Path, LoadOptions], Sets]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    img_size: int
    needs_root: bool = True


def _digits(root: Path, options: LoadOptions) -> Sets:
    return Sets(*load_digits(options.img_size), DIGITS)


def _mnist_files(name: str, classes: tuple[str, ...]) -> Callable[[Path, LoadOptions], Sets]:
    def load(root: Path, options: LoadOptions) -> Sets:
        return Sets(*load_mnist_files(root, name, len(classes)), classes)

    return load


def _cifar(layout: CifarLayout) -> Callable[[Path, LoadOptions], Sets]:
    def load(root: Path, options: LoadOptions) -> Sets:
        if (folder := layout.find(root)) is not None:
            return Sets(*load_cifar(folder, layout))
        if find_splits(root)[1] is not None:
            return load_folder(root, options)
        raise FileNotFoundError(
            f"{root}: expected {layout.folder} (as torchvision unpacks it) or "
            "{train,test}/<class>/*.jpg|png"
        )

    return load


# CIFAR-100 is normalised with CIFAR-10's mean and std, as the official STMixer code does.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_ENTRIES = {
    "digits": _Entry(_digits, (0.3052,), (0.3188,), 16, needs_root=False),
    "mnist": _Entry(_mnist_files("MNIST", DIGITS), (0.1307,), (0.3081,), 28),
    "fashion-mnist": _Entry(_mnist_files("FashionMNIST", FASHION), (0.2860,), (0.3530,), 28),
    "cifar10": _Entry(_cifar(CIFAR10), _CIFAR_MEAN, _CIFAR_STD, 32),
    "cifar100": _Entry(_cifar(CIFAR100), _CIFAR_MEAN, _CIFAR_STD, 32),
    "folder": _Entry(load_folder, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224),
}


def list_datasets() -> list[str]:
    """Names that :func:`load_dataset` knows."""
    return [*_ENTRIES, *EVENT_SETS]


def load_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    img_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    in_memory: bool | None = None,
    check: str = "off",
    skip_damaged: bool = False,
    T: int | None = None,
    frames: str | None = None,
    step_us: int | None = None,
    split: str | None = None,
    fit: str | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> ImageData | FrameData:
    """A data set by name: :class:`ImageData`, or :class:`FrameData` of recordings.

    Args:
        name: one of :func:`list_datasets`. ``digits`` comes with scikit-learn; ``mnist`` and
            ``fashion-mnist`` are the four idx files (``.gz`` or not); ``cifar10`` and
            ``cifar100`` are the python layout that torchvision unpacks, or
            ``{train,test}/<class>/*.jpg|png``; ``folder`` is any folder of images, see
            :func:`stmixer_ops.data.folder.load_folder` (ImageNet's mean and std). Of event
            cameras: ``nmnist``, ``cifar10-dvs``, ``dvs128-gesture``, and ``events``, any folder
            of recordings, see :mod:`stmixer_ops.data.event_sets`.
        root: where the files are (``~`` is expanded); not used by ``digits``.
        img_size: side of the square images; by default the data set's own (digits 16, folder
            224). Others are resized. Of frames also (height, width); see ``fit``.
        in_channels: 1 reads a ``folder`` in grey; elsewhere it is given by the data.
        in_memory: for folders, see :func:`stmixer_ops.data.folder.load_folder`.
        check: for folders: "full" decodes every picture once, in threads, "headers" only opens
            them, "auto" is "full" up to 8 GiB of files, "off" waits until they are used. Damaged
            ones are then an error that lists them all. What is kept in memory is always decoded.
        skip_damaged: leave damaged pictures or recordings out instead; a note says which.
        T, frames, step_us, fit: for recordings: how frames are made, see
            :class:`stmixer_ops.data.framing.FrameOptions`; by default the data set's own.
        split: for ``cifar10-dvs``: ``spikformer`` (default), ``tebn`` or ``mtt``, see
            :func:`stmixer_ops.data.event_sets.load_cifar10_dvs`.
        cache: for recordings: folder that keeps the frames; by default ``STMIXER_CACHE``, or
            ``stmixer_ops`` in the user's folder for caches.
        progress: for recordings: shows how far the frames are.
    Raises:
        FileNotFoundError, ValueError: naming the file and what was expected of it.
    """
    if name not in list_datasets():
        raise ValueError(f"data set must be one of {', '.join(list_datasets())}, got {name!r}")
    needs_root = name not in _ENTRIES or _ENTRIES[name].needs_root
    if root is None and needs_root:
        raise ValueError(f"data set {name!r} needs root, the folder its files are in")
    folder = user_path(root) if root is not None else Path()
    if needs_root and not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected the folder of data set {name!r}, found none")
    if name in EVENT_SETS:
        if in_channels not in (None, 2):
            raise ValueError(f"data set {name!r} has 2 channels, got in_channels={in_channels}")
        return load_event_set(
            name, folder.absolute(), img_size, T=T, frames=frames, step_us=step_us, split=split,
            fit=fit, cache=cache, skip_damaged=skip_damaged, progress=progress,
        )  # fmt: skip
    given = {"T": T, "frames": frames, "step_us": step_us, "split": split, "fit": fit}
    for option, value in given.items():
        if value is not None:
            raise ValueError(f"{option} is for recordings of event cameras, not for {name!r}")
    if img_size is not None and not isinstance(img_size, int):
        raise ValueError(f"img_size must be the side of square images, got {img_size!r}")
    entry = _ENTRIES[name]
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
    # Pictures may be read long after the working directory has changed.
    sets = entry.load(
        folder.absolute(), LoadOptions(size, len(mean), in_memory, check, skip_damaged)
    )
    where = str(folder.absolute()) if entry.needs_root else None
    return ImageData(
        name, _sized(sets.train, size), _sized(sets.test, size), sets.classes, mean, std, size,
        sets.notes, where, sets.skipped,
    )  # fmt: skip


def _sized(images: ImageSet, size: int) -> ImageSet:
    return images.resized(size) if isinstance(images, MemoryImages) else images
