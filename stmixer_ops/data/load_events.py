"""Data sets of recordings, as frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._numbers import integer
from ..events import as_events
from ..events.array import extent, size_pair
from ..events.frames import SPLITS
from .event_sets import LOADERS, EventSets, FrameAsk
from .frames import MemoryFrames
from .framing import FrameOptions
from .recordings import Progress, cache_folder, load_frames
from .sets import FrameData


@dataclass(frozen=True)
class _Entry:
    """What a data set does where the caller does not say."""

    T: int
    frames: str
    step_us: int | None = None
    img_size: int | None = None  # None: the sensor's
    fit: str = "crop"


# N-MNIST: 310 of at most 336 ms, a pixel off each side of 34 (three saccades of 100 ms).
EVENT_SETS = {
    "nmnist": _Entry(10, "time", 31_000, 32),
    "cifar10-dvs": _Entry(16, "number", fit="nearest"),
    "dvs128-gesture": _Entry(16, "number", fit="sum"),
    "events": _Entry(10, "number"),
}


def load_event_set(
    name: str,
    root: Path,
    img_size: int | Sequence[int] | None,
    *,
    T: int | None,
    frames: str | None,
    step_us: int | None,
    split: str | None,
    fit: str | None,
    cache: str | Path | None,
    skip_damaged: bool,
    progress: Progress | None,
) -> FrameData:
    """See :func:`stmixer_ops.data.load_dataset`."""
    entry = EVENT_SETS[name]
    count = integer("T", entry.T if T is None else T)
    cut, step = _cut(entry, frames, step_us)
    sets = LOADERS[name](root, FrameAsk(count, cut, split))
    size = size_pair("img_size", img_size or entry.img_size or sets.sensor)
    options = FrameOptions(count, cut, step, size, fit or entry.fit, sets.sensor)
    parts, infos = [], []
    for label, recordings in (("training", sets.train), ("test", sets.test)):
        part, info = load_frames(
            recordings, sets.source, options, cache=cache_folder(cache) / name,
            skip_damaged=skip_damaged, label=f"{label} frames", progress=progress,
        )  # fmt: skip
        parts.append(part)
        infos.append(info)
    skipped = sum(len(info["damaged"]) for info in infos)
    made = {"T": count, "frames": cut, "fit": options.fit}
    made |= {key: value for key, value in (("step_us", step), ("split", split)) if value}
    return FrameData(
        name, parts[0], parts[1], sets.classes, _notes(sets, options, infos, cache), str(root),
        made, sets.sensor, skipped,
    )  # fmt: skip


def _cut(entry: _Entry, frames: str | None, step_us: int | None) -> tuple[str, int | None]:
    """By time or number, and the length of a frame by time."""
    cut = frames or ("time" if step_us is not None else entry.frames)
    if cut not in SPLITS:
        raise ValueError(f"frames must be {' or '.join(map(repr, SPLITS))}, got {cut!r}")
    if cut == "number":
        if step_us is not None:
            raise ValueError(f"step_us is for frames by time, got step_us={step_us}")
        return cut, None
    step = entry.step_us if step_us is None else integer("step_us", step_us)
    return cut, step


def _notes(
    sets: EventSets, options: FrameOptions, infos: Sequence[dict[str, Any]], cache: Any
) -> tuple[str, ...]:
    by = f"{options.frames}" + (f", {options.step_us} µs each" if options.step_us else "")
    height, width = options.size
    size = f"{height} x {width}"
    if options.size != options.sensor:
        how = {"crop": "centre of", "sum": "summed from", "nearest": "nearest of"}[options.fit]
        size += f", {how} {options.sensor[0]} x {options.sensor[1]}"
    notes = [*sets.notes, f"{options.T} frames by {by}; {size}; kept in {cache_folder(cache)}"]
    lost = sum(info["events_left_out"] for info in infos)
    if lost:
        notes.append(f"{lost} events after the last frame are left out")
    reasons = [reason for info in infos for reason in info["damaged"].values()]
    if reasons:
        notes.append(f"left out: {len(reasons)} recordings that cannot be read; {reasons[0]}")
    return tuple(notes)


def frames_of(
    recordings: Iterable[tuple[Any, int]],
    T: int,
    *,
    frames: str = "number",
    step_us: int | None = None,
    size: int | Sequence[int] | None = None,
    fit: str = "crop",
    sensor: int | Sequence[int] | None = None,
) -> MemoryFrames:
    """Frames of any iterable of ``(events, label)``, as the data sets of tonic are.

    Args:
        recordings: events as :func:`stmixer_ops.events.as_events` takes them.
        T, frames, step_us, fit: see :class:`stmixer_ops.data.framing.FrameOptions`.
        size: side, or height and width, of the frames; by default the sensor's.
        sensor: side, or height and width, of the camera (tonic's ``sensor_size`` has width first);
            by default what the recordings say, or the smallest that holds all events.
    Raises:
        ValueError: naming the recording.
    """
    pairs = [
        (as_events(e, name=f"recording {i}"), label) for i, (e, label) in enumerate(recordings)
    ]
    if not pairs:
        raise ValueError("recordings: expected at least one, got none")
    if sensor is None:
        sides = [events.sensor or extent(events) for events, _ in pairs]
        sensor = max(s[0] for s in sides), max(s[1] for s in sides)
    camera = size_pair("sensor", sensor)
    shape = camera if size is None else size_pair("size", size)
    if frames not in SPLITS:
        raise ValueError(f"frames must be {' or '.join(map(repr, SPLITS))}, got {frames!r}")
    options = FrameOptions(integer("T", T), frames, step_us, shape, fit, camera)
    made = [
        options.make(as_events(events, camera, name=f"recording {i}"))
        for i, (events, _) in enumerate(pairs)
    ]
    labels = torch.tensor([int(label) for _, label in pairs])
    return MemoryFrames(torch.from_numpy(np.stack(made)), labels)
