"""The event-driven simulator under callers who mean it ill, or do not look."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.event_cases import EVENT, layers, random_network, recording
from support.simulator_cases import OPTIONS, compiled, network, same, sample

import stmixer_ops as so

ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.binary(max_size=5), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers()),
    st.sampled_from([np.int64(3), np.float32(2), np.zeros(2), 2**63, 2**64, -(2**63), object()]),
)  # fmt: skip
NAMES = [
    "step_us", "schedule", "bias", "multi_spike", "refractory_us", "v_min", "tau_us", "order",
    "order_seed", "delay_us", "jitter_us", "drop", "latch_us", "seed", "precision", "preset",
    "readout", "max_sops", "num_threads",
]  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, min_size=1, max_size=3))
def test_options_of_any_kind_run_or_are_refused(options: dict[str, Any]) -> None:
    """By name: nothing crashes, and no other error comes out."""
    if isinstance(options.get("num_threads"), int):
        options["num_threads"] = min(options["num_threads"], 4)
    try:
        sim = so.EventSimulator.compile(GRAPH, **({"step_us": 8} | options))
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in options), error
    else:
        sim.run(EVENTS)


GRAPH, EVENTS = layers([[1.0, 0.5]], [[1.0]]), recording((0, 0), (1, 1), (1, 1), (30, 0))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(ANYTHING, st.builds(np.zeros, st.integers(0, 3))), ANYTHING, ANYTHING)
def test_arguments_of_any_kind_run_or_are_refused(events: Any, t0: Any, duration: Any) -> None:
    sim = so.EventSimulator.compile(GRAPH, step_us=8)
    for arguments in (
        (events, 0, None),
        (EVENTS, t0, None),
        (EVENTS, 0, duration),
        (EVENTS, t0, duration),
    ):
        try:
            sim.run(arguments[0], t0=arguments[1], duration=arguments[2])
        except (TypeError, ValueError) as error:
            assert str(error)
    try:
        stream = sim.stream(t0=t0)
        stream.push(events)
    except (TypeError, ValueError) as error:
        assert str(error)


@pytest.mark.parametrize(
    "dtype",
    [
        [("t", "f8"), ("x", "u2"), ("y", "u2"), ("p", "u1")],
        [("t", "i8"), ("x", "u2"), ("y", "u2")],
        [("t", "i8"), ("x", "u2", 2), ("y", "u2"), ("p", "u1")],
        [("t", "M8[us]"), ("x", "u2"), ("y", "u2"), ("p", "u1")],
        [("t", "O"), ("x", "u2"), ("y", "u2"), ("p", "u1")],
        [("t", "c16"), ("x", "u2"), ("y", "u2"), ("p", "u1")],
    ],
)
def test_fields_that_are_no_integers_are_refused(dtype: Any) -> None:
    sim = so.EventSimulator.compile(GRAPH, step_us=8)
    with pytest.raises((TypeError, ValueError), match="t|x|p"):
        sim.run(np.zeros(3, dtype))
    with pytest.raises((TypeError, ValueError)):
        sim.run(np.zeros((3, 1), EVENT))


def test_extreme_times() -> None:
    """Of unsigned and signed 64 bits; ends that do not fit are refused, not wrapped."""
    sim = so.EventSimulator.compile(GRAPH, step_us=2**40, refractory_us=2**61)
    late = recording((2**62, 0), (2**63 - 2, 0))
    for t0 in (0, 2**62):
        try:
            result = sim.run(late, t0=t0)
        except ValueError as error:
            assert "t" in str(error)
        else:
            assert result.stats[0].spikes == 2 and (result.counts["lif0"] >= 0).all()
    unsigned = np.zeros(2, [("t", "u8"), ("x", "u1"), ("y", "u1"), ("p", "u1")])
    unsigned["t"] = [5, 2**64 - 1]
    with pytest.raises(ValueError, match=r"\b1\b"):
        sim.run(unsigned)
    for arguments in (
        {"t0": -1},
        {"t0": 2**63},
        {"duration": -1},
        {"duration": 2**63},
        {"duration": 0},
    ):
        with pytest.raises((ValueError, OverflowError)):
            sim.run(late, **arguments)


@pytest.mark.parametrize("schedule", ["grid", "rank", "serial"])
def test_one_simulator_from_many_threads(schedule: str) -> None:
    sim = compiled(network(), schedule, "noisy", threads=2)
    recordings = [sample(60, seed) for seed in range(4)]
    expected = [sim.run(events, record=True) for events in recordings]
    errors: list[BaseException] = []

    def call(i: int) -> None:
        try:
            for _ in range(10):
                same(sim.run(recordings[i], record=True), expected[i])
                sim.run([recordings[i], recordings[i - 1]])
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors


def test_a_network_that_excites_itself_is_stopped() -> None:
    """Weights far above the threshold, any number of spikes: each layer multiplies them."""
    graph = layers(*[np.full((8, 8 if i else 1), 40.0) for i in range(6)], soft_reset=True)
    for schedule in ("rank", "serial"):
        sim = so.EventSimulator.compile(
            graph, step_us=8, schedule=schedule, multi_spike=True, max_sops=10**6, num_threads=1
        )
        with pytest.warns(RuntimeWarning, match="max_sops"):
            result = sim.run(np.zeros(10, EVENT))
        assert list(result.stopped) == [True] and np.isfinite(result.logits).all()
        assert sum(row.sops_fanout for row in result.stats) >= 10**6


def test_weights_near_the_end_of_float32() -> None:
    """Membranes beyond float32: one spike a test all the same."""
    graph = layers([[3e38]], [[-3e38]], soft_reset=True)
    for schedule in ("grid", "rank", "serial"):
        result = so.EventSimulator.compile(graph, step_us=8, schedule=schedule).run(
            recording((0, 0), (8, 0), (16, 0))
        )
        assert (result.counts["lif0"].item(), result.counts["lif1"].item()) == (3, 0)


def test_copies() -> None:
    """What can be copied and sent to another process gives the same results; a stream says no."""
    sim = compiled(network(), "serial", "noisy")
    expected = sim.run(sample())
    for copied in (copy.copy(sim), copy.deepcopy(sim), pickle.loads(pickle.dumps(sim))):
        same(copied.run(sample()), expected)
    stream = sim.stream()
    stream.push(sample(10))
    with pytest.raises(TypeError):
        pickle.dumps(stream)


def test_an_event_array_that_changes_while_it_is_used_crashes_nothing() -> None:
    sim = so.EventSimulator.compile(random_network(seed=1), step_us=8)
    events, stop = sample(2000), threading.Event()

    def scribble() -> None:
        rng = np.random.default_rng(0)
        while not stop.is_set():
            events["x"][:] = rng.integers(0, 65535, len(events))

    worker = threading.Thread(target=scribble)
    worker.start()
    try:
        for _ in range(50):
            try:
                sim.run(events)
            except ValueError as error:
                assert "x" in str(error)
    finally:
        stop.set()
        worker.join()


def test_every_set_of_options_runs_twice_alike() -> None:
    for schedule in ("grid", "rank", "serial"):
        for options in OPTIONS:
            if (options, schedule) in {("current", "grid"), ("depth", "grid"), ("depth", "rank")}:
                continue
            sim = compiled(network(), schedule, options)
            same(sim.run(sample(), record=True), sim.run(sample(), record=True))
