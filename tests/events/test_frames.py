"""Frames, crops and coarser sensors against loops over single events."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stmixer_ops as so
from stmixer_ops.events import to_frames


def recording(rows, sensor=None) -> so.events.Events:
    return so.events.as_events(np.array(list(rows), so.events.DTYPE), sensor)


def random_recording(count: int, height: int, width: int, duration: int, seed: int = 0):
    generator = np.random.default_rng(seed)
    events = np.zeros(count, so.events.DTYPE)
    events["t"] = np.sort(generator.integers(0, duration, count))
    events["y"], events["x"] = generator.integers(0, (height, width), (count, 2)).T
    events["p"] = generator.integers(0, 2, count)
    return so.events.as_events(events, (height, width))


def counted(events, T, sensor, size, frame_of) -> np.ndarray:
    """One event after the other; ``frame_of(number, t)``."""
    frames = np.zeros((T, 2, *size), np.float32)
    top, left = ((whole - part) // 2 for whole, part in zip(sensor, size, strict=True))
    for number, (t, x, y, p) in enumerate(events.tolist()):
        row, column = y - top, x - left
        if 0 <= row < size[0] and 0 <= column < size[1]:
            frames[frame_of(number, t), p, row, column] += 1
    return frames


@pytest.mark.parametrize("size", [None, 8, (7, 5), 1])
@pytest.mark.parametrize("T", [1, 3, 10])
def test_frames_by_time_and_by_number(T, size):
    events = random_recording(307, 10, 9, 997)
    sides = (10, 9) if size is None else (size, size) if isinstance(size, int) else size
    first, last = int(events["t"][0]), int(events["t"][-1])
    length = last - first + 1

    by_time = to_frames(events, T, size=size)
    expected = counted(
        events, T, (10, 9), sides, lambda _, t: int(Fraction((t - first) * T, length))
    )
    assert by_time.dtype == np.float32 and np.array_equal(by_time, expected)
    if size is None:
        assert by_time.sum() == 307

    by_number = to_frames(events, T, split="number", size=size)
    expected = counted(events, T, (10, 9), sides, lambda n, _: min(n // (307 // T), T - 1))
    assert np.array_equal(by_number, expected)


def test_the_window_says_which_frame():
    events = recording([(10, 0, 0, 1), (19, 1, 0, 0), (20, 2, 0, 1), (99, 3, 0, 1)], (1, 4))
    frames = to_frames(events, T=10, t0=0, duration=100)
    assert [tuple(int(v) for v in place) for place in np.argwhere(frames)] == [
        (1, 0, 0, 1), (1, 1, 0, 0), (2, 1, 0, 2), (9, 1, 0, 3),
    ]  # fmt: skip
    for window, message in (
        ({"t0": 11}, "from t = 11 to 99 µs, got t = 10 in event 0 .1 outside"),
        ({"t0": 0, "duration": 99}, "from t = 0 to 98 µs, got t = 99 in event 3"),
        ({"duration": 10}, r"from t = 10 to 19 µs, got t = 20 in event 2 \(2 outside"),
        ({"t0": 100}, "got t = 10 in event 0"),
    ):
        with pytest.raises(ValueError, match=message):
            to_frames(events, T=10, **window)
    assert to_frames(events, 10, t0=11, clip=True).sum() == 3
    assert to_frames(events, 10, duration=10, clip=True).sum() == 2
    assert to_frames(events, 10, t0=100, clip=True).sum() == 0
    # By number the window chooses the events, too.
    assert to_frames(events, 2, "number", t0=11, clip=True).sum((1, 2, 3)).tolist() == [1, 2]


def test_a_size_of_two_less_drops_one_pixel_a_side():
    events = random_recording(2000, 34, 34, 300_000)
    for split in ("time", "number"):
        whole = to_frames(events, 5, split)
        assert np.array_equal(to_frames(events, 5, split, size=32), whole[:, :, 1:33, 1:33])
    cropped = so.events.crop(events, 32)
    assert cropped.sensor == (32, 32) and len(cropped) == whole[:, :, 1:33, 1:33].sum()
    window = {"t0": 0, "duration": 300_000}
    assert np.array_equal(to_frames(cropped, 5, **window), to_frames(events, 5, size=32, **window))


@settings(deadline=None, max_examples=60)
@given(
    times=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12),
    T=st.integers(1, 20),
    margin=st.integers(0, 2**62),
)
def test_times_near_the_end_of_int64(times, T, margin):
    times.sort()
    start = max(times[0] - margin, 0)
    events = recording([(t, 0, 0, 1) for t in times], (1, 1))
    length = times[-1] - start + 1 + margin
    expected = np.zeros(T)
    for t in times:
        expected[(t - start) * T // length] += 1
    frames = to_frames(events, T, t0=start, duration=length)
    assert np.array_equal(frames[:, 1, 0, 0], expected)


def test_many_events_at_one_pixel_are_counted_exactly():
    events = np.zeros(100_000, so.events.DTYPE)
    frames = to_frames(so.events.as_events(events, 2), 3)
    assert frames[0, 0, 0, 0] == 100_000 and frames.sum() == 100_000


def test_recordings_that_do_not_know_their_sensor():
    plain = np.array([(0, 3, 1, 1), (5, 8, 2, 0)], so.events.DTYPE)
    assert to_frames(plain, 2).shape == (2, 2, 3, 9)
    assert to_frames(plain, 2, size=12).shape == (2, 2, 12, 12), "nothing to crop"
    assert to_frames(plain, 2, size=12)[0, 1, 1, 3] == 1
    with pytest.warns(UserWarning, match=r"does not say how large its sensor is; 4 x 9 is taken"):
        frames = to_frames(plain, 2, size=(4, 7))
    assert frames[0, 1, 1, 2] == 1 and frames.sum() == 1
    assert to_frames(plain, 2, size=(4, 7), sensor=(4, 11)).sum() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0}, "T must be a positive integer, got 0"),
        ({"split": "events"}, "split must be 'time' or 'number', got 'events'"),
        ({"size": 11}, "size must be at most the sensor's 10 x 9, got 11 x 11"),
        ({"size": (1, 2, 3)}, "size must be a side or .height, width."),
        ({"size": 0}, "size must be an integer from 1"),
        ({"t0": -1}, "t0 must be an integer of at least 0"),
        ({"duration": 0}, "duration must be a positive integer"),
        ({"sensor": (10, 3)}, "event .*: x must be from 0 to 2"),
    ],
)
def test_what_frames_cannot_be_made_of_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        to_frames(random_recording(50, 10, 9, 100), **{"T": 2} | options)


def test_empty_recordings_are_frames_of_zeros():
    empty = np.zeros(0, so.events.DTYPE)
    for split in ("time", "number"):
        assert to_frames(empty, 3, split, size=4).shape == (3, 2, 4, 4)
        assert to_frames(so.events.as_events(empty, 5), 3, split).sum() == 0
    with pytest.raises(ValueError, match="size must be given: the recording is empty"):
        to_frames(empty, 3)


def test_downsampling_moves_every_event_to_its_coarser_pixel():
    events = random_recording(500, 128, 100, 1000)
    coarse = so.events.downsample(events, (48, 50))
    assert coarse.sensor == (48, 50) and len(coarse) == 500
    for before, after in zip(events.tolist(), coarse.tolist(), strict=True):
        t, x, y, p = before
        assert after == (t, x * 50 // 100, y * 48 // 128, p)
    thirds = so.events.downsample(events, factor=3)
    assert thirds.sensor == (43, 34) and thirds["x"].tolist() == (events["x"] // 3).tolist()
    for arguments, message in (
        ({}, "expected size or factor"),
        ({"size": 8, "factor": 2}, "expected size or factor"),
        ({"size": 200}, "size must be at most the sensor's"),
        ({"factor": 0}, "factor must be a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            so.events.downsample(events, **arguments)
    with pytest.raises(ValueError, match="sensor must be given"):
        so.events.downsample(np.asarray(events), 4)
