"""Where the recordings of known data sets lie, and which of them are for training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..events.array import extent
from ..events.files import SUFFIXES
from .folder import Kind, split_files
from .framing import PLAIN, READERS, Source, guesses_sensor, prepared_frames, read_sorted
from .recordings import Recording

RECORDINGS = Kind(SUFFIXES, "recordings")
CIFAR10_DVS_SPLITS = ("spikformer", "tebn", "mtt")
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right hand clockwise",
    "right hand counter clockwise", "left hand clockwise", "left hand counter clockwise",
    "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip


class FrameAsk(NamedTuple):
    """What a caller says about frames; it chooses among SpikingJelly's folders."""

    T: int
    frames: str
    split: str | None = None


class EventSets(NamedTuple):
    """Recordings of both sets; ``sensor`` is height and width, ``notes`` are lines for the log."""

    train: list[Recording]
    test: list[Recording]
    classes: tuple[str, ...]
    source: Source
    sensor: tuple[int, int]
    notes: tuple[str, ...] = ()


def _refuse_split(ask: FrameAsk) -> None:
    if ask.split is not None:
        raise ValueError(f"split is for CIFAR10-DVS, got {ask.split!r}")


def load_nmnist(root: Path, ask: FrameAsk) -> EventSets:
    """``{Train,Test}/<digit>/*.bin``, or ``train1K.txt`` and ``test100.txt``, lists of numbers and
    labels, beside ``<number>.bs2`` (the small copy that came with SLAYER).

    Raises:
        FileNotFoundError: neither is there.
    """
    _refuse_split(ask)
    lists = [sorted(root.glob(pattern)) for pattern in ("train*.txt", "test*.txt")]
    if all(lists):
        train, test = (_listed(files[0]) for files in lists)
        digits = tuple(map(str, range(10)))
        notes = (f"training set: {lists[0][0].name}, test set: {lists[1][0].name}",)
        return EventSets(train, test, digits, PLAIN, (34, 34), notes)
    files = split_files(_spikingjelly_folder(root, ask) or root, RECORDINGS)
    return EventSets(
        _recordings(files.train), _recordings(files.test), files.classes, PLAIN, (34, 34),
        files.notes,
    )  # fmt: skip


def _listed(path: Path) -> list[Recording]:
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(\d+)\s+([0-9])\s*", line)
        if match is None:
            raise ValueError(f"{path}:{number}: expected a number and a digit, got {line!r}")
        found.append(Recording(path.with_name(f"{match[1]}.bs2"), int(match[2])))
    if missing := [r.path for r in found if not r.path.is_file()]:
        raise FileNotFoundError(f"{missing[0]}: expected, as {path.name} lists it")
    return found


def _recordings(files: list[tuple[Path, int]]) -> list[Recording]:
    return [Recording(path, label) for path, label in files]


def load_cifar10_dvs(root: Path, ask: FrameAsk) -> EventSets:
    """``<class>/cifar10_<class>_<number>``: the original ``.aedat``, the mirror's ``.aedat4``, or
    SpikingJelly's ``events_np`` and ``frames_number_...`` folders.

    Nobody published a test set; ``ask.split`` names one of three in use. ``spikformer`` (default):
    the last tenth of each class by file name, which is no order of numbers. ``tebn``: numbers 0 to
    99 (accuracies are typically much higher). ``mtt``: the last hundred numbers.

    Raises:
        ValueError: another split, or a class too small for it.
    """
    split = ask.split or CIFAR10_DVS_SPLITS[0]
    if split not in CIFAR10_DVS_SPLITS:
        raise ValueError(f"split must be one of {', '.join(CIFAR10_DVS_SPLITS)}, got {split!r}")
    folder = _spikingjelly_folder(root, ask) or root
    train: list[Recording] = []
    test: list[Recording] = []
    for label, name in enumerate(CIFAR10_CLASSES):
        paths = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise FileNotFoundError(f"{folder / name}: expected recordings of class {name!r}")
        held = _held_out(paths, split)
        if len(held) == len(paths) or not held:
            raise ValueError(
                f"{folder / name}: split {split!r} needs more than 100 recordings of a class, got "
                f"{len(paths)}"
            )
        train += [Recording(p, label) for p in paths if p not in held]
        test += [Recording(p, label) for p in paths if p in held]
    note = f"split {split!r}: {len(train)} + {len(test)} recordings in {folder}"
    return EventSets(train, test, CIFAR10_CLASSES, READERS["cifar10-dvs"], (128, 128), (note,))


def _held_out(paths: list[Path], split: str) -> set[Path]:
    if split == "spikformer":
        return set(paths[math.ceil(0.9 * len(paths)) :])
    numbers = {path: _number(path) for path in paths}
    if split == "tebn":
        return {path for path, number in numbers.items() if number < 100}
    return set(sorted(paths, key=lambda path: numbers[path])[-100:])


def _number(path: Path) -> int:
    match = re.search(r"(\d+)$", path.stem)
    if match is None:
        raise ValueError(f"{path}: expected a number at the end of the name")
    return int(match[1])


def load_gesture(root: Path, ask: FrameAsk) -> EventSets:
    """DVS128 Gesture: ``trials_to_{train,test}.txt`` name ``.aedat`` files, beside each of which
    ``<name>_labels.csv`` has class, start and end of every trial. Times of a trial begin at 0.

    Raises:
        FileNotFoundError, ValueError: naming the file and what was expected there.
    """
    _refuse_split(ask)
    prepared = _spikingjelly_folder(root, ask)
    if prepared is not None:
        files = split_files(prepared, RECORDINGS)
        numbers = [str(i) for i in range(len(GESTURES))]
        if sorted(files.classes) != sorted(numbers):
            raise ValueError(f"{prepared}: expected classes 0 to 10, got {list(files.classes)}")
        train, test = (  # by text, 10 comes before 2
            [Recording(path, int(files.classes[n])) for path, n in part]
            for part in (files.train, files.test)
        )
        return EventSets(train, test, GESTURES, PLAIN, (128, 128), files.notes)
    folder = next((f for f in (root, root / "DvsGesture") if (f / _TRIALS[0]).is_file()), None)
    if folder is None:
        raise FileNotFoundError(f"{root}: expected {_TRIALS[0]}, as DVS128 Gesture comes")
    train, test = (_trials(folder / name) for name in _TRIALS)
    return EventSets(train, test, GESTURES, PLAIN, (128, 128))


_TRIALS = ("trials_to_train.txt", "trials_to_test.txt")


def _trials(path: Path) -> list[Recording]:
    found = []
    for name in path.read_text().split():
        recording = path.with_name(name)
        labels = recording.with_name(f"{recording.stem}_labels.csv")
        for file in (recording, labels):
            if not file.is_file():
                raise FileNotFoundError(f"{file}: expected, as {path.name} lists it")
        for number, line in enumerate(labels.read_text().splitlines(), 1):
            cells = [cell.strip() for cell in line.split(",")]
            if not line.strip() or (number == 1 and not cells[0].isdigit()):
                continue
            numbers = [int(cell) for cell in cells if cell.isdigit()]
            if len(numbers) != 3 or not 1 <= numbers[0] <= len(GESTURES):
                raise ValueError(
                    f"{labels}:{number}: expected class (1 to {len(GESTURES)}), start and end in "
                    f"µs, got {line!r}"
                )
            found.append(Recording(recording, numbers[0] - 1, (numbers[1], numbers[2])))
    return found


def load_event_folder(root: Path, ask: FrameAsk) -> EventSets:
    """Any folder of recordings, ``{train,test}/<class>/*`` or ``<class>/*``, see
    :func:`stmixer_ops.data.folder.split_files`; SpikingJelly's prepared folders too.

    The sensor is that of the files; where they do not say, the smallest that holds all events of
    the data set, which a note tells.
    """
    _refuse_split(ask)
    files = split_files(_spikingjelly_folder(root, ask) or root, RECORDINGS)
    sensor, notes = _sensor([path for path, _ in (*files.train, *files.test)])
    return EventSets(
        _recordings(files.train), _recordings(files.test), files.classes, PLAIN, sensor,
        (*files.notes, *notes),
    )  # fmt: skip


def _sensor(paths: list[Path]) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Of the first file that says it; else the largest of all, and a note."""
    largest, told = (1, 1), True
    for path in paths:
        try:
            frames = prepared_frames(path)
            if frames is not None:
                return (frames.shape[2], frames.shape[3]), ()
            events = read_sorted(path)
        except (OSError, ValueError):  # said when frames are made
            continue
        if events.sensor is not None and not guesses_sensor(path):
            return events.sensor, ()
        told = told and events.sensor is not None
        sides = events.sensor or extent(events)
        largest = max(largest[0], sides[0]), max(largest[1], sides[1])
    note = (
        f"the recordings do not say how large their sensor is; {largest[0]} x {largest[1]} holds "
        "all events"
    )
    return largest, () if told else (note,)


def _spikingjelly_folder(root: Path, ask: FrameAsk) -> Path | None:
    """The prepared folder in ``root`` that suits, if there is one: frames before events."""
    frames = root / f"frames_number_{ask.T}_split_by_{ask.frames}"
    return next((f for f in (frames, root / "events_np") if f.is_dir()), None)


def holds_recordings(root: Path) -> bool:
    """Whether the classes of a folder are folders of recordings rather than of images."""
    if (root / "events_np").is_dir() or any(root.glob("frames_number_*")):
        return True
    try:
        split_files(root, RECORDINGS)
    except (OSError, ValueError):
        return False
    return True


LOADERS: dict[str, Callable[[Path, FrameAsk], EventSets]] = {
    "nmnist": load_nmnist,
    "cifar10-dvs": load_cifar10_dvs,
    "dvs128-gesture": load_gesture,
    "events": load_event_folder,
}
