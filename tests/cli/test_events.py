"""``stmixer events`` on recordings packed by hand."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
from support import event_files as files

import stmixer_ops as so
from stmixer_ops.cli import main
from stmixer_ops.events.summary import event_rate


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.bin"
    path.write_bytes(files.BIN)
    return path


def test_info_says_what_is_there(clip, tmp_path, capsys):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(files.BIN[:-1])
    assert main(["events", "info", str(clip)]) == 0
    text = capsys.readouterr().out
    for line in (
        "events     5", "duration   8.388998 s, from 3 to 8389000 µs", "rate       0.596 events/s",
        "sensor     34 x 34", "active     5 pixels, 0.4 %",
        "polarity   60.0 % brighter, 40.0 % darker", "hot pixels none",
    ):  # fmt: skip
        assert line in text
    assert main(["events", "info", str(broken)]) == 2
    assert main(["events", "info", str(clip), str(broken), "--json"]) == 1
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert (content["count"], content["on"], content["sensor"]) == (5, 0.6, [34, 34])
    assert "broken.bin: byte 25: the file ends 4 bytes into an event of 5" in err
    with pytest.warns(UserWarning, match="the 4 events before are kept"):
        assert main(["events", "info", str(broken), "--partial"]) == 0


def test_hot_pixels_stand_alone_or_in_pairs():
    generator = np.random.default_rng(0)
    rows = [(x, y) for y in range(16) for x in range(16) for _ in range(generator.poisson(4))]
    rows += [(x, 8) for x in range(16) for _ in range(300)]  # an edge is no hot pixel
    rows += [(3, 3)] * 500 + [(12, 2)] * 400 + [(13, 2)] * 450
    events = np.zeros(len(rows), so.events.DTYPE)
    events["x"], events["y"] = np.array(rows).T
    hot = so.events.summarize(events).hot
    assert [pixel[:2] for pixel in hot] == [(3, 3), (13, 2), (12, 2)] and hot[0][2] >= 500


def test_the_rate_counts_every_event_once():
    events = so.events.as_events(np.array(list(files.ROWS), so.events.DTYPE))
    for bins in (1, 3, 200):
        edges, rate = event_rate(events, bins)
        seconds = (8_389_000 - 3 + 1) / bins / 1e6
        assert (edges[0], edges[-1]) == (3, 8_389_001)
        np.testing.assert_allclose(rate.sum(1) * seconds, [2, 3])
        np.testing.assert_allclose(rate[:, -1] * seconds, [0, 1] if bins > 1 else [2, 3])


def test_convert_crops_and_scales(clip, tmp_path, capsys):
    out = tmp_path / "small.npz"
    assert main(["events", "convert", str(clip), str(out), "--crop", "32"]) == 0
    assert "small.npz: 2 events" in capsys.readouterr().out
    kept = [row for row in files.ROWS if 1 <= row[1] < 33 and 1 <= row[2] < 33]
    assert so.events.read(out)["x"].tolist() == [x - 1 for _, x, _, _ in kept]
    assert main(["events", "convert", str(clip), str(out), "--downsample", "17"]) == 0
    assert so.events.read(out)["x"].tolist() == [x // 2 for _, x, _, _ in files.ROWS]
    assert main(["events", "convert", str(clip), str(tmp_path / "clip.txt")]) == 2
    unsorted = tmp_path / "unsorted.bin"
    unsorted.write_bytes(files.bin_events(files.ROWS[::-1][1:]))
    assert main(["events", "convert", str(unsorted), str(out)]) == 2
    assert main(["events", "convert", str(unsorted), str(out), "--sort"]) == 0


def test_show_draws_frames_and_rate(clip, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["events", "show", str(clip), "--T", "10"]) == 0
    out = tmp_path / "clip.png"
    content = out.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and str(out) in capsys.readouterr().out
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000 and height > 500
    (tmp_path / "empty.bin").write_bytes(b"")
    assert main(["events", "show", str(tmp_path / "empty.bin")]) == 2
    assert "expected at least one to draw" in capsys.readouterr().err


def test_colours_of_frames():
    from stmixer_ops.events.picture import _pictures

    frames = np.zeros((1, 2, 1, 3), np.float32)
    frames[0, 1, 0, 1] = frames[0, 0, 0, 2] = 4
    nothing, on, off = _pictures(frames)[0, 0]
    assert nothing.tolist() == [1, 1, 1]
    assert on.argmax() == 2 and off.argmax() == 0


def test_it_needs_no_torch(clip):
    code = (
        "import sys; sys.modules['torch'] = None; from stmixer_ops.cli import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "events", "info", str(clip)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "events     5" in done.stdout


def test_large_files_are_announced(clip, capsys, monkeypatch):
    monkeypatch.setattr("stmixer_ops.cli._recordings._ANNOUNCED", 1)
    assert main(["events", "info", str(clip)]) == 0
    assert f"reading {clip}, 0 MB" in capsys.readouterr().err
