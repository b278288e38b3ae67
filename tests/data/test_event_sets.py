"""Data sets of recordings: where files lie, which are for training, frames and their cache."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support import event_files as files

import stmixer_ops as so
from stmixer_ops.data import FrameData, frames_of, load_dataset, load_stored, stored_frames
from stmixer_ops.data.event_sets import CIFAR10_CLASSES, GESTURES, _held_out, holds_recordings
from stmixer_ops.data.framing import FrameOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("STMIXER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(seed: int, count: int = 60, side: int = 34, duration: int = 300_000):
    generator = np.random.default_rng(seed)
    times = np.sort(generator.integers(0, duration, count))
    pixels = generator.integers(0, side, (count, 2))
    return [(int(t), int(x), int(y), int(generator.integers(2))) for t, (x, y) in
            zip(times, pixels, strict=True)]  # fmt: skip


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def nmnist_tree(root: Path, each: int = 2) -> dict[str, list]:
    """The official layout: ``Train/<digit>/*.bin``; the events of each set in order."""
    held: dict[str, list] = {"Train": [], "Test": []}
    for part, base in (("Train", 0), ("Test", 1000)):
        for digit in range(10):
            for n in range(each):
                events = rows(base + 10 * n + digit)
                put(root / part / str(digit) / f"{n:05}.bin", files.bin_events(events))
                held[part].append(events)
    return held


def counted(events, T: int, step: int, crop: int = 1, side: int = 32) -> np.ndarray:
    frames = np.zeros((T, 2, side, side))
    for t, x, y, p in events:
        if t < T * step and crop <= x < side + crop and crop <= y < side + crop:
            frames[t // step, p, y - crop, x - crop] += 1
    return frames


def test_nmnist_in_its_official_layout(tmp_path):
    held = nmnist_tree(tmp_path / "data")
    data = load_dataset("nmnist", tmp_path / "data")
    assert isinstance(data, FrameData) and data.input_shape == (10, 2, 32, 32)
    assert data.classes == tuple("0123456789") and (len(data.train), len(data.test)) == (20, 20)
    assert data.train.labels.tolist() == sorted([*range(10)] * 2)
    for part, samples in ((held["Train"], data.train), (held["Test"], data.test)):
        for events, frames in zip(part, samples.frames, strict=True):
            assert np.array_equal(frames.numpy(), counted(events, 10, 31_000))
    short = load_dataset("nmnist", tmp_path / "data", T=4, step_us=20_000, img_size=34)
    assert np.array_equal(
        short.train.frames[0].numpy(), counted(held["Train"][0], 4, 20_000, crop=0, side=34)
    )
    lost = sum(t >= 80_000 for part in held.values() for events in part for t, *_ in events)
    assert f"{lost} events after the last frame are left out" in short.notes


def test_nmnist_as_lists_of_numbers(tmp_path):
    for n in range(5):
        put(tmp_path / f"{n}.bs2", files.bin_events(rows(n)))
    (tmp_path / "train1K.txt").write_text("#sample #class\n0\t7\n2\t3\n1\t0\n")
    (tmp_path / "test100.txt").write_text("#sample #class\n4\t9\n")
    data = load_dataset("nmnist", tmp_path)
    assert data.train.labels.tolist() == [7, 3, 0] and data.test.labels.tolist() == [9]
    assert np.array_equal(data.train.frames[1].numpy(), counted(rows(2), 10, 31_000))
    (tmp_path / "test100.txt").write_text("#sample #class\n9\t9\n")
    with pytest.raises(FileNotFoundError, match=r"9\.bs2: expected, as test100.txt lists it"):
        load_dataset("nmnist", tmp_path)
    (tmp_path / "test100.txt").write_text("4 seven\n")
    with pytest.raises(ValueError, match="test100.txt:1: expected a number and a digit"):
        load_dataset("nmnist", tmp_path)


# -- CIFAR10-DVS ----------------------------------------------------------------------------------


def test_the_three_splits_of_cifar10_dvs():
    paths = sorted(Path(f"cifar10_cat_{n}.aedat") for n in range(1000))
    numbers = {
        split: sorted(int(p.stem.split("_")[-1]) for p in _held_out(paths, split))
        for split in ("spikformer", "tebn", "mtt")
    }
    assert numbers["tebn"] == [*range(100)]
    assert numbers["mtt"] == [*range(900, 1000)]
    # By name 91 comes after 909: these are the last hundred names.
    assert numbers["spikformer"] == sorted([*range(91, 100), *range(910, 1000), 909])


def cifar10_dvs_tree(root: Path, each: int = 10) -> None:
    for label, name in enumerate(CIFAR10_CLASSES):
        for n in range(each):
            events = rows(100 * label + n, side=128, duration=1_300_000)
            put(root / name / f"cifar10_{name}_{n}.aedat", files.aedat2(events))


def test_cifar10_dvs_is_turned_upright_and_scaled_to_nearest(tmp_path):
    cifar10_dvs_tree(tmp_path)
    data = load_dataset("cifar10-dvs", tmp_path, T=3)
    assert data.input_shape == (3, 2, 128, 128) and (len(data.train), len(data.test)) == (90, 10)
    assert data.classes == CIFAR10_CLASSES
    expected = np.zeros((3, 2, 128, 128))
    for n, (_, x, y, p) in enumerate(rows(9, side=128, duration=1_300_000)):
        expected[n // 20, 1 - p, 127 - x, 127 - y] += 1
    assert np.array_equal(data.test.frames[0].numpy(), expected)
    small = load_dataset("cifar10-dvs", tmp_path, T=3, img_size=48)
    chosen = torch.nn.functional.interpolate(torch.tensor(expected), (48, 48), mode="nearest")
    assert torch.equal(small.test.frames[0].double(), chosen)
    stored = small.describe()
    assert stored["made"] == {"T": 3, "frames": "number", "fit": "nearest"}
    one = stored_frames(stored, tmp_path / "airplane" / "cifar10_airplane_9.aedat")
    assert np.array_equal(one, chosen) and one.dtype == np.float32
    with pytest.raises(ValueError, match="split must be one of spikformer, tebn, mtt, got 'x'"):
        load_dataset("cifar10-dvs", tmp_path, split="x")
    with pytest.raises(ValueError, match="split 'mtt' needs more than 100 recordings"):
        load_dataset("cifar10-dvs", tmp_path, split="mtt")


# -- DVS128 Gesture -------------------------------------------------------------------------------


def test_gestures_are_cut_out_by_their_trials(tmp_path):
    first = [(100, 1, 2, 1), (200, 3, 4, 0), (299, 5, 6, 1), (300, 7, 8, 0), (900, 9, 10, 1)]
    put(tmp_path / "user01_led.aedat", files.aedat3(files.aedat3_packet(first)))
    (tmp_path / "user01_led_labels.csv").write_text(
        "class, startTime_usec, endTime_usec\n3,200,300\n11,300,1000\n"
    )
    put(tmp_path / "user02_lab.aedat", files.aedat3(files.aedat3_packet(first)))
    (tmp_path / "user02_lab_labels.csv").write_text("class,start,end\n1,0,500\n")
    (tmp_path / "trials_to_train.txt").write_text("user01_led.aedat\n")
    (tmp_path / "trials_to_test.txt").write_text("user02_lab.aedat\n")
    data = load_dataset("dvs128-gesture", tmp_path, T=2, img_size=128)
    assert data.classes == GESTURES and data.train.labels.tolist() == [2, 10]
    assert data.test.labels.tolist() == [0]

    def places(frames):
        return [tuple(p) for p in frames.nonzero().tolist()]

    assert places(data.train.frames[0]) == [(0, 0, 4, 3), (1, 1, 6, 5)]
    assert places(data.train.frames[1]) == [(0, 0, 8, 7), (1, 1, 10, 9)]
    # Times of a trial begin at 0: the second one's events come after 0 and 600 µs.
    timed = load_dataset("dvs128-gesture", tmp_path, T=7, step_us=100, img_size=64)
    assert places(timed.train.frames[1]) == [(0, 0, 4, 3), (6, 1, 5, 4)]
    changed = files.aedat3(files.aedat3_packet(first[:1]))
    put(tmp_path / "user02_lab.aedat", changed)
    again = load_dataset("dvs128-gesture", tmp_path, T=7, step_us=100, img_size=64)
    assert places(again.test.frames[0]) == [(1, 1, 1, 0)], "the file is read again"
    (tmp_path / "user02_lab_labels.csv").write_text("class,start,end\n12,0,500\n")
    with pytest.raises(ValueError, match=r"labels.csv:2: expected class \(1 to 11\)"):
        load_dataset("dvs128-gesture", tmp_path)
    (tmp_path / "user02_lab_labels.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"user02_lab_labels.csv: expected"):
        load_dataset("dvs128-gesture", tmp_path)


# -- Folders --------------------------------------------------------------------------------------


def test_any_folder_of_recordings(tmp_path):
    for part, seeds in (("train", (1, 2)), ("val", (3, 4))):
        put(tmp_path / part / "left" / "a.dat", files.dat(rows(seeds[0], side=40)))
        put(tmp_path / part / "right" / "b.npz", files.npz(rows(seeds[1], side=40)))
    assert holds_recordings(tmp_path)
    data = load_dataset("events", tmp_path, T=3)
    assert data.classes == ("left", "right") and data.input_shape == (3, 2, 40, 50)
    assert data.train.frames.sum((1, 2, 3, 4)).tolist() == [60, 60]
    other = files.dat(rows(1)).replace(b"Width 50", b"Width 60")
    put(tmp_path / "val" / "left" / "z.dat", other)
    with pytest.raises(ValueError, match=r"z\.dat: sensor must be \(40, 50\) as in the set"):
        load_dataset("events", tmp_path, T=3)


def test_a_folder_without_a_sensor_says_what_it_takes(tmp_path):
    for name in ("a", "b"):
        for n in range(5):
            put(tmp_path / name / f"{n}.npz", files.npz(rows(n, side=20 + n)))
    data = load_dataset("events", tmp_path, T=2)
    assert (len(data.train), len(data.test)) == (8, 2)
    most = 1 + max(max(x, y) for n in range(5) for _, x, y, _ in rows(n, side=20 + n))
    assert max(data.input_shape[2:]) == most
    assert any("do not say how large their sensor is" in note for note in data.notes)


def frames_npz(frames: np.ndarray) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, archive.open("frames.npy", "w") as member:
        text = (
            f"{{'descr': '{frames.dtype.str}', 'fortran_order': False, 'shape': {frames.shape}, }}"
        )
        text = text.ljust(117) + "\n"
        member.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())
        member.write(frames.tobytes())
    return file.getvalue()


def test_spikingjelly_prepared_folders(tmp_path):
    generator = np.random.default_rng(0)
    held = generator.integers(0, 300, (2, 2, 4, 2, 128, 128)).astype("<f4")
    for s, part in enumerate(("train", "test")):
        for c in range(2):
            for by in ("number", "time"):
                path = tmp_path / f"frames_number_4_split_by_{by}" / part / str(c) / "u.npz"
                put(path, frames_npz(held[s, c] + (by == "time")))
            put(tmp_path / "events_np" / part / str(c) / "u.npz", files.npz(rows(c, side=128)))
    assert holds_recordings(tmp_path)
    data = load_dataset("events", tmp_path, T=4)
    assert np.array_equal(data.train.frames.numpy(), held[0])
    assert data.train.frames.dtype == torch.int16, "no more bytes than the counts need"
    by_time = load_dataset("events", tmp_path, T=4, frames="time")
    assert np.array_equal(by_time.test.frames.numpy(), held[1] + 1)
    made_here = load_dataset("events", tmp_path, T=5)
    assert made_here.train.frames.sum((1, 2, 3, 4)).tolist() == [60, 60]
    itself = tmp_path / "frames_number_4_split_by_number"
    cropped = load_dataset("events", itself, T=4, img_size=126)
    assert np.array_equal(cropped.train.frames.numpy(), held[0][..., 1:-1, 1:-1])
    with pytest.raises(ValueError, match=r"frames must be \[3, 2, 128, 128\], got \[4, 2"):
        load_dataset("events", itself, T=3)
    with pytest.raises(ValueError, match="prepared frames cannot be summed"):
        load_dataset("events", itself, T=4, img_size=64, fit="sum")
    with pytest.raises(ValueError, match="expected classes 0 to 10"):
        load_dataset("dvs128-gesture", tmp_path, T=4)


# -- Iterables ------------------------------------------------------------------------------------


def test_any_iterable_of_events_and_labels():
    class Tonic:
        """As tonic's data sets are: a structured array and a label an item."""

        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index >= 3:
                raise IndexError
            events = [(x, y, t, bool(p)) for t, x, y, p in rows(index)]
            kinds = [("x", "i8"), ("y", "i8"), ("t", "i8"), ("p", "?")]
            return np.array(events, kinds), index % 2

    samples = frames_of(Tonic(), 10, frames="time", step_us=31_000, size=32, sensor=34)
    assert samples.labels.tolist() == [0, 1, 0]
    for index in range(3):
        assert np.array_equal(samples.frames[index].numpy(), counted(rows(index), 10, 31_000))
    data = FrameData("tonic", samples, samples, ("a", "b"))
    assert data.input_shape == (10, 2, 32, 32) and "made" not in data.describe()
    with pytest.raises(ValueError, match="recording 0: event 0: t must be 0 or more, got -5"):
        frames_of([(np.array([(-5, 0, 0, 0)], [(n, "i8") for n in "txyp"]), 0)], 2)
    with pytest.raises(ValueError, match="expected at least one, got none"):
        frames_of([], 2)


def test_recordings_that_begin_after_the_last_frame_are_refused():
    options = FrameOptions(2, "time", 100, (4, 4), "crop", (4, 4))
    late = so.events.as_events(np.array([(200, 0, 0, 0)], so.events.DTYPE), 4)
    with pytest.raises(ValueError, match=r"no event before T \* step_us = 200 µs"):
        options.make(late)


@pytest.mark.parametrize("fit", ["crop", "nearest", "sum"])
def test_placed_events_are_those_that_frames_count(fit):
    random = np.random.default_rng(0)
    columns = [np.sort(random.integers(0, 200, 500)), *random.integers(0, 9, (2, 500)),
               random.integers(0, 2, 500)]  # fmt: skip
    events = so.events.as_events(np.rec.fromarrays(columns, names="t,x,y,p"), (9, 9))
    options = FrameOptions(4, "time", 50, (4, 7), fit, (9, 9))
    placed = options.placed(events)
    assert placed.sensor == (4, 7) and 100 < len(placed) <= 500
    frames = so.events.to_frames(placed, 4, size=(4, 7), t0=0, duration=200)
    np.testing.assert_array_equal(frames, options.make(events))


# -- The cache ------------------------------------------------------------------------------------


class Counter:
    """Progress that counts."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.lines: list[str] = []

    def line(self, text):
        self.lines.append(text)

    def task(self, label, total):
        import contextlib

        self.steps.append((label, 0))

        def advance(status):
            self.steps[-1] = (label, self.steps[-1][1] + 1)

        return contextlib.nullcontext(advance)


def test_frames_are_made_once_and_again_when_anything_changed(tmp_path, cache):
    root = tmp_path / "data"
    nmnist_tree(root, each=1)
    shown = Counter()
    first = load_dataset("nmnist", root, progress=shown)
    assert shown.steps == [("training frames", 10), ("test frames", 10)]
    assert shown.lines[0] == "making training frames of 10 recordings"
    assert not list(cache.rglob("*.tmp"))
    again = load_dataset("nmnist", root, progress=shown)
    assert len(shown.steps) == 2 and torch.equal(first.train.frames, again.train.frames)
    again.train.frames.zero_()
    assert load_dataset("nmnist", root).train.frames.sum() > 0, "the cache is not written to"
    load_dataset("nmnist", root, T=5, progress=shown)
    assert len(shown.steps) == 4
    put(root / "Train" / "3" / "00000.bin", files.bin_events(rows(77, count=61)))
    changed = load_dataset("nmnist", root, progress=shown)
    assert shown.steps[4:] == [("training frames", 10)]
    assert np.array_equal(changed.train.frames[3].numpy(), counted(rows(77, 61), 10, 31_000))
    for path in cache.rglob("frames.npy"):
        path.write_bytes(path.read_bytes()[:-100])  # a disk that was full
    mended = load_dataset("nmnist", root, progress=shown)
    assert len(shown.steps) == 7 and torch.equal(mended.train.frames, changed.train.frames)


def test_damaged_recordings_are_listed_or_left_out(tmp_path):
    root = tmp_path / "data"
    nmnist_tree(root)
    broken = root / "Train" / "4" / "00001.bin"
    broken.write_bytes(broken.read_bytes()[:-1])
    for _ in range(2):  # the second time from the cache
        with pytest.raises(
            ValueError, match=r"1 of 20 recordings cannot be read: .*4/00001.bin: byte 295: the fi"
        ):
            load_dataset("nmnist", root)
        data = load_dataset("nmnist", root, skip_damaged=True)
        assert len(data.train) == 19 and data.skipped == 1
        assert data.train.labels.tolist().count(4) == 1
        assert any("left out: 1 recordings" in note for note in data.notes)


def test_a_checkpoint_brings_its_frames_back(tmp_path):
    root = tmp_path / "data"
    nmnist_tree(root)
    data = load_dataset("nmnist", root, T=3, step_us=50_000, img_size=24, fit="sum")
    stored = json.loads(json.dumps(data.describe()))
    again = load_stored(stored, "x.safetensors", None, None)
    assert torch.equal(again.test.frames, data.test.frames) and again.describe() == stored
    one = stored_frames(stored, root / "Test" / "0" / "00000.bin")
    assert np.array_equal(one, data.test.frames[0].numpy())
    with pytest.raises(ValueError, match="say nothing about how frames are made"):
        stored_frames({"name": "events"}, root)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nmnist", {"frames": "events"}, "frames must be 'time' or 'number', got 'events'"),
        ("nmnist", {"frames": "number", "step_us": 5}, "step_us is for frames by time"),
        ("nmnist", {"split": "tebn"}, "split is for CIFAR10-DVS, got 'tebn'"),
        ("nmnist", {"img_size": 40}, "img_size must be at most the sensor's 34 x 34, got 40 x 40"),
        ("nmnist", {"fit": "zoom"}, "fit must be one of crop, nearest, sum, got 'zoom'"),
        ("nmnist", {"T": 0}, "T must be a positive integer"),
        ("nmnist", {"in_channels": 3}, "has 2 channels, got in_channels=3"),
        ("digits", {"T": 4}, "T is for recordings of event cameras, not for 'digits'"),
        ("digits", {"img_size": (8, 8)}, "img_size must be the side of square images"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path, name, options, message):
    nmnist_tree(tmp_path, each=1)
    with pytest.raises(ValueError, match=message):
        load_dataset(name, tmp_path, **options)
