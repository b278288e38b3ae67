"""From a file of a recording to the frames that a data set is made of; without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..events import DTYPE, Events, as_events, crop, downsample, read, to_frames
from ..events.array import size_pair

FITS = ("crop", "nearest", "sum")


@dataclass(frozen=True)
class FrameOptions:
    """How frames are made of recordings.

    Attributes:
        T: frames.
        frames: ``"time"`` or ``"number"``, see :func:`stmixer_ops.events.to_frames`.
        step_us: length of a frame by time, from t = 0; None cuts each recording from its first
            event to its last one.
        size: height and width.
        fit: how a larger sensor comes to this size: ``"crop"`` keeps the centre, ``"sum"`` adds up
            the events of pixels, ``"nearest"`` keeps the counts of one pixel for each new one.
        sensor: height and width of the camera.
    """

    T: int
    frames: str
    step_us: int | None
    size: tuple[int, int]
    fit: str
    sensor: tuple[int, int]

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise ValueError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        if self.size[0] > self.sensor[0] or self.size[1] > self.sensor[1]:
            raise ValueError(
                f"img_size must be at most the sensor's {self.sensor[0]} x {self.sensor[1]}, got "
                f"{self.size[0]} x {self.size[1]}"
            )

    def make(self, events: Events) -> np.ndarray:
        """Counts ``[T, 2, height, width]``.

        Raises:
            ValueError: no event within ``T * step_us``.
        """
        window: dict[str, Any] = {}
        if self.frames == "time" and self.step_us is not None:
            window = {"t0": 0, "duration": self.T * self.step_us, "clip": True}
            if len(events) and events["t"][0] >= window["duration"]:
                raise ValueError(
                    f"no event before T * step_us = {window['duration']} µs, the first is at "
                    f"{events['t'][0]}"
                )
        if self.fit == "sum":
            events = downsample(events, self.size)
        size = self.size if self.fit == "crop" else None
        counts = to_frames(events, self.T, self.frames, size=size, **window)
        return self.scaled(counts) if self.fit == "nearest" else counts

    def placed(self, events: Events) -> Events:
        """The events that frames count, at the pixels where they count them."""
        if self.fit == "sum":
            return downsample(events, self.size)
        if self.fit == "crop":
            return crop(events, self.size)
        rows, columns = self._nearest()
        kept = events[np.isin(events["y"], rows) & np.isin(events["x"], columns)]
        kept["y"], kept["x"] = (
            np.searchsorted(there, kept[field]) for field, there in (("y", rows), ("x", columns))
        )
        return as_events(kept, self.size)

    def scaled(self, counts: np.ndarray) -> np.ndarray:
        """Frames of the sensor's size as pixels of this one."""
        rows, columns = self._nearest()
        return counts[:, :, rows[:, None], columns]

    def _nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """Which rows and columns of the sensor stay: row i is row ⌊i·old/new⌋."""
        rows, columns = (
            np.arange(new) * old // new for new, old in zip(self.size, self.sensor, strict=True)
        )
        return rows, columns

    def fitted(self, frames: np.ndarray) -> np.ndarray:
        """Prepared frames of the sensor's size in this one.

        Raises:
            ValueError: they would have to be summed.
        """
        if self.size == self.sensor:
            return frames
        if self.fit == "sum":
            raise ValueError("prepared frames cannot be summed; fit='crop' or 'nearest' can")
        if self.fit == "nearest":
            return self.scaled(frames)
        top, left = ((s - n) // 2 for s, n in zip(self.sensor, self.size, strict=True))
        return frames[:, :, top : top + self.size[0], left : left + self.size[1]]


class Source(NamedTuple):
    """Where recordings come from: ``open`` gives the events of a file, ``name`` says how."""

    name: str
    open: Callable[[Path], Events]


def read_sorted(path: Path) -> Events:
    """Frames do not ask for the order of events within them."""
    return read(path, sort=True)


def guesses_sensor(path: Path) -> bool:
    """Whether the format names no sensor, so that a reader goes by the events it sees."""
    return path.suffix.lower() in (".bin", ".bs2")


def prepared_frames(path: Path) -> np.ndarray | None:
    """The array ``frames`` of SpikingJelly's prepared files, None for other files.

    Raises:
        ValueError: it has another shape than ``[T, 2, H, W]``, or the file is damaged.
    """
    if path.suffix.lower() != ".npz":
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            frames = archive["frames"] if "frames" in archive.files else None
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen classes
        raise ValueError(f"{path}: no archive of arrays ({error})") from error
    if frames is not None and (frames.ndim != 4 or frames.shape[1] != 2):
        raise ValueError(f"{path}: frames must be [T, 2, H, W], got {list(frames.shape)}")
    return frames


def read_cifar10_dvs(path: Path) -> Events:
    """The original files hold the picture on its side; turned as SpikingJelly and tonic do it."""
    events = read_sorted(path)
    if path.suffix.lower() != ".aedat" or path.read_bytes()[:14] != b"#!AER-DAT2.0\r\n":
        return events
    turned = np.empty(len(events), DTYPE)
    turned["t"], turned["p"] = events["t"], 1 - events["p"]
    turned["x"], turned["y"] = 127 - events["y"], 127 - events["x"]
    return as_events(turned, (128, 128))


PLAIN = Source("as stored", read_sorted)
# Data sets whose files are not read as they are stored.
READERS = {"cifar10-dvs": Source("CIFAR10-DVS", read_cifar10_dvs)}


def says_how(stored: Mapping[str, Any]) -> bool:
    """Whether ``stored`` describes how frames are made of recordings."""
    return "made" in stored and "sensor" in stored


def _stored_options(stored: Mapping[str, Any]) -> FrameOptions:
    made = stored["made"]
    sensor = size_pair("sensor", stored["sensor"])
    size = size_pair("img_size", stored["img_size"])
    return FrameOptions(made["T"], made["frames"], made.get("step_us"), size, made["fit"], sensor)


def stored_events(
    stored: Mapping[str, Any], path: Path, reader: Callable[[Path], Events] = read_sorted
) -> Events:
    """The events of a recording at the pixels where the frames of :func:`stored_frames` count
    them, all its time. ``reader``: for data sets whose files are read as they are stored."""
    source = READERS.get(stored["name"])
    options = _stored_options(stored)
    events = source.open(path) if source else reader(path)
    return options.placed(as_events(events, options.sensor))


def stored_frames(stored: Mapping[str, Any], path: Path) -> np.ndarray:
    """Frames float32 ``[T, 2, height, width]`` of a recording, as the data set has them that
    ``stored`` describes: the section ``data`` of a checkpoint, or the labels of an engine.

    Raises:
        ValueError: naming the file; or nothing is stored about frames of recordings.
    """
    if not says_how(stored):
        raise ValueError(f"{path}: the model's data say nothing about how frames are made")
    options = _stored_options(stored)
    frames = prepared_frames(path)
    try:
        if frames is None:
            events = READERS.get(stored["name"], PLAIN).open(path)
            frames = options.make(as_events(events, options.sensor))
        else:
            frames = options.fitted(frames)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    return frames.astype(np.float32)
