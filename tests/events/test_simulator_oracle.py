"""The brute-force simulator of the tests, itself held to cases worked on paper, to PyTorch and to
the time-stepped engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.brute_events import brute
from support.event_cases import (
    close,
    frames,
    layers,
    race,
    random_network,
    random_recording,
    recording,
)

import stmixer_ops as so

SCHEDULES = ["grid", "rank", "serial"]
CLOCKLESS = ["rank", "serial"]


def run(graph: so.Graph, events: np.ndarray, schedule: str = "rank", **options: Any) -> Any:
    return brute(graph, events, schedule=schedule, **({"step_us": 10} | options))


def times(result: Any, name: str = "lif0") -> list[int]:
    return [t for t, _ in result.spikes[name]]


# -- On paper -------------------------------------------------------------------------------------


def test_orders_of_serial() -> None:
    """Of :func:`race`. Breadth first comes a0, a1, b: c is -1, then 0. Depth first comes a0, b, a1:
    c fires, then is -1. In rank c receives both at once."""
    graph = race()
    events = recording((0, 0))
    fifo, depth = (run(graph, events, "serial", order=order) for order in ("fifo", "depth"))
    assert fifo.counts["c"].sum() == 0 and fifo.v["c"] == [0]
    assert depth.counts["c"].sum() == 1 and depth.v["c"] == [-1]
    rank = run(graph, events)
    assert rank.counts["c"].sum() == 0 and rank.v["c"] == [0]
    # Visits: c once for both in rank, once for each in serial; a1 does not visit b, a0 not c.
    assert (rank.updates["c"], fifo.updates["c"], fifo.updates["b"]) == (1, 2, 1)
    # Turned around, a1 comes first: both orders end as breadth first did.
    turned = run(graph, events, "serial", order="depth", permute=lambda spikes: spikes[::-1])
    assert turned.counts["c"].sum() == 0 and turned.v["c"] == [0]


def test_soft_reset_holds_what_is_above_until_the_next_visit() -> None:
    """Channel 0 adds 2.5 to neuron 0, channel 1 adds 0.25 to neuron 1, channel 2 to neuron 0."""
    graph = layers([[2.5, 0, 0.25], [0, 0.25, 0]], soft_reset=True)
    events = recording((0, 0), (13, 1), (27, 2))
    for schedule in CLOCKLESS:
        result = run(graph, events, schedule)
        assert result.spikes["lif0"] == [(0, 0), (27, 0)]  # 1.5 stays, 1.75 fires
        np.testing.assert_array_equal(result.v["lif0"], [0.75, 0.25])
        assert result.updates["lif0"] == 3
        many = run(graph, events, schedule, multi_spike=True)
        assert many.spikes["lif0"] == [(0, 0), (0, 0)] and many.v["lif0"][0] == 0.75
    # A clock tests at ticks 0, 10 and 20: 2.5 gives a spike at 0 and at 10.
    grid = run(graph, events, "grid")
    assert grid.spikes["lif0"] == [(0, 0), (10, 0)] and grid.updates["lif0"] == 6
    np.testing.assert_array_equal(grid.v["lif0"], [0.75, 0.25])


def test_hard_reset_and_the_cap_of_the_graph() -> None:
    """3.5 is three thresholds; two spikes are the most. What is left: 1.5, or nothing."""
    for soft, rest in ((True, 1.5), (False, 0.0)):
        graph = layers([[3.5]], soft_reset=soft, max_spikes=2)
        for schedule in SCHEDULES:
            result = run(graph, recording((0, 0)), schedule)
            assert (result.counts["lif0"].item(), result.v["lif0"]) == (2, [rest])
            unlimited = run(graph, recording((0, 0)), schedule, multi_spike=True)
            assert unlimited.counts["lif0"].item() == 3


def test_refractory_time_ends_with_a_visit() -> None:
    """Threshold 1, weight 3/4. Two events at 0 fire; at 2 and 5 it integrates 3/4 and 6/4; at 10
    the refractory time is over, and it fires by itself."""
    graph = layers([[0.75]])
    events = recording((0, 0), (0, 0), (2, 0), (5, 0))
    rank, serial = (
        run(graph, events, s, refractory_us=10, duration=15) for s in CLOCKLESS
    )  # fmt: skip
    assert times(rank) == times(serial) == [0, 10]
    assert (rank.updates["lif0"], serial.updates["lif0"]) == (4, 5)
    assert times(run(graph, events, refractory_us=10)) == [0]  # the run ends with the event at 5
    # Ticks of 4: both at 0 fire, 3/4 at tick 0 (t 2), so 3 x 3/4 there; 3/4 at tick 1; blocked
    # before 10, and nothing is left to fire at tick 3.
    grid = run(graph, events, "grid", step_us=4, refractory_us=10, duration=20)
    assert times(grid) == [0] and grid.v["lif0"] == [0.75]
    held = run(layers([[0.75]], soft_reset=True), events, "grid", step_us=4, refractory_us=10,
               duration=20)  # fmt: skip
    assert times(held) == [0, 12] and held.v["lif0"] == [1.0]  # 3 - 1 - 1: tick 3 is the first


def test_leak() -> None:
    """Decay 1/2 in 10 microseconds: 3/4 leaves 3/8 after one step, 3/16 after two."""
    graph = layers([[0.75]], decay=0.5)
    for schedule in SCHEDULES:
        assert times(run(graph, recording((0, 0), (10, 0)), schedule)) == [10]
        late = run(graph, recording((0, 0), (20, 0)), schedule)
        assert times(late) == [] and late.v["lif0"] == [0.9375]
    half = run(graph, recording((0, 0), (5, 0)))
    assert half.v["lif0"] == [0] and times(half) == [5]  # 3/4 (1 + 1/sqrt 2) = 1.28
    # tau_us puts exp(-dt / tau) in its place, but leaves integrators alone.
    slow = run(graph, recording((0, 0), (10, 0)), tau_us=5.0)
    assert slow.v["lif0"] == pytest.approx([0.75 + 0.75 * np.exp(-2)]) and times(slow) == []
    assert times(run(layers([[0.75]]), recording((0, 0), (10, 0)), tau_us=5.0)) == [10]


def test_decay_zero_forgets_between_times() -> None:
    graph = layers([[0.75]], decay=0.0)
    assert times(run(graph, recording((0, 0), (1, 0), (2, 0), (2, 0)))) == [2]


def test_lower_bound_of_the_membrane() -> None:
    """-2 becomes -1/2, so that two events of 3/4 suffice. In rank the sum of a timestamp counts."""
    graph = layers([[0.75, -2.0]])
    for schedule in SCHEDULES:
        events = recording((0, 1), (10, 0), (20, 0))
        assert times(run(graph, events, schedule, v_min=-0.5)) == [20]
        assert times(run(graph, events, schedule)) == []
    tied = recording((0, 1), (0, 0))
    assert run(graph, tied, v_min=-0.5).v["lif0"] == [-0.5]
    assert run(graph, tied, "serial", v_min=-0.5).v["lif0"] == [0.25]
    assert run(graph, tied[::-1], "serial", v_min=-0.5).v["lif0"] == [-0.5]


def test_an_initial_membrane_below_the_bound_is_lifted_by_its_first_test() -> None:
    """v(t0) = 4 x -1/2, lifted to -1/4; two events of 3/4 then reach 1. On the grid the first test
    comes with the first event."""
    graph = layers([[0.75]], bias=[-0.5], steps=4)
    for schedule in SCHEDULES:
        events = recording((0, 0), (10, 0))
        result = run(graph, events, schedule, bias="initial", v_min=-0.25)
        assert times(result) == ([] if schedule == "grid" else [10])


def test_bias_modes() -> None:
    """Bias 1/2 in steps of 10 microseconds, threshold 1, no leak, T = 4, for 30 microseconds."""
    graph, nothing = layers([[1.0]], bias=[0.5], steps=4, soft_reset=True), recording()

    def fires(schedule: str, bias: str, duration: int = 30, **options: Any) -> list[int]:
        return times(run(graph, nothing, schedule, bias=bias, duration=duration, **options))

    for schedule in SCHEDULES:
        assert fires(schedule, "tick") == [10]
        assert fires(schedule, "tick", 31) == [10, 30]
        assert fires(schedule, "drop") == []
    for schedule in CLOCKLESS:
        # 1/20 a microsecond: at the threshold after 20, and after 20 more.
        assert fires(schedule, "current", 20) == []
        assert fires(schedule, "current", 41) == [20, 40]
        # v(t0) = 4 x 1/2: one spike, or two of them; 1 is held.
        assert fires(schedule, "initial") == [0]
        assert fires(schedule, "initial", multi_spike=True) == [0, 0]
        # An event at 5 comes on top: 1/2 + 1 at 5, or 1/4 + 1.
        for bias, v in (("tick", 0.5), ("current", 0.25), ("drop", 0.0), ("initial", 1.0)):
            result = run(graph, recording((5, 0)), schedule, bias=bias)
            assert times(result)[-1] == 5 and result.v["lif0"] == [v], bias
    assert fires("grid", "initial") == [0, 10]


def test_a_leaky_neuron_approaches_what_its_current_drives_it_to() -> None:
    """From rest exactly b after one step; in the end b / (1 - decay)."""
    graph = layers([[1.0]], bias=[0.75], decay=0.5)
    after = {n: run(graph, recording(), bias="current", duration=n + 1) for n in (10, 13, 14)}
    assert after[10].v["lif0"] == [0.75]
    # 1.5 (1 - 2^(-t/10)) = 1 at t = 10 log2 3 = 15.85: at 16, and 16 later.
    spikes = run(graph, recording(), bias="current", duration=33)
    assert times(spikes) == [16, 32]


def test_a_spike_of_the_stream_reaches_every_later_reader_and_is_not_encoded_again() -> None:
    """The input enters the stream; a, b and c read it, b and c also what a adds to it."""
    graph = so.Graph(steps=2)
    graph.add_input("input", (1, 1, 2))
    into = graph.projection("in", "linear", "input", [[1.0], [0.5]])
    graph.add_current("s0", (2, 1, 2), [into])
    graph.add_lif("a", "s0", (2, 1, 2), decay=1.0)
    back = graph.projection("back", "linear", "a", [[0.5, 0.0], [0.5, 0.0]])
    graph.add_current("s1", (2, 1, 2), [back], ["s0"])
    for name in "bc":
        graph.add_lif(name, "s1", (2, 1, 2), decay=1.0)
    last = graph.projection("last", "linear", "c", np.eye(2))
    graph.add_current("s2", (2, 1, 2), [last], ["s1"])
    graph.add_current("average", (2, 1, 1), [graph.projection("mean", "mean", "s2")])
    graph.add_readout("logits", "average", 2)
    # One event at pixel 1: a fires in channel 0 (1 of 1); the stream holds 1 + 1/2, 1/2 + 1/2.
    # Both neurons of b and of c fire, in serial channel 0 at the event and channel 1 after a's
    # spike, when channel 0 holds 0 + 1/2.
    events = recording((0, 1, 0))
    for schedule in SCHEDULES:
        result = run(graph, events, schedule, duration=20)
        assert result.counts["a"].tolist() == [[[0, 1]], [[0, 0]]]
        assert result.counts["b"].tolist() == result.counts["c"].tolist() == [[[0, 1]], [[0, 1]]]
        assert result.v["b"].tolist() == ([0, 0.5, 0, 0] if schedule == "serial" else [0] * 4)
        # Readout: stream of 1.5 + 1 and 1 + 1 at one of two positions, over two steps.
        np.testing.assert_array_equal(result.logits, [0.625, 0.5])
        assert result.sops == {"input": 2, "a": 2, "b": 0, "c": 0}
        assert result.sops_fanout == {"input": 6, "a": 4, "b": 0, "c": 0}
    assert run(graph, events).updates == {"input": 0, "a": 2, "b": 2, "c": 2}
    assert run(graph, events, "serial").updates == {"input": 0, "a": 2, "b": 4, "c": 4}


def test_readout() -> None:
    """Two positions, a bias in the stream and one behind the mean; count 3 at one position."""
    graph = so.Graph(steps=4)
    graph.add_input("input", (1, 1, 2))
    graph.add_current("c", (1, 1, 2), [graph.projection("in", "linear", "input", [[1.0]])])
    graph.add_lif("lif", "c", (1, 1, 2), decay=1.0)
    graph.add_current("s", (1, 1, 2), [graph.projection("out", "linear", "lif", [[2.0]])],
                      bias=[0.5])  # fmt: skip
    graph.add_current("average", (1, 1, 1), [graph.projection("mean", "mean", "s")], bias=[8.0])
    graph.add_readout("logits", "average", 1)
    events = recording((0, 0, 0), (2, 0, 0), (14, 0, 0))  # 15 microseconds: 1.5 steps, 2 ticks
    summed = 2 * 3 / 2
    for schedule, bias, readout, expected in [
        ("rank", "drop", "rate", summed / 1.5),
        ("serial", "drop", "rate", summed / 1.5),
        ("rank", "drop", "total", summed / 4),
        ("rank", "tick", "rate", (summed + 2 * 0.5) / 1.5),
        ("rank", "current", "rate", (summed + 1.5 * 0.5) / 1.5),
        ("rank", "current", "total", (summed + 1.5 * 0.5) / 4),
        ("serial", "initial", None, (summed + 4 * 0.5) / 4),
        ("serial", "initial", "rate", (summed + 4 * 0.5) / 1.5),
        ("grid", "tick", None, 2 / 2 + 0.5),  # tick 0 holds two events, which give one spike
        ("grid", "drop", "total", 2 / 4),
    ]:
        result = run(graph, events, schedule, bias=bias, readout=readout)
        assert result.logits == pytest.approx([expected + 8]), (schedule, bias, readout)
    assert run(graph, events[:0], bias="drop").logits == [8]


def test_delays() -> None:
    """0 microseconds to lif0, 7 to lif1; what arrives after the end is lost."""
    graph = layers([[1.0]], [[1.0]])
    events = recording((3, 0), (5, 0))
    for schedule in CLOCKLESS:
        result = run(graph, events, schedule, delay_us={"fc1": 7}, duration=11)
        assert (times(result), times(result, "lif1")) == ([3, 5], [10])
        assert result.sops_fanout == {"input": 2, "lif0": 2, "lif1": 0}
        both = run(graph, events, schedule, delay_us=7, duration=20)
        assert (times(both), times(both, "lif1")) == ([10, 12], [17, 19])
    # Of ticks of 4: events at 3 and 5 are of ticks 0 and 1; 0 + 7 and 4 + 7 fall into 1 and 2.
    grid = run(graph, events, "grid", step_us=4, delay_us={"fc1": 7}, duration=20)
    assert (times(grid), times(grid, "lif1")) == ([0, 4], [4, 8])


def test_work_is_capped() -> None:
    """Three events of two weights each; the second exceeds 3."""
    graph = layers([[1.0], [1.0]])
    events = recording((0, 0), (1, 0), (2, 0))
    for schedule in SCHEDULES:
        for most, spikes in ((6, 3), (3, 2), (0, 1)):
            result = run(graph, events, schedule, step_us=1, max_sops=most)
            assert result.counts["lif0"].tolist() == [[[spikes]], [[spikes]]]
            assert result.stopped == (most < 6)


# -- Against PyTorch, the engine and a formula ----------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_grid_equals_a_loop_in_pytorch(soft: bool, decay: float) -> None:
    rng = np.random.default_rng(0)
    kernels = torch.from_numpy(rng.integers(-100, 200, (4, 2, 3, 3)) / 256)
    weights = torch.from_numpy(rng.integers(-100, 200, (5, 4)) / 256)
    bias = torch.from_numpy(rng.integers(-30, 40, 5) / 256)
    graph = so.Graph()
    graph.add_input("input", (2, 6, 7))
    conv = graph.projection("conv", "conv", "input", kernels, stride=2, padding=1)
    graph.add_current("c0", (4, 3, 4), [conv])
    graph.add_lif("lif0", "c0", (4, 3, 4), decay=decay, soft_reset=soft, threshold=0.75)
    graph.add_current("c1", (5, 12), [graph.projection("fc", "linear", "lif0", weights)], bias=bias)
    graph.add_lif("lif1", "c1", (5, 12), decay=decay, soft_reset=soft)
    close(graph, "lif1", (5, 1, 12))
    events = random_recording((2, 6, 7), 150, gap=2)
    x = torch.from_numpy(frames(events, (2, 6, 7), 25)).double()

    def lif(current: torch.Tensor, threshold: float) -> torch.Tensor:
        v, fired = torch.zeros_like(current[0]), []
        for step in current:
            v = decay * v + step
            fired.append((v >= threshold).double())
            v = v - threshold * fired[-1] if soft else v * (1 - fired[-1])
        return torch.stack(fired)

    first = lif(torch.nn.functional.conv2d(x, kernels, stride=2, padding=1), 0.75)
    tokens = first.flatten(2)
    second = lif(torch.einsum("oc,tcn->ton", weights, tokens) + bias[:, None], 1.0)
    result = run(graph, events, "grid", step_us=25, bias="tick")
    for name, expected in (("lif0", first), ("lif1", second)):
        fired = np.zeros_like(expected.flatten(1))
        for t, i in result.spikes[name]:
            fired[t // 25, i] += 1
        np.testing.assert_array_equal(fired, expected.flatten(1))
        assert 0.05 < expected.mean() < 0.95
    np.testing.assert_allclose(result.logits, second.mean((0, 2)), rtol=1e-12)


def assert_same_spikes(result: Any, expected: so.engine.RunResult, step_us: int) -> None:
    for name, spikes in expected.spikes.items():
        fired = np.argwhere(np.reshape(spikes, (len(spikes), -1)))
        assert result.spikes[name] == [(step_us * int(k), int(i)) for k, i in fired], name


def test_grid_equals_the_engine() -> None:
    """Spike for spike, on networks of every kind of projection, in order of execution."""
    for seed, options in enumerate([
        {}, {"twice": True, "soft_reset": True}, {"beside": False, "decay": 0.5, "bias": True},
        {"bias": True, "per_channel": True, "decay": 0.5, "input_scale": 0.5},
        {"protect": False, "strides": (2, 1), "kernels": (2, 3), "paddings": (1, 1), "heads": 4},
    ]):  # fmt: skip
        graph = random_network(seed=seed, **options)
        events = random_recording((2, 4, 5), 60, seed=seed)
        result = run(graph, events, "grid", bias="tick")
        x = frames(events, (2, 4, 5), 10)
        expected = so.Engine(graph, 1).run(x[:, None], record=True)
        assert result.exact and list(result.counts) == list(expected.spikes)
        assert sum(map(np.sum, result.counts.values())) > 50
        assert_same_spikes(result, expected, 10)
        np.testing.assert_allclose(result.logits, expected.logits[0], rtol=1e-5, atol=1e-6)


def test_grid_equals_the_engine_on_dense_input_of_an_stmixer() -> None:
    rng = np.random.default_rng(0)
    model = so.STMixer(img_size=8, in_channels=2, num_classes=3, embed_dim=8, depth=1, num_heads=2,
                       downsample=2, T=3).eval()  # fmt: skip
    graph = so.Engine.compile(model, num_threads=1).graph
    for name, tensor in graph.tensors.items():
        fan_in = np.prod(tensor.shape[1:]) if tensor.ndim != 3 else tensor.shape[2]
        values = rng.normal(0.3, 4, tensor.shape) / np.sqrt(fan_in) / (1 if tensor.ndim > 1 else 8)
        graph.tensors[name] = (np.rint(values * 256) / 256).astype(np.float32)
    x = (rng.integers(-256, 512, (4, 2, 8, 8)) / 256).astype(np.float32)
    result = brute(graph, x, step_us=1, schedule="grid", bias="tick")
    expected = so.Engine(graph, 1).run(x[:, None], record=True)
    assert_same_spikes(result, expected, 1)
    rates = [s.rate for s in expected.stats if s.neurons]
    assert min(rates) > 0.02 and max(rates) < 0.9
    np.testing.assert_allclose(result.logits, expected.logits[0], rtol=1e-5)


def test_counts_without_leak_follow_the_running_maximum() -> None:
    """Of a neuron's whole input, in thresholds: what a clock-free integrator with soft reset and
    any number of spikes emits, and what its timing alone decides."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-160, 128, (6, 4)) / 256
    events = random_recording((4, 1, 1), 200)
    result = run(layers(weight, soft_reset=True, threshold=0.5), events, multi_spike=True)
    sums = np.stack([weight[:, events["p"][events["t"] <= t]].sum(1) for t in set(events["t"])])
    expected = np.maximum(np.floor(sums.max(0) / 0.5), 0)
    np.testing.assert_array_equal(result.counts["lif0"].reshape(-1), expected)
    assert (expected > np.maximum(np.floor(weight[:, events["p"]].sum(1) / 0.5), 0)).any()
