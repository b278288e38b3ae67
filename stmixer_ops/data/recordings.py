"""Recordings of event cameras as frames: made once, kept on disk, mapped into memory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from .._files import user_path, write_atomically
from ..events import as_events
from .damage import listed
from .frames import MemoryFrames
from .framing import FrameOptions, Source, guesses_sensor, prepared_frames

_VERSION = 1  # of what the cache holds
_TYPES = (np.uint8, np.int16, np.float32)  # the first that holds all counts


class Progress(Protocol):
    """Where long work is shown; :class:`stmixer_ops.train.progress.Display` is one."""

    def line(self, text: str) -> None: ...
    def task(self, label: str, total: int) -> AbstractContextManager[Callable[[str], None]]: ...


class Recording(NamedTuple):
    """A file, its label, and the part of it that counts, in µs (times then begin at 0)."""

    path: Path
    label: int
    window: tuple[int, int] | None = None


def _counts(recording: Recording, source: Source, options: FrameOptions) -> tuple[np.ndarray, int]:
    """Frames of one recording, and how many of its events are not in them."""
    frames = prepared_frames(recording.path)
    if frames is not None:
        expected = (options.T, 2, *options.sensor)
        if frames.shape != expected:
            raise ValueError(
                f"{recording.path}: frames must be {list(expected)}, got {list(frames.shape)}"
            )
        return options.fitted(frames), 0
    events = source.open(recording.path)
    try:
        if not guesses_sensor(recording.path) and events.sensor not in (None, options.sensor):
            raise ValueError(f"sensor must be {options.sensor} as in the set, got {events.sensor}")
        events = as_events(events, options.sensor)
        if recording.window is not None:
            start, end = recording.window
            low, high = np.searchsorted(events["t"], (start, end))
            events = events[low:high].copy()
            events["t"] -= start
        frames = options.make(events)
    except ValueError as error:
        raise ValueError(f"{recording.path}: {error}") from error
    lost = 0 if options.step_us is None else int((events["t"] >= options.T * options.step_us).sum())
    return frames, lost if options.frames == "time" else 0


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """``cache``, or ``STMIXER_CACHE``, or ``stmixer_ops`` in the user's folder for caches."""
    if cache is None:
        cache = os.environ.get("STMIXER_CACHE")
    if cache is not None:
        return user_path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or user_path("~/.cache")) / "stmixer_ops"


def load_frames(
    recordings: Sequence[Recording],
    source: Source,
    options: FrameOptions,
    *,
    cache: Path,
    skip_damaged: bool = False,
    label: str = "frames",
    progress: Progress | None = None,
) -> tuple[MemoryFrames, dict[str, Any]]:
    """Frames of all recordings, from ``cache`` or made now and kept there, and what is known about
    them: ``events_left_out`` behind the last frame, ``damaged`` files by reason.

    Raises:
        ValueError: listing the files that cannot be read, unless ``skip_damaged``.
        OSError: the cache cannot be written.
    """
    place = cache / _key(recordings, source, options)
    info = _stored_info(place)
    if info is None:
        place.mkdir(parents=True, exist_ok=True)
        if progress is not None:
            progress.line(f"making {label} of {len(recordings)} recordings")
        info = _make(recordings, source, options, place, label, progress)
    damaged = info["damaged"]
    if damaged:
        text = listed(list(damaged.values()), len(recordings), "recordings")
        if not skip_damaged:
            raise ValueError(f"{text} (skip_damaged, --skip-damaged, leaves them out)")
        good = [r for i, r in enumerate(recordings) if str(i) not in damaged]
        if not good:
            raise ValueError(text)
        frames, inner = load_frames(
            good, source, options, cache=cache, label=label, progress=progress
        )
        return frames, {**inner, "damaged": damaged}
    mapped = np.load(place / "frames.npy", mmap_mode="c")  # writes go to memory, not to the file
    labels = torch.tensor([r.label for r in recordings])
    return MemoryFrames(torch.from_numpy(mapped), labels), info


def _key(recordings: Sequence[Recording], source: Source, options: FrameOptions) -> str:
    files = [
        (str(r.path), (stat := r.path.stat()).st_size, stat.st_mtime_ns, r.window)
        for r in recordings
    ]
    text = json.dumps([_VERSION, source.name, asdict(options), files])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _stored_info(place: Path) -> dict[str, Any] | None:
    """Written last; what is damaged is made again."""
    try:
        info = json.loads((place / "info.json").read_text())
        if not info["damaged"]:
            np.load(place / "frames.npy", mmap_mode="r")
        return info
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(
    recordings: Sequence[Recording],
    source: Source,
    options: FrameOptions,
    place: Path,
    label: str,
    progress: Progress | None,
) -> dict[str, Any]:
    damaged: dict[str, str] = {}
    lost = 0
    source = source._replace(open=lru_cache(maxsize=1)(source.open))  # trials share a file

    def fill(kind: type, path: Path) -> bool:
        """False if a count does not fit."""
        nonlocal lost
        lost = 0
        damaged.clear()
        shape = (len(recordings), options.T, 2, *options.size)
        with open(path, "wb+") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
            )
            with _shown(progress, label, len(recordings)) as advance:
                for index, recording in enumerate(recordings):
                    try:
                        counts, left_out = _counts(recording, source, options)
                    except (OSError, ValueError) as error:
                        damaged[str(index)] = str(error)
                        advance("")
                        continue
                    if not _holds(kind, counts):
                        return False
                    file.write(np.ascontiguousarray(counts, kind).tobytes())
                    lost += left_out
                    advance("")
        return True

    def write(path: Path) -> None:
        for kind in _TYPES:
            if fill(kind, path):
                return

    write_atomically(place / "frames.npy", write)
    if damaged:
        (place / "frames.npy").unlink()
    info = {"events_left_out": lost, "damaged": damaged}
    write_atomically(place / "info.json", lambda path: path.write_text(json.dumps(info)))
    return info


def _holds(kind: type, counts: np.ndarray) -> bool:
    if kind is np.float32:
        return True
    whole = counts.dtype.kind in "iub" or bool((counts == np.rint(counts)).all())
    return whole and (counts.min() >= 0 and counts.max() <= np.iinfo(kind).max)


@contextmanager
def _shown(progress: Progress | None, label: str, total: int) -> Iterator[Callable[[str], None]]:
    if progress is None:
        yield lambda status: None
    else:
        with progress.task(label, total) as advance:
            yield advance
