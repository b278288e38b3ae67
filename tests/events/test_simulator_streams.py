"""A recording pushed in pieces is the recording, and can be asked at any moment."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from support.brute_events import brute
from support.event_cases import layers, random_network, recording
from support.pairs import pairwise
from support.simulator_cases import OPTIONS, SCHEDULES, compiled, fires, fits, network, sample

import stmixer_ops as so

CUTS = {
    "whole": [],
    "single events": list(range(1, 80)),
    "anywhere": [0, 0, 7, 8, 30, 31, 31, 65, 80],
}


def shows(stream: Any, result: Any) -> None:
    """The stream's answer is this run's, to the last bit."""
    np.testing.assert_array_equal(np.reshape(stream.logits(), (1, -1)), result.logits)
    counts = stream.counts()
    assert list(counts) == list(result.counts)
    for name, count in counts.items():
        np.testing.assert_array_equal(
            np.reshape(count, result.counts[name].shape), result.counts[name], err_msg=name
        )


@pairwise(
    schedule=SCHEDULES, options=list(OPTIONS), cuts=list(CUTS), soft=[False, True], allowed=fits
)
def test_pieces_equal_the_whole(schedule: str, options: str, cuts: str, soft: bool) -> None:
    """Cuts between events of one time, and empty pieces, included."""
    sim = compiled(network(soft_reset=soft), schedule, options)
    events, expected = sample(), sim.run(sample())
    fires(expected)
    stream = sim.stream()
    for piece in np.split(events, CUTS[cuts]):
        stream.push(piece)
    stream.finish()
    shows(stream, expected)
    stream.reset()
    stream.push(events)
    shows(stream, expected)


@pairwise(schedule=SCHEDULES, options=list(OPTIONS), allowed=fits)
def test_the_answer_at_any_moment_is_that_of_the_events_so_far(schedule: str, options: str) -> None:
    """Asking changes nothing, also in the middle of a timestamp."""
    sim = compiled(network(), schedule, options)
    events = sample()
    stream, at = sim.stream(), 0
    for cut in (1, 2, 3, 20, 21, 22, 23, 24, 60, 80):
        stream.push(events[at:cut])
        shows(stream, sim.run(events[:cut]))
        shows(stream, sim.run(events[:cut]))
        at = cut
    stream.finish()
    shows(stream, sim.run(events))


@pairwise(schedule=["rank", "serial"], options=list(OPTIONS), allowed=fits)
def test_advance_moves_through_silence(schedule: str, options: str) -> None:
    """As a run of that duration does, in whatever strides."""
    sim = compiled(network(), schedule, options)
    events = sample(t0=5)
    last = int(events["t"][-1])
    expected = sim.run(events, t0=5, duration=last + 200 - 5)
    for strides in ([199], [1, 2, 50, 51, 199]):
        stream = sim.stream(t0=5)
        stream.push(events)
        for stride in strides:
            stream.advance(last + stride)
            assert stream.time == last + stride
        stream.finish()
        shows(stream, expected)


@pytest.mark.parametrize("schedule", ["rank", "serial"])
def test_a_stream_of_silence_ticks_and_lets_go_of_refractory_neurons(schedule: str) -> None:
    """Threshold 1, weight 3/4, refractory 10: spikes at 0 and, by itself, at 10."""
    sim = so.EventSimulator.compile(
        layers([[0.75]]), step_us=8, schedule=schedule, refractory_us=10
    )
    stream = sim.stream()
    stream.push(recording((0, 0), (0, 0), (2, 0), (3, 0)))
    seen = []
    for t in (9, 10, 11, 40):
        stream.advance(t)
        seen.append(int(np.sum(stream.counts()["lif0"])))
    assert seen == [1, 2, 2, 2]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_stream_refuses_leaves_it_as_it_was(schedule: str) -> None:
    sim = compiled(network(), schedule, "plain")
    events = sample()
    stream = sim.stream()
    stream.push(events[:50])
    old, wrong = events[50:].copy(), events[50:].copy()
    old["t"][0] = events["t"][49] - 1
    wrong["x"][10] = 5
    for bad, place in ((old, r"\b0\b"), (wrong, r"\b10\b")):
        with pytest.raises(ValueError, match=place):
            stream.push(bad)
    with pytest.raises(ValueError):
        stream.advance(int(events["t"][49]) - 1)
    for garbage in (
        None,
        3,
        "events",
        [],
        {},
        np.zeros(3),
        events.tolist(),
        np.zeros((2, 2), "i4"),
    ):
        with pytest.raises((TypeError, ValueError)):
            stream.push(garbage)
    for garbage in (None, "5", 1.5, np.nan, [7], 2**63):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            stream.advance(garbage)
    stream.push(events[50:])
    stream.finish()
    shows(stream, sim.run(events))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_after_the_end(schedule: str) -> None:
    """Nothing comes any more, the answer stays, and reset begins anew."""
    sim = compiled(network(), schedule, "tick")
    events = sample()
    stream, expected = sim.stream(), sim.run(events)
    stream.push(events)
    stream.finish()
    with pytest.raises(ValueError, match=r"finished; reset\(\)"):
        stream.push(events[-1:])
    with pytest.raises(ValueError, match=r"finished; reset\(\)"):
        stream.advance(10**6)
    shows(stream, expected)
    stream.reset()
    shows(stream, sim.run(events[:0]))
    stream.push(events)
    stream.finish()
    shows(stream, expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_streams_of_one_simulator_do_not_meet(schedule: str) -> None:
    """One after another, from several threads, beside runs, and when the simulator is gone."""
    sim = compiled(network(), schedule, "noisy", threads=2)
    recordings = [sample(seed=seed) for seed in range(4)]
    expected = [sim.run(events) for events in recordings]
    streams = [sim.stream() for _ in recordings]
    for cut in range(0, 80, 10):
        for stream, events in zip(streams, recordings, strict=True):
            stream.push(events[cut : cut + 10])
    del sim
    for stream, result in zip(streams, expected, strict=True):
        shows(stream, result)
        stream.reset()
    errors: list[BaseException] = []

    def feed(stream: Any, events: np.ndarray, result: Any) -> None:
        try:
            for _ in range(5):
                for piece in np.split(events, range(0, 80, 7)):
                    stream.push(piece)
                stream.finish()
                shows(stream, result)
                stream.reset()
        except BaseException as error:
            errors.append(error)

    workers = [
        threading.Thread(target=feed, args=given)
        for given in zip(streams, recordings, expected, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors


def test_answers_of_a_stream_are_its_own() -> None:
    """What was handed out does not change when the stream goes on, nor does writing change it."""
    sim = compiled(network(), "rank", "plain")
    events, stream = sample(), sim.stream()
    stream.push(events[:40])
    logits, counts = stream.logits(), stream.counts()
    kept = logits.copy(), {name: count.copy() for name, count in counts.items()}
    stream.push(events[40:])
    stream.logits()
    np.testing.assert_array_equal(logits, kept[0])
    for name, count in counts.items():
        np.testing.assert_array_equal(count, kept[1][name])
        count[...] = 0
    stream.finish()
    shows(stream, sim.run(events))


def test_a_stream_against_brute_force_at_every_event() -> None:
    graph = random_network(seed=4, soft_reset=True)
    sim = so.EventSimulator.compile(graph, step_us=8, schedule="serial")
    events, stream = sample(30), sim.stream()
    for i in range(30):
        stream.push(events[i : i + 1])
        expected = brute(graph, events[: i + 1], step_us=8, schedule="serial")
        for name, count in stream.counts().items():
            np.testing.assert_array_equal(np.reshape(count, expected.counts[name].shape),
                                          expected.counts[name])  # fmt: skip
        np.testing.assert_allclose(np.ravel(stream.logits()), expected.logits, rtol=1e-5, atol=1e-6)
