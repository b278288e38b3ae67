"""``stmixer simulate`` and ``stmixer events play`` on small networks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.event_cases import random_network, random_recording

import stmixer_ops as so
from stmixer_ops.cli import main
from stmixer_ops.cli._progress import progress
from stmixer_ops.cli._recordings import _SIMULATION
from stmixer_ops.events import simulator
from stmixer_ops.graph import stmx

OPTIONS = {"schedule": "serial", "step_us": 20, "bias": "drop", "multi_spike": True,
           "refractory_us": 5}  # fmt: skip
FLAGS = ["--schedule", "serial", "--step-us", "20", "--bias", "drop", "--multi-spike",
         "--refractory-us", "5"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a network that has biases and two recordings."""
    monkeypatch.chdir(tmp_path)
    graph = random_network(bias=True, decay=0.5)
    (tmp_path / "net.stmx").write_bytes(stmx.encode(graph))
    for number in range(2):
        so.events.write(f"{number}.npz", random_recording((2, 4, 5), 300, seed=number))
    return graph


def run(*line: str) -> int:
    return main(["simulate", "net.stmx", *line])


def test_json_is_what_a_run_gives(here, capsys):
    flags = [*FLAGS, "--t0", "0", "--duration", "2000", "--json", "--stats"]
    assert run("0.npz", "1.npz", "--threads", "2", *flags) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    sim = so.EventSimulator.compile(here, **OPTIONS)
    for number, found in enumerate(lines):
        result = sim.run(so.events.read(f"{number}.npz"), duration=2000)
        (latency,) = result.latency()
        assert found["file"] == f"{number}.npz" and found["events"] == 300
        assert found["answer"] == str(result.logits[0].argmax())
        assert found["logits"] == result.logits[0].tolist()
        assert [found["latency_us"], found["latency_events"]] == latency.tolist()
        stats = result.stats
        for name in ("spikes", "sops", "sops_fanout", "updates"):
            assert found[name] == getattr(stats, name) > 0
        assert [row["name"] for row in found["populations"]] == [row.name for row in stats]
        assert [row["spikes"] for row in found["populations"]] == [row.spikes for row in stats]
        assert found["elapsed_us"] == 2000 and not found["stopped"]
        assert found["events_per_second"] == pytest.approx(300 / found["seconds"])
        assert found["real_time_factor"] == pytest.approx(2e-3 / found["seconds"])
    assert lines[0]["logits"] != lines[1]["logits"]


def test_text_says_the_same(here, capsys):
    labels = {"classes": ["cat", "dog", "eel"], "mean": [], "std": [], "img_size": 4, "name": "x"}
    Path("net.labels.json").write_text(json.dumps(labels))
    assert run("0.npz", *FLAGS, "--stats", "--top", "2") == 0
    text = capsys.readouterr().out
    result = so.EventSimulator.compile(here, **OPTIONS).run(so.events.read("0.npz"))
    share = np.exp(result.logits[0].astype(float))
    share /= share.sum()
    first, second, _ = np.argsort(-share)
    names = labels["classes"]
    assert f"answer   {names[first]} {100 * share[first]:.1f} %, {names[second]} " in text
    after, events = result.latency()[0]
    assert f"latency  final after {after / 1e3:.3g} ms and {100 * events:.1f} % of the eve" in text
    assert "with fan-out" in text and "events/s" in text and "times real time" in text
    row = result.stats["mix.lif1"]
    assert any(
        line.split() == ["mix.lif1", f"{row.neurons:,}", f"{row.spikes:,}", f"{row.rate:.4f}",
                         f"{row.sops:,}", f"{row.sops_fanout:,}", f"{row.updates:,}"]
        for line in text.splitlines()
    )  # fmt: skip
    labels["classes"] = labels["classes"][:2]
    Path("net.labels.json").write_text(json.dumps(labels))
    assert run("0.npz", *FLAGS) == 2
    assert "labels: expected 3 classes, as the network has, got 2" in capsys.readouterr().err


def test_there_is_a_flag_for_every_option():
    given = {name for name, _, _ in _SIMULATION} - {"preset"}
    assert given == {*simulator._NAMED, *simulator._NUMBERS, *simulator._PER_PROJECTION,
                     *simulator._OTHERS} - {"v_max"}  # fmt: skip


def test_labels_say_how_recordings_are_read_and_how_long_a_step_is(here, capsys):
    made = {"T": 4, "frames": "time", "step_us": 20, "fit": "nearest"}
    labels = {"classes": ["0", "1", "2"], "mean": [], "std": [], "name": "events", "made": made,
              "img_size": [4, 5], "sensor": [8, 10]}  # fmt: skip
    Path("net.labels.json").write_text(json.dumps(labels))
    events = random_recording((2, 8, 10), 900)
    so.events.write("wide.npz", events)
    kept = events[(events["x"] % 2 == 0) & (events["y"] % 2 == 0)]
    kept["x"], kept["y"] = kept["x"] // 2, kept["y"] // 2
    result = so.EventSimulator.compile(here, step_us=20, bias="drop").run(kept)
    assert run("wide.npz", "--bias", "drop", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["logits"] == result.logits[0].tolist() and found["events"] == len(kept) < 300
    assert run("wide.npz", "--bias", "drop", "--json", "--crop", "4", "--step-us", "50") == 0
    with pytest.warns(UserWarning, match="8 x 10 is taken"):
        cropped = so.events.crop(events, 4)
    result = so.EventSimulator.compile(here, step_us=50, bias="drop").run(cropped)
    assert json.loads(capsys.readouterr().out)["logits"] == result.logits[0].tolist()


def test_what_fails_is_named_and_the_rest_is_done(here, capsys):
    assert run("0.npz") == 2
    assert "choose bias" in capsys.readouterr().err
    so.events.write("wide.npz", random_recording((2, 4, 8), 300))
    assert run("missing.npz", "wide.npz", "0.npz", *FLAGS, "--json") == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == "0.npz"
    assert "missing.npz" in err and "wide.npz: events: event " in err
    assert run("wide.npz", *FLAGS, "--crop", "4") == 0
    assert run("0.npz", *FLAGS, "--confidence", "2") == 2
    assert "--confidence: expected a number in (0, 1], got '2'" in capsys.readouterr().err
    assert run("0.npz", "--preset", "speck", "--schedule", "rank") == 2


def test_a_recording_that_is_stopped_is_said_to_be(here, capsys, recwarn):
    assert run("0.npz", *FLAGS, "--max-sops", "500", "--confidence", "1") == 1
    text = capsys.readouterr().out
    assert "latency  softmax 1: never" in text and "more than 500 SOPs with fan-out" in text
    assert not [w for w in recwarn if "stopped" in str(w.message)]


def test_it_needs_no_torch(here):
    code = (
        "import sys; sys.modules['torch'] = None; from stmixer_ops.cli import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "simulate", "net.stmx", "0.npz", *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "answer" in done.stdout


def test_play_writes_a_page(here, capsys):
    pytest.importorskip("plotly")
    line = ["events", "play", "net.stmx", "0.npz"]
    assert main([*line, *FLAGS]) == 0
    assert capsys.readouterr().out.startswith("0.html: ")
    text = Path("0.html").read_text(encoding="utf-8")
    assert "<title>0.npz: 300 events in " in text and "net.stmx (serial)</title>" in text
    data = json.loads(text.split('<script id="data" type="application/json">')[1].split("<")[0])
    result = so.EventSimulator.compile(here, **OPTIONS).run(so.events.read("0.npz"))
    assert data["sops"][-1] == result.stats.sops
    assert main([*line, "--html", "other.html"]) == 2  # biases
    assert main([*line, *FLAGS, "--html", "no/such/folder.html"]) == 2
    assert "expected the folder no/such to exist" in capsys.readouterr().err


def test_progress_is_silent_for_two_seconds(capsys, monkeypatch):
    with progress("working") as shown:
        shown.line("done")
    assert capsys.readouterr() == ("done\n", "")
    monkeypatch.setattr("stmixer_ops.cli._progress._SILENT", 0.01)
    with progress("working") as shown:
        shown.status("3 of 10")
        while not (err := capsys.readouterr().err):
            time.sleep(0.01)
    assert err == "working, 3 of 10, 0 s\n"


def test_a_terminal_shows_progress_in_one_place(capsys, monkeypatch):
    monkeypatch.setattr("stmixer_ops.cli._progress._SILENT", 0.01)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress("working") as shown:
        seen = ""
        while "working" not in seen:
            time.sleep(0.01)
            seen += capsys.readouterr().err
        shown.line("done")
    out, err = capsys.readouterr()
    assert out == "done\n" and (seen + err).startswith("working, 0 s\r\x1b[K")
