"""What the pages say about the event-driven simulator, and the example that plays a recording."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

import stmixer_ops as so


def loaded(path: str) -> ModuleType:
    """A script that no package holds."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model.stmx`` for events of 16x16, and ``clip.bin``: 200 events in 100 ms."""
    schedules = loaded("docs/schedules.py")
    folder = tmp_path_factory.mktemp("clip")
    so.Engine.compile(schedules.network()).save(folder / "model.stmx")
    rng = np.random.default_rng(1)
    events = np.zeros(200, so.events.DTYPE)
    events["t"] = np.sort(rng.integers(0, 100_000, 200))
    for field, most in (("x", 16), ("y", 16), ("p", 2)):
        events[field] = rng.integers(0, most, 200)
    so.events.write(folder / "clip.bin", events)
    return folder


def test_the_figures_of_the_picture() -> None:
    """The spikes that the page counts under it."""
    schedules = loaded("docs/schedules.py")
    results = schedules.run(schedules.recording())
    page = " ".join((ROOT / "docs" / "events.md").read_text().split())
    said = re.search(r"give ([\d,]+) spikes in the grid, ([\d,]+) under `rank` and ([\d,]+)", page)
    assert said is not None
    assert [r.stats.spikes for r in results.values()] == [
        int(n.replace(",", "")) for n in said.groups()
    ]
    instant = schedules.chosen_event(results["rank"].spikes)
    assert instant in schedules.recording()["t"]
    assert all((found["t"] == instant).any() for found in results["rank"].spikes.values())


def test_the_lines_of_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a recording to an answer."""
    monkeypatch.chdir(folder)
    blocks = (ROOT / "docs" / "events.md").read_text().split("```python\n")[1:]
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.split("```")[0], names)
    run = names["sim"].run(so.events.read("clip.bin"))
    np.testing.assert_array_equal(names["stream"].logits(), run.logits[0])
    printed = capsys.readouterr().out
    assert str(names["stream"].stats()) in printed
    assert str(names["report"]) in printed and not names["report"].ok


@pytest.mark.parametrize("schedule", ["rank", "serial", "grid"])
def test_the_example(
    schedule: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    example = loaded("examples/stream_dvs.py")
    files = [str(folder / "model.stmx"), str(folder / "clip.bin")]
    picture = tmp_path / "answer.png"
    options = ["--speed", "0", "--slice-ms", "30", "--labels", "a,b,c,d", "--schedule", schedule]
    example.main([*files, *options, "--picture", str(picture)])
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and last == str(picture)
    assert picture.read_bytes()[:4] == b"\x89PNG"

    simulator = so.EventSimulator.load(files[0], schedule=schedule)
    events = so.events.read(files[1])
    for text, end in zip(lines, (30_000, 60_000, 90_000, 120_000), strict=True):
        part = events[events["t"] < end]
        run = simulator.run(part, duration=end)
        chances = np.exp(run.logits[0]) / np.exp(run.logits[0]).sum()
        best = "abcd"[int(chances.argmax())]
        assert f"{len(part):,} events" in text and f" {best}  {chances.max():5.1%}" in text
        assert f"{run.stats.sops / 1e6:.2f} M SOPs" in text


def test_the_example_keeps_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the test's: every slice is pushed when it is over, ten times as fast."""
    example = loaded("examples/stream_dvs.py")
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    simulator = so.EventSimulator.load(folder / "model.stmx")
    events = so.events.read(folder / "clip.bin")
    for moment in example.play(simulator, events, 25_000, 10.0):
        assert now[0] - 100.0 == pytest.approx(moment.t / 1e7)
        assert moment.lag_us == pytest.approx(0, abs=1)
    now[0] = 200.0
    player = example.play(simulator, events, 25_000, 1.0)
    next(player)
    now[0] += 0.040  # the network takes 40 ms for something
    assert next(player).lag_us == pytest.approx(15_000, abs=1)


def test_the_example_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = loaded("examples/stream_dvs.py")
    files = [str(folder / "model.stmx"), str(folder / "clip.bin")]
    for options, text in (
        (["--slice-ms", "0"], "--slice-ms must be at least 0.001, got 0.0"),
        (["--labels", "a,b"], "--labels must be 4 names, got 2"),
    ):
        with pytest.raises(SystemExit):
            example.main([*files, *options])
        assert text in capsys.readouterr().err
