"""Who is timed when; no time is asserted."""

from __future__ import annotations

import subprocess

import pytest

from stmixer_ops.measure import timing
from stmixer_ops.measure.timing import Pace, race

PACE = Pace(turns=2, seconds=0.001, calls=(2, 2))


def test_turns_meet_everybody():
    seen: list[str] = []
    timings = race({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, PACE)
    assert "".join(seen) == "aabb" + "aaabbb" * 2  # two to start, then one to warm up and two
    assert {t.calls for t in timings.values()} == {4}
    assert all(len(t.turns) == 2 and t.median >= 0 for t in timings.values())


def test_a_neighbour_is_busy_and_leaves(monkeypatch):
    started: list[subprocess.Popen] = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(timing.subprocess, "Popen", Popen)
    with pytest.raises(KeyError), timing.busy_neighbour():
        assert started[0].poll() is None
        raise KeyError
    assert started[0].poll() is not None


def test_latency_alternates_and_takes_medians(monkeypatch):
    now, seen = [0.0], []

    def call(name: str, seconds: list[float]):
        def run(x):
            seen.append(name)
            now[0] += seconds[0] if len(seconds) == 1 else seconds.pop(0)

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    slow = [9.0, 0.001, 0.002, 9.0, 9.0]  # the first call of a turn is not counted
    first, second = timing.latency(call("a", slow), call("b", [0.5]), None, calls=3, seconds=99)
    assert "".join(seen) == "aaaabbbb"
    assert (first, second) == (pytest.approx(2.0), pytest.approx(500.0))
