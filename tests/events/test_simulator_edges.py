"""Recordings at the edge of what there is, and what is refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from support.brute_events import brute
from support.event_cases import EVENT, layers, random_network, random_recording, recording
from support.simulator_cases import SCHEDULES, assert_equal, check, simulated

import stmixer_ops as so
from stmixer_ops.graph.quantize import quantize


def sim(graph: so.Graph, schedule: str = "rank", **options: Any) -> Any:
    return so.EventSimulator.compile(graph, **({"step_us": 8, "schedule": schedule} | options))


# -- Recordings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_events(schedule: str) -> None:
    """The head's bias alone; with biases in the network and a duration, what these cause."""
    graph = random_network(seed=1, bias=True)
    result = check(graph, recording(), step_us=8, schedule=schedule, bias="drop")
    np.testing.assert_array_equal(result.logits, graph.tensors["head.bias"])
    check(graph, recording(), {"duration": 50}, step_us=8, schedule=schedule, bias="tick")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_events_at_one_time(schedule: str) -> None:
    events = random_recording((2, 4, 5), 300)
    events["t"] = 77
    graph = random_network(seed=1, soft_reset=True)
    result = check(graph, events, step_us=8, schedule=schedule, multi_spike=True)
    assert all(t == 77 - 77 % (8 if schedule == "grid" else 1) for t, _ in result.spikes["lif0"])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_hundred_thousand_events_at_one_pixel(schedule: str) -> None:
    """Weight 1/4, threshold 1: a spike for every fourth, all at one time or each at its own."""
    graph, count = layers([[0.25]], soft_reset=True), 100_000
    events = np.zeros(count, EVENT)
    result = simulated(graph, events, step_us=8, schedule=schedule)
    expected = {"grid": 1, "rank": 1, "serial": count // 4}[schedule]
    assert result.counts["lif0"].item() == expected
    many = simulated(graph, events, step_us=8, schedule=schedule, multi_spike=True)
    assert many.counts["lif0"].item() == count // 4
    events["t"] = np.arange(count)
    apart = simulated(graph, events, step_us=8, schedule=schedule)
    # Eight events a tick add two thresholds, of which a tick's test takes one.
    assert apart.counts["lif0"].item() == (count // 8 if schedule == "grid" else count // 4)
    assert apart.stats[0].spikes == count


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_near_the_largest(schedule: str) -> None:
    start = 2**62 - 100
    events = random_recording((2, 4, 5), 60, t0=start)
    graph = random_network(seed=1, decay=1.0, bias=True)
    check(graph, events, {"t0": start}, step_us=8, schedule=schedule, refractory_us=5,
          delay_us=3, bias="tick")  # fmt: skip


@pytest.mark.parametrize("schedule", ["rank", "serial"])
def test_long_silence_costs_nothing(schedule: str) -> None:
    """Days of it: no loop over microseconds or, where no bias ticks, over ticks."""
    graph = layers([[0.75]], decay=0.5)
    result = simulated(graph, recording((0, 0), (10**12, 0)), step_us=8, schedule=schedule)
    assert result.counts["lif0"].item() == 0
    held = layers([[0.75]])
    late = simulated(held, recording((0, 0), (10**12, 0)), step_us=8, schedule=schedule)
    assert late.spikes["lif0"]["t"].tolist() == [10**12]


@pytest.mark.parametrize("fields", [
    [("x", "i4"), ("y", "i8"), ("p", "?"), ("t", "u8")], [("p", "i2"), ("t", "i4"), ("y", "u1"),
    ("x", "u4")],
])  # fmt: skip
def test_fields_are_found_by_name(fields: Any) -> None:
    graph, events = random_network(seed=1), random_recording((2, 4, 5), 40)
    other = np.zeros(40, fields)
    for name in "txyp":
        other[name] = events[name]
    expected = brute(graph, events, step_us=8)
    assert_equal(simulated(graph, other, step_us=8), expected)
    assert_equal(simulated(graph, events[::-1][::-1], step_us=8), expected)
    assert_equal(simulated(graph, np.repeat(events, 3)[::3], step_us=8), expected)


def test_as_many_polarities_as_the_network_has_channels() -> None:
    graph = layers(np.eye(4))
    check(graph, recording((0, 3), (1, 2), (5, 3)), step_us=8)
    with pytest.raises(ValueError, match=r"\b1\b.*p must be .*4"):
        sim(graph).run(recording((0, 3), (1, 4)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("t", 3, 9), r"\b4\b"),  # event 4 comes before it
        (("t", 0, -1), r"\b0\b"),
        (("x", 5, 5), r"\b5\b"),
        (("y", 2, 4), r"\b2\b"),
        (("p", 6, 2), r"\b6\b"),
    ],
)
def test_the_first_bad_event_is_named(change: tuple[str, int, int], message: str) -> None:
    events = np.zeros(9, EVENT)
    events["t"] = np.arange(9)
    field, place, value = change
    events[field][place] = value
    events["p"][8] = 77  # a later fault is not what is named
    graph = random_network(seed=1)
    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match=message) as error:
            sim(graph, schedule).run(events)
        assert "77" not in str(error.value)
        with pytest.raises(ValueError, match=message):
            sim(graph, schedule).run([events[:0], events])


def test_events_outside_the_run_are_refused() -> None:
    graph, events = random_network(seed=1), random_recording((2, 4, 5), 5, t0=10)
    events["t"] = [10, 12, 14, 16, 18]
    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match="t0"):
            sim(graph, schedule).run(events, t0=11)
        with pytest.raises(ValueError, match=r"\b4\b.*duration|duration.*\b4\b"):
            sim(graph, schedule).run(events, t0=10, duration=8)
        sim(graph, schedule).run(events, t0=10, duration=9)


# -- What cannot be run ---------------------------------------------------------------------------


def test_dense_input_is_for_grid() -> None:
    graph = random_network(seed=1)
    x = np.zeros((3, 1, 2, 4, 5), np.float32)
    for schedule in ("rank", "serial"):
        with pytest.raises((TypeError, ValueError), match="grid"):
            sim(graph, schedule).run(x)
    with pytest.raises(ValueError, match=r"2, 4, 5"):
        sim(graph, "grid").run(x[..., 1:])


def test_biases_are_refused_by_name() -> None:
    graph = random_network(seed=1, bias=True)
    for schedule in SCHEDULES:
        with pytest.raises(ValueError) as error:
            so.EventSimulator.compile(graph, step_us=8, schedule=schedule)
        for name in ("c0", "stream0", "stream1", "stream2", "stream3"):
            assert name in str(error.value), name
        assert "head" not in str(error.value)
    with pytest.raises(ValueError, match="tick"):
        so.EventSimulator.compile(graph, step_us=8, schedule="grid", bias="current")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_cap_on_work_stops_with_what_there_is(schedule: str) -> None:
    graph, events = random_network(seed=1), random_recording((2, 4, 5), 60)
    whole = simulated(graph, events, step_us=8, schedule=schedule)
    work = sum(row.sops_fanout for row in whole.stats)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enough = simulated(graph, events, step_us=8, schedule=schedule, max_sops=work)
    assert not np.any(enough.stopped)
    np.testing.assert_array_equal(enough.logits, whole.logits)
    for most in (work - 1, work // 2, 1, 0):
        capped = sim(graph, schedule, max_sops=most)
        with pytest.warns(RuntimeWarning, match=r"\b1\b.*max_sops|max_sops.*\b1\b"):
            result = capped.run([events[:0], events], record=True)
        assert list(result.stopped) == [False, True]
        assert result.stats[0].spikes >= 1
        for name, fired in whole.spikes.items():
            count = result.counts[name][1]
            assert (count <= whole.counts[name][0]).all()
            assert (result.spikes[name]["recording"] == 1).all()
            got = sorted(result.spikes[name][["t", "index"]].tolist())
            assert got == sorted(fired[["t", "index"]].tolist())[: len(got)] or schedule == "serial"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "clock"}, "schedule.*grid"),
        ({"bias": "ignore"}, "bias"),
        ({"order": "lifo"}, "order"),
        ({"readout": "sum"}, "readout"),
        ({"precision": "fp16"}, "precision"),
        ({"preset": "loihi"}, "preset"),
        ({"step_us": 0}, "step_us"),
        ({"step_us": -5}, "step_us"),
        ({"step_us": 1.5}, "step_us"),
        ({"refractory_us": -1}, "refractory_us"),
        ({"v_min": 0.5}, "v_min"),
        ({"v_min": float("nan")}, "v_min"),
        ({"tau_us": 0}, "tau_us"),
        ({"tau_us": float("inf")}, "tau_us"),
        ({"delay_us": -1}, "delay_us"),
        ({"delay_us": {"no such": 1}}, "no such"),
        ({"jitter_us": -1}, "jitter_us"),
        ({"drop": 1.5}, "drop"),
        ({"drop": -0.1}, "drop"),
        ({"drop": float("nan")}, "drop"),
        ({"max_sops": -1}, "max_sops"),
        ({"num_threads": 0}, "num_threads"),
        ({"seed": 0.5}, "seed"),
        ({"order_seed": "a"}, "order_seed"),
    ],
)
def test_options_are_checked_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        sim(random_network(seed=1), **options)


def test_thresholds_must_be_positive() -> None:
    for threshold in (0.0, -0.5, np.array([1.0, 0.0])):
        graph = layers([[1.0], [1.0]], threshold=threshold)
        with pytest.raises(ValueError, match="lif0.*threshold"):
            sim(graph)


def test_a_constant_current_needs_channels_that_leak_alike() -> None:
    graph = layers([[1.0], [1.0]], [[1.0, 1.0]], bias=[0.25, 0.25])
    (lif, *_) = (p for p in graph.populations if p["kind"] == "lif")
    lif["decay"], graph.tensors["decay"] = "decay", np.array([1.0, 0.5], np.float32)
    with pytest.raises(ValueError, match=f"'{lif['name']}': some of its channels leak"):
        sim(graph, bias="current")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_limits_of_membranes_need_a_float32_network(schedule: str) -> None:
    """Theirs are in units of the threshold; integers count in steps of their weights."""
    with pytest.raises(ValueError, match="v_min and v_max"):
        sim(quantize(layers([[1.0]], [[1.0]])), schedule, v_min=-1.0)
