"""Jitter and lost spikes: keyed random numbers of the right distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.event_cases import EVENT, layers
from support.simulator_cases import SCHEDULES, simulated

COUNT, APART = 4000, 100


def events(*pixels: int) -> np.ndarray:
    """One every 100 µs, of these pixels in turn."""
    found = np.zeros(COUNT * len(pixels), EVENT)
    found["t"] = np.arange(len(found)) * (APART // len(pixels))
    found["p"] = np.tile(pixels, COUNT)
    return found


def lif_times(
    recorded: np.ndarray, name: str = "lif0", index: int = 0, **options: Any
) -> np.ndarray:
    """Spikes of a neuron that fires once for each event of its pixel that reaches it."""
    graph = layers(np.eye(2), np.eye(2))
    given = {"step_us": 1, "schedule": "rank"} | options
    fired = simulated(graph, recorded, {"duration": COUNT * APART + 500}, **given).spikes[name]
    return np.sort(fired["t"][fired["index"] == index])


@pytest.mark.parametrize("schedule", ["rank", "serial"])
def test_jitter_is_uniform_and_adds_to_the_delay(schedule: str) -> None:
    late = lif_times(events(0), schedule=schedule, delay_us={"fc0": 7}, jitter_us={"fc0": 9})
    late = late - events(0)["t"]
    assert late.min() == 7 and late.max() == 16
    counts = np.bincount(late - 7)
    # Of each of ten values 400, with a standard deviation of 19.
    assert len(counts) == 10 and abs(counts - COUNT / 10).max() < 90
    # Neighbours know nothing of each other.
    assert abs(np.corrcoef(late[:-1], late[1:])[0, 1]) < 0.06


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_lost_spikes(schedule: str) -> None:
    """A share of 0.3, standard deviation 0.7 %; of two projections in turn."""
    for name, share in (("lif0", 0.7), ("lif1", 0.49)):
        kept = len(lif_times(events(0), name, schedule=schedule, drop=0.3)) / COUNT
        assert abs(kept - share) < 0.035
    assert len(lif_times(events(0), schedule=schedule, drop=1.0)) == 0


@pytest.mark.parametrize("options", [{"jitter_us": 9}, {"drop": 0.3}])
def test_noise_is_keyed_by_source_and_ordinal(options: dict[str, Any]) -> None:
    """What other pixels do does not matter; the seed does, and sources and projections differ."""
    alone = lif_times(events(0), **options)
    both = lif_times(events(0, 1), **options)
    np.testing.assert_array_equal(both, alone)
    neighbour = lif_times(events(0, 1), index=1, **options) - APART // 2
    for other in (lif_times(events(0), seed=1, **options), neighbour):
        assert not np.array_equal(other, alone)
    np.testing.assert_array_equal(lif_times(events(0), seed=0, **options), alone)
    if "jitter_us" in options:
        times = events(0)["t"]
        twice = lif_times(events(0), "lif1", **options)
        second, first = twice - alone, alone - times
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
