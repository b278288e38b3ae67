"""What a page that plays a recording shows, held to the simulator; the page in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.event_cases import layers, random_network, random_recording, recording

import stmixer_ops as so
from stmixer_ops.events import Playback, play
from stmixer_ops.events.page import page_data, write_page

SHAPE = (2, 4, 5)
OPTIONS: dict[str, dict[str, Any]] = {
    "rank": {"decay": 0.5},
    "serial": {},
    "grid": {},
    "late": {"schedule": "rank", "delay_us": 7, "bias": "initial"},
}


def simulator(name: str = "rank", **more: Any) -> so.EventSimulator:
    options = {"schedule": name, "step_us": 20, "bias": "drop"} | OPTIONS[name] | more
    graph = random_network(decay=options.pop("decay", 1.0), bias=True)
    return so.EventSimulator.compile(graph, **options)


@pytest.mark.parametrize("name", OPTIONS)
def test_pieces_add_up_to_the_run(name):
    sim, events = simulator(name), random_recording(SHAPE, 400)
    shown, result = play(sim, events, pieces=30), sim.run(events, record=True)
    edges = shown.edges
    assert edges[0] == 0 and edges[-1] > events["t"][-1] and len(edges) <= 31
    np.testing.assert_array_equal(shown.logits[-1], result.logits[0])
    assert shown.sops[-1] == result.stats.sops and shown.sops_fanout[-1] == result.stats.sops_fanout
    assert list(shown.spikes) == list(result.counts)
    for path, spikes in result.spikes.items():
        counts = result.counts[path][0]
        each = counts[0].size
        expected = np.zeros((len(counts), len(edges) - 1), int)
        for spike in spikes:
            if spike["t"] < edges[-1]:
                piece = np.searchsorted(edges, spike["t"], "right") - 1
                expected[spike["index"] // each, piece] += 1
        np.testing.assert_array_equal(shown.spikes[path], expected)
        assert (shown.neurons[path], shown.channels[path]) == (counts.size, 1)
    assert sum(s.sum() for s in shown.spikes.values()) == result.stats.spikes > 100


@pytest.mark.parametrize("name", ["rank", "serial", "grid"])
def test_logits_are_those_of_a_run_that_ends_there(name):
    sim, events = simulator(name), random_recording(SHAPE, 200, t0=500)
    shown = play(sim, events, t0=500, duration=700, pieces=7)
    assert shown.edges.tolist()[:2] == [500, 600] and shown.edges[-1] == 1200
    for k, end in enumerate(shown.edges[1:]):
        until = events[events["t"] < end]
        result = sim.run(until, t0=500, duration=int(end) - 500)
        np.testing.assert_array_equal(shown.logits[k], result.logits[0])
        assert shown.sops[k] == result.stats.sops
    assert len({tuple(row) for row in shown.logits.tolist()}) > 3


def test_ticks_are_not_cut():
    assert play(simulator("grid"), random_recording(SHAPE, 40)).edges[:3].tolist() == [0, 20, 40]
    edges = play(simulator("grid"), recording((995, 0)), pieces=7).edges
    assert set((edges % 20).tolist()) == {0} and edges[-1] == 1000 and len(edges) == 8


def test_wide_populations_share_rows():
    sim = so.EventSimulator.compile(layers(np.eye(130, 2) + np.eye(130, 2, -128), decay=1.0))
    shown = play(sim, recording((0, 0), (3, 1), (5, 1)))
    spikes = shown.spikes["lif0"]
    assert shown.channels["lif0"] == 3 and len(spikes) == 44
    assert spikes[0].tolist() == [1, 0, 0, 1, 0, 1]  # channels 0 to 2: both inputs
    assert spikes[42].tolist() == [1, 0, 0, 0, 0, 0] and spikes[43].tolist() == [0, 0, 0, 1, 0, 1]


def test_what_does_not_fit_is_named():
    sim = simulator()
    for events, options, text in (
        (recording((5, 5, 0, 1)), {}, "event 0: x must be from 0 to 4, got 5"),
        (recording((5, 0), (9, 0)), {"t0": 6}, "event 0: t=5 lies before t0=6"),
        (recording((5, 0), (9, 0)), {"duration": 8}, "event 1: t=9 lies behind t0 [+] duration, 8"),
        (recording(), {}, "expected at least one to play, or a duration"),
    ):
        with pytest.raises(ValueError, match=text):
            play(sim, events, **options)
    silent = play(sim, recording(), duration=50)
    assert silent.sops.tolist() == [0] * 50
    with pytest.raises(ValueError, match="event 1: p=1, but the input has one channel"):
        play(so.EventSimulator.compile(layers([[1.0]])), recording((0, 0), (1, 1)))


def test_a_run_that_was_stopped_says_when():
    sim, events = simulator(max_sops=500), random_recording(SHAPE, 400)
    with pytest.warns(RuntimeWarning, match="was stopped") as found:
        result = sim.run(events)
    shown = play(sim, events)
    assert f"t={shown.stopped} us" in str(found[0].message)
    assert shown.sops_fanout[-1] == result.stats.sops_fanout
    np.testing.assert_array_equal(shown.logits[-1], result.logits[0])
    assert any(f"stopped at t={shown.stopped}" in note for note in notes(shown))


# -- The page --------------------------------------------------------------------------------------


def notes(shown: Playback) -> list[str]:
    return page_data(shown, [str(i) for i in range(shown.logits.shape[1])])["notes"]


def pictures(data: dict[str, Any]) -> np.ndarray:
    """Events by piece, polarity and pixel, as the page's dots say."""
    counts = np.zeros((len(data["times"]), 2, data["height"] * data["width"]), int)
    for k, dots in enumerate(data["dots"]):
        for pixel, polarity, count in zip(dots[::3], dots[1::3], dots[2::3], strict=True):
            counts[k, polarity, pixel] += count
    return counts.reshape(-1, 2, data["height"], data["width"])


@pytest.mark.parametrize("most", [100_000, 60])
def test_no_event_is_left_out_of_the_pictures(monkeypatch, most):
    monkeypatch.setattr("stmixer_ops.events.page.MOST_DOTS", most)
    events = random_recording(SHAPE, 400)
    shown = play(simulator(), events, pieces=10)
    data = page_data(shown, "abc")
    side = 1 if most > 60 else 4
    expected = np.zeros((10, 2, -(-4 // side), -(-5 // side)), int)
    for t, x, y, p in events.tolist():
        piece = np.searchsorted(shown.edges, t, "right") - 1
        expected[piece, p, y // side, x // side] += 1
    np.testing.assert_array_equal(pictures(data), expected)
    assert any("4 x 4" in note for note in data["notes"]) == (side == 4)
    assert data["times"] == ((shown.edges[1:] - shown.edges[0]) / 1e3).tolist()
    np.testing.assert_allclose(np.transpose(data["logits"]), shown.logits, rtol=1e-5, atol=1e-6)
    assert data["answers"] == ["abc"[i] for i in shown.logits.argmax(1)]
    spikes = {p["name"]: np.array(p["spikes"]) for p in data["populations"]}
    np.testing.assert_equal(spikes, shown.spikes)


def test_the_likeliest_classes_are_drawn():
    sim = so.EventSimulator.compile(layers(np.eye(12, 2), decay=1.0))
    data = page_data(play(sim, recording((0, 1), (1, 1), (2, 0))), [f"c{i}" for i in range(12)])
    assert len(data["classes"]) == 10 and data["classes"][:2] == ["c0", "c1"]
    assert data["answers"] == ["c1", "c1", "c1"] and len(data["logits"]) == 10
    assert any("Of 12 classes the 10 likeliest" in note for note in data["notes"])
    with pytest.raises(ValueError, match="classes must have 12 names, got 3"):
        page_data(play(sim, recording((0, 1))), "abc")


def test_without_plotly_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"the page needs plotly.*stmixer-ops\[play\]"):
        write_page(tmp_path / "x.html", play(simulator(), recording((0, 0))), "x")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def page(tmp_path) -> tuple[Path, Playback]:
    pytest.importorskip("plotly")
    shown = play(simulator(), random_recording(SHAPE, 400), pieces=40)
    write_page(tmp_path / "page.html", shown, "a </script> & b", ["cat", "</script>", "dog"])
    return tmp_path / "page.html", shown


def test_it_is_one_file_that_loads_nothing(page):
    path, _ = page
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    text = path.read_text(encoding="utf-8")
    assert "<title>a &lt;/script&gt; &amp; b</title>" in text
    assert "default-src 'none'" in text and text.count("</script>") == 3
    assert not re.search(r"<(script|img|link|iframe)[^>]*(src|href)=", text)
    stored = re.search(r'<script id="data" type="application/json">(.*?)</script>', text)
    assert stored and json.loads(stored[1])["classes"] == ["cat", "</script>", "dog"]


def browse(path: Path, *options: str) -> str:
    """Open a page in headless Chromium; its standard output."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium (apt-get install chromium)")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1900",
        "--virtual-time-budget=5000", f"--user-data-dir={path.parent / 'profile'}", *options,
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What a person does: moves the slider, chooses a population, lets it play.
ACTIONS = """<script>
const slider = document.getElementById("slider");
slider.value = 12;
slider.dispatchEvent(new Event("input"));
document.getElementById("populations").rows[2].click();
document.title = document.getElementById("channels").layout.title.text + "|" +
  document.getElementById("logits").layout.shapes[0].x0 + "|" +
  document.getElementById("picture").data[0].z.flat().join(" ");
</script>"""


@pytest.mark.slow
def test_the_slider_moves_everything(page):
    path, shown = page
    moved, shot = path.with_name("moved.html"), path.with_suffix(".png")
    moved.write_text(path.read_text(encoding="utf-8") + ACTIONS, encoding="utf-8")
    dom = browse(moved, "--dump-dom", f"--screenshot={shot}")
    _check_screenshot(shot)
    assert "data-error" not in dom
    text = {
        name: html.unescape(found)
        for name, found in re.findall(r'<output id="(\w+)">(.*?)</output>', dom)
    }
    end = (shown.edges[13] - shown.edges[0]) / 1e3
    answer = ["cat", "</script>", "dog"][shown.logits[12].argmax()]
    assert text == {
        "time": f"{end:.2f} ms", "answer": f"answer: {answer}", "sops": f"{shown.sops[12]:,} SOPs",
    }  # fmt: skip
    rows = re.findall(r"<tr[^>]*>((?:<td>.*?</td>)+)</tr>", dom)
    cells = [re.findall(r"<td>(.*?)</td>", row)[:3] for row in rows]
    assert cells == [
        [path, f"{shown.neurons[path]:,}", f"{spikes[:, :13].sum():,}"]
        for path, spikes in shown.spikes.items()
    ]
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title
    chosen, cursor, picture = title[1].split("|")
    assert chosen == f"Spikes of {list(shown.spikes)[2]}, by channels" and float(cursor) == end
    data = page_data(shown, "abc")
    seen = pictures(data)[13 - data["trail"] : 13].sum(0)
    assert [int(v) for v in picture.split()] == (seen[1] - seen[0]).ravel().tolist()


def _check_screenshot(path: Path) -> None:
    """The picture's colours are there: of brighter and of darker events, and shades of spikes."""
    image = pytest.importorskip("PIL.Image")
    with image.open(path) as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    for wanted in ((0x1D, 0x6F, 0xB8), (0xC8, 0x55, 0x3D)):
        assert np.abs(colours.astype(int) - wanted).sum(1).min() < 12
    assert len(colours) > 100
