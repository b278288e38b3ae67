"""The event-driven simulator and the brute-force one, on the same recording."""

from __future__ import annotations

from typing import Any

import numpy as np
from support.brute_events import brute
from support.brute_neurons import Result
from support.event_cases import random_network, random_recording

import stmixer_ops as so

SCHEDULES = ["grid", "rank", "serial"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"bias": "drop"},
    "tick": {"bias": "tick", "refractory_us": 9},
    "initial": {"bias": "initial", "multi_spike": True},
    "current": {"bias": "current", "v_min": -1.0},
    "noisy": {"bias": "drop", "delay_us": 3, "jitter_us": 11, "drop": 0.1, "seed": 4},
    "depth": {"bias": "drop", "order": "depth", "order_seed": 1},
}


def simulated(
    graph: so.Graph, events: Any, run: dict[str, Any] | None = None, **options: Any
) -> Any:
    """One recording through one thread; ``run`` are arguments of ``run``."""
    sim = so.EventSimulator.compile(graph, **({"num_threads": 1} | options))
    return sim.run(events, record=True, **(run or {}))


def check(
    graph: so.Graph, events: Any, run: dict[str, Any] | None = None, **options: Any
) -> Result:
    """Both, and that they are equal: every spike, count, visit and synaptic operation."""
    expected = brute(graph, events, **(run or {}), **options)
    assert_equal(simulated(graph, events, run, **options), expected)
    return expected


def assert_equal(result: Any, expected: Result) -> None:
    """``result`` is of one recording."""
    assert list(result.counts) == list(expected.counts) == list(result.spikes)
    for name, count in expected.counts.items():
        fired = result.spikes[name]
        spikes = sorted(zip(fired["t"].tolist(), fired["index"].tolist(), strict=True))
        assert spikes == expected.spikes[name], name
        np.testing.assert_array_equal(result.counts[name][0], count, err_msg=name)
        assert result.counts[name].dtype == np.int64
    assert [row.name for row in result.stats] == list(expected.sops)
    for row in result.stats:
        assert row.sops == expected.sops[row.name], row.name
        assert row.sops_fanout == expected.sops_fanout[row.name], row.name
        assert row.updates == expected.updates[row.name], row.name
    assert result.logits.shape == (1, len(expected.logits))
    np.testing.assert_allclose(result.logits[0], expected.logits, rtol=1e-5, atol=1e-6)


def same(a: Any, b: Any) -> None:
    """Two results, to the last bit."""
    np.testing.assert_array_equal(a.logits, b.logits)
    assert list(a.counts) == list(b.counts) and list(a.stats) == list(b.stats)
    for name in a.counts:
        np.testing.assert_array_equal(a.counts[name], b.counts[name], err_msg=name)
    assert list(a.spikes) == list(b.spikes)


def fits(options: str, schedule: str = "rank", **_: Any) -> bool:
    limited = {"current": ["rank", "serial"], "depth": ["serial"]}
    return schedule in limited.get(options, SCHEDULES)


def network(decay: float = 0.9, **options: Any) -> so.Graph:
    """Weights of any value."""
    graph = random_network(seed=2, bias=True, twice=True, steps=3, decay=decay, **options)
    rng = np.random.default_rng(0)
    for name, values in graph.tensors.items():
        graph.tensors[name] = (values * rng.uniform(0.9, 1.4, values.shape)).astype(np.float32)
    return graph


def sample(count: int = 80, seed: int = 0, t0: int = 0) -> np.ndarray:
    return random_recording((2, 4, 5), count, seed, gap=4, t0=t0)


def compiled(graph: so.Graph, schedule: str, options: str, threads: int = 1) -> Any:
    given = {"step_us": 16, "schedule": schedule, "num_threads": threads} | OPTIONS[options]
    return so.EventSimulator.compile(graph, **given)


def fires(result: Any) -> None:
    """Every population does."""
    assert min(int(count.sum()) for count in result.counts.values()) > 3
