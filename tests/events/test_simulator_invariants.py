"""What must not change the result of the event-driven simulator: to the last bit, with weights and
leaks of any value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.brute_events import brute
from support.event_cases import EVENT, frames, race, random_network
from support.pairs import pairwise
from support.simulator_cases import (
    OPTIONS,
    SCHEDULES,
    assert_equal,
    compiled,
    fires,
    fits,
    network,
    same,
    sample,
    simulated,
)

import stmixer_ops as so


@pairwise(schedule=SCHEDULES, options=list(OPTIONS), allowed=fits, soft=[False, True])
def test_shifting_events_and_t0_together(schedule: str, options: str, soft: bool) -> None:
    """Up to the latest times there are."""
    sim = compiled(network(soft_reset=soft), schedule, options)
    events = sample()
    at_zero = sim.run(events, record=True)
    fires(at_zero)
    for shift in (1, 10**9 + 7, 2**62 - 1000):
        moved = events.copy()
        moved["t"] += shift
        result = sim.run(moved, t0=shift, record=True)
        same(result, at_zero)
        for name, fired in at_zero.spikes.items():
            np.testing.assert_array_equal(result.spikes[name]["t"], fired["t"] + shift)
            np.testing.assert_array_equal(result.spikes[name]["index"], fired["index"])


@pytest.mark.parametrize("options", ["plain", "tick", "initial", "current", "noisy"])
def test_events_of_one_time_in_any_order(options: str) -> None:
    sim = compiled(network(), "rank", options)
    events = sample()
    expected = sim.run(events)
    rng = np.random.default_rng(0)
    for _ in range(5):
        shuffled = events[np.lexsort((rng.random(len(events)), events["t"]))]
        assert (shuffled != events).any()
        same(sim.run(shuffled), expected)


@pairwise(schedule=SCHEDULES, options=list(OPTIONS), allowed=fits, threads=[1, 2, 3])
def test_threads_batch_and_order_of_the_list(schedule: str, options: str, threads: int) -> None:
    graph = network()
    recordings = [sample(count, seed) for seed, count in enumerate((80, 0, 1, 40, 80))]
    alone = [compiled(graph, schedule, options).run(r, duration=400) for r in recordings]
    sim = compiled(graph, schedule, options, threads)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [3, 3]):
        result = sim.run([recordings[i] for i in order], duration=400)
        np.testing.assert_array_equal(
            result.logits, np.concatenate([alone[i].logits for i in order])
        )
        for name, count in result.counts.items():
            expected = np.concatenate([alone[i].counts[name] for i in order])
            np.testing.assert_array_equal(count, expected, err_msg=name)
        for row in result.stats:
            assert row.sops == sum(alone[i].stats[row.name].sops for i in order)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_delay_is_a_delay_of_zero(schedule: str) -> None:
    graph, events = network(), sample()
    given = {"step_us": 16, "schedule": schedule, "bias": "drop"}
    expected = simulated(graph, events, **given)
    fires(expected)
    names = [p["name"] for c in graph.currents[:5] for p in c["projections"]]
    for options in (
        {"delay_us": 0}, {"jitter_us": 0, "seed": 7}, {"delay_us": dict.fromkeys(names, 0)},
        {"delay_us": {"conv1": 0}, "jitter_us": {"mix.stm": 0}}, {"drop": 0.0},
        {"refractory_us": 0},
    ):  # fmt: skip
        same(simulated(graph, events, **given, **options), expected)


def test_bits_do_not_depend_on_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from stmixer_ops import _C

    graph, events = network(channels=(19, 26)), sample(120)
    for schedule in SCHEDULES:
        results = []
        for isa in _C.cpu_isas():
            monkeypatch.setenv("STMIXER_CPU_ISA", isa)
            results.append(compiled(graph, schedule, "tick").run(events, record=True))
        fires(results[0])
        for other in results[1:]:
            same(other, results[0])
            for name, fired in results[0].spikes.items():
                np.testing.assert_array_equal(other.spikes[name], fired)


def test_rank_is_a_grid_of_single_microseconds() -> None:
    """With hard reset and no leak: 20 ms of events, some of them at one time."""
    graph = network(decay=1.0)
    events = sample(600)
    events["t"] = events["t"] * 20_000 // (events["t"].max() + 1)
    given = {"step_us": 1, "bias": "drop"}
    rank, grid = (
        simulated(graph, events, {"duration": 20_000}, schedule=s, **given)
        for s in ("rank", "grid")
    )
    fires(rank)
    np.testing.assert_array_equal(rank.logits, grid.logits)
    for name, fired in rank.spikes.items():
        assert sorted(fired.tolist()) == sorted(grid.spikes[name].tolist()), name


def test_a_grid_that_keeps_tau_converges_to_rank() -> None:
    """As its step goes to 0: at a microsecond they are equal, and half as far is half as wrong."""
    graph = network()
    events = sample(120)
    expected = brute(graph, events, step_us=16, tau_us=200.0, bias="drop")
    rank = simulated(graph, events, step_us=16, tau_us=200.0, bias="drop")
    assert_equal(rank, expected)
    wrong = []
    for step in (64, 8, 1):
        grid = simulated(graph, events, step_us=step, tau_us=200.0, bias="drop", schedule="grid")
        wrong.append(sum(int(abs(grid.counts[n] - rank.counts[n]).sum()) for n in rank.counts))
    assert wrong[0] > wrong[1] > wrong[2] == 0


def test_seeds_permute_what_one_delivery_causes() -> None:
    """Of the race, whose outcome depth first is whichever of two neurons comes first; breadth first
    both orders end alike."""

    def spikes_of_c(order_seed: int | None, order: str, **options: Any) -> int:
        result = simulated(race(), np.zeros(1, EVENT), step_us=8, schedule="serial", order=order,
                           order_seed=order_seed, **options)  # fmt: skip
        assert result.counts["a"].sum() == 2 and result.counts["b"].sum() == 1
        return int(result.counts["c"].sum())

    outcomes = [spikes_of_c(seed, "depth") for seed in range(30)]
    assert 5 <= sum(outcomes) <= 25
    assert outcomes == [spikes_of_c(seed, "depth", seed=3) for seed in range(30)]
    assert {spikes_of_c(seed, "fifo") for seed in range(10)} == {0}
    assert (spikes_of_c(None, "depth"), spikes_of_c(None, "fifo")) == (1, 0)


@pytest.mark.parametrize("soft", [False, True])
def test_grid_equals_the_engine_bit_for_bit(soft: bool) -> None:
    """On the same frames, with dyadic weights: spikes and logits."""
    graph = random_network(seed=3, bias=True, soft_reset=soft, decay=0.5)
    events = sample(100)
    x = frames(events, (2, 4, 5), 16)[:, None]
    engine = so.Engine(graph, 1).run(x, record=True)
    sim = so.EventSimulator.compile(graph, step_us=16, schedule="grid", bias="tick")
    for given in (events, x):
        result = sim.run(given, record=True)
        np.testing.assert_allclose(result.logits, engine.logits, rtol=1e-6)
        for name, spikes in engine.spikes.items():
            np.testing.assert_array_equal(result.counts[name], spikes.astype(int).sum(0))
