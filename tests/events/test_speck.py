"""preset="speck": the network in whole numbers, run as the chip does."""

from __future__ import annotations

import numpy as np
import pytest

import stmixer_ops as so

EVENT = np.dtype([("t", "i8"), ("x", "u2"), ("y", "u2"), ("p", "u1")])


def network(weight: float = 0.3, threshold: float = 1.0, decay: float = 0.5) -> so.Graph:
    """Two layers of one neuron; the second has the largest weight of 8 bits in its first."""
    graph = so.Graph(steps=1, step_us=1000)
    graph.add_input("input", (1, 1, 1))
    first = graph.projection("first", "linear", "input", np.array([[weight]]))
    graph.add_current("sum", (1, 1, 1), [first])
    graph.add_lif("lif", "sum", (1, 1, 1), threshold=threshold, decay=decay)
    second = graph.projection("second", "linear", "lif", np.array([[0.5]]))
    graph.add_current("stream", (1, 1, 1), [second])
    graph.add_current("average", (1, 1, 1), [graph.projection("mean", "mean", "stream")])
    head = graph.projection("head", "linear", "average", np.array([[2.0]]))
    graph.add_current("scores", (1, 1, 1), [head])
    graph.add_readout("logits", "scores", 1)
    return graph


def events(count: int) -> np.ndarray:
    found = np.zeros(count, EVENT)
    found["t"] = np.arange(count) * 10
    return found


def test_whole_numbers_without_leak():
    # d = 0.3 / 127, so the weight is 127 and the threshold 1 / d = 423.3, rounded to 423. Every
    # event adds 127 and nothing leaks: spikes at 508, 516 (= 508 - 423 + 127 * 3 + ...) and so on:
    # after n events floor(127 n / 423) spikes.
    simulator = so.EventSimulator.compile(network(), preset="speck")
    result = simulator.run(events(1000))
    assert result.counts["lif"].item() == 127 * 1000 // 423
    # The logits are those of the network's own units: 2 * 0.5 per spike and elapsed step.
    elapsed = (999 * 10 + 1) / 1000
    assert result.logits.item() == pytest.approx(result.counts["lif"].item() / elapsed, rel=1e-6)


def test_one_spike_an_update_and_state_saturates():
    # One event of 127 steps against a threshold of 1 step: one spike at each event, and what is
    # left grows by 126 until 16 bits saturate.
    simulator = so.EventSimulator.compile(network(weight=127.0, threshold=1.0), preset="speck")
    result = simulator.run(events(300))
    assert result.counts["lif"].item() == 300


@pytest.mark.parametrize("threshold", [1e5])
def test_thresholds_beyond_16_bits_are_refused(threshold):
    with pytest.raises(ValueError, match="lif: its threshold"):
        so.EventSimulator.compile(network(threshold=threshold), preset="speck")


def test_options_of_the_preset_and_unknown_presets_are_refused():
    with pytest.raises(ValueError, match="schedule"):
        so.EventSimulator.compile(network(), preset="speck", schedule="rank")
    with pytest.raises(ValueError, match="preset"):
        so.EventSimulator.compile(network(), preset="loihi")


def test_order_needs_the_serial_schedule_and_flags_are_flags():
    with pytest.raises(ValueError, match="order is for schedule='serial'"):
        so.EventSimulator.compile(network(), schedule="rank", order="depth")
    with pytest.raises(ValueError, match="multi_spike must be True or False"):
        so.EventSimulator.compile(network(), multi_spike=3)
    with pytest.raises(ValueError, match="precision"):
        so.EventSimulator.compile(network(), precision="fp16")
    with pytest.raises(ValueError, match="readout"):
        so.EventSimulator.compile(network(), readout=np.zeros(2))


def test_too_many_spikes_at_once_are_an_error():
    graph = network(weight=1e9)
    for schedule in ("rank", "serial", "grid"):
        simulator = so.EventSimulator.compile(graph, schedule=schedule, multi_spike=True)
        with pytest.raises(ValueError, match="'lif': a neuron emits"):
            simulator.run(events(1))
