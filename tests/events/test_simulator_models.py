"""Trained models and files through the event-driven simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.engine_cases import check_locally
from support.engine_models import MODELS, make_input, make_model
from support.event_cases import frames, random_network, random_recording
from support.golden import Golden
from support.paths import GOLDEN
from support.simulator_cases import same

import stmixer_ops as so


def as_engine_result(graph: so.Graph, result: Any, steps: int) -> so.engine.RunResult:
    """Of a run with steps of 1 µs: spikes as the engine records them, of a batch."""
    spikes = {}
    for name, count in result.counts.items():
        batch, *shape = count.shape
        dense = np.zeros((steps, batch, int(np.prod(shape))), np.uint8)
        fired = result.spikes[name]
        np.add.at(dense, (fired["t"], fired["recording"], fired["index"]), 1)
        assert (dense.sum(0).reshape(count.shape) == count).all()
        spikes[name] = dense.reshape(steps, batch, *shape)
    return so.engine.RunResult(result.logits, spikes, result.stats)


@pytest.mark.parametrize("name", MODELS)
def test_grid_on_dense_input_follows_from_its_own_spikes(name: str) -> None:
    """Images and sequences, by the local rule; where no spike differs, logits are the engine's."""
    model = make_model(name)
    engine = so.Engine.compile(model, num_threads=1)
    sim = so.EventSimulator.compile(model, step_us=1, schedule="grid", bias="tick")
    for steps in (None, model.T + 1):
        x = make_input(model, 3, steps)
        result = sim.run(x, record=True)
        check_locally(
            engine.graph, x.numpy(), as_engine_result(engine.graph, result, steps or model.T)
        )
        expected = engine.run(x, record=True)
        counts = {path: s.numpy().astype(int).sum(0) for path, s in expected.spikes.items()}
        equal = [
            all((result.counts[path][b] == count[b]).all() for path, count in counts.items())
            for b in range(3)
        ]
        assert sum(equal) >= 1
        np.testing.assert_allclose(
            np.asarray(result.logits)[equal], expected.logits.numpy()[equal], rtol=1e-4, atol=1e-5
        )
        assert result.stats.sops == 0 or result.stats[0].name == "input"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("stmixer_*.npz")), ids=lambda p: p.stem)
def test_golden_models(path: Path) -> None:
    golden = Golden(path.stem)
    model = golden.model().eval()
    x = golden["input"].float()
    graph = so.Engine.compile(model, num_threads=1).graph
    sim = so.EventSimulator.compile(model, step_us=1, schedule="grid", bias="tick")
    result = sim.run(x, record=True)
    steps = x.shape[1] if x.ndim == 5 else model.T
    check_locally(graph, x.numpy(), as_engine_result(graph, result, steps))
    equal = np.ones(len(x), bool)
    for found, spikes in zip(result.counts.values(), golden.spikes(), strict=True):
        expected = spikes.sum(0).numpy().reshape(found.shape)
        equal &= (found == expected).reshape(len(x), -1).all(1)
        assert (found != expected).mean() < 0.01
    assert equal.any()
    np.testing.assert_allclose(
        np.asarray(result.logits)[equal], golden["logits_eval"].numpy()[equal], rtol=1e-4, atol=1e-5
    )


def test_grid_equals_the_int8_engine_bit_for_bit() -> None:
    """On a recording and on its frames; any weights, since a tick rounds as a time step does."""
    model = make_model("events")
    calibration = torch.poisson(torch.full((model.T, 4, 2, 32, 32), 0.3))
    engine = so.Engine.compile(model, precision="int8", calibration=calibration, num_threads=1)
    sim = so.EventSimulator.compile(
        model, precision="int8", calibration=calibration, step_us=100, schedule="grid", bias="tick"
    )
    events = random_recording((2, 32, 32), 3000, gap=1)
    events["t"] = events["t"] * 299 // events["t"].max()
    x = frames(events, (2, 32, 32), 100)[:, None]
    expected = engine.run(x, record=True)
    for recording in (events, x):
        result = sim.run(recording)
        np.testing.assert_array_equal(result.logits, expected.logits)
        for name, spikes in expected.spikes.items():
            np.testing.assert_array_equal(result.counts[name], spikes.astype(int).sum(0))
    assert min(row.spikes for row in expected.stats if row.neurons) > 10


def test_a_file_is_the_model(tmp_path: Path) -> None:
    """Weights, graph and folded norms of the engine's file; compile takes a graph as well."""
    model = make_model("events")
    engine = so.Engine.compile(model)
    engine.save(tmp_path / "m.stmx")
    given = {"step_us": 500, "bias": "tick"}
    events = random_recording((2, 32, 32), 300, gap=20)
    expected = so.EventSimulator.compile(model, **given).run(events)
    assert expected.stats.spikes > 300
    for sim in (
        so.EventSimulator.load(tmp_path / "m.stmx", **given),
        so.EventSimulator.load(str(tmp_path / "m.stmx"), **given),
        so.EventSimulator.compile(engine.graph, **given),
    ):
        same(sim.run(events), expected)
    with pytest.raises(ValueError, match="bias"):
        so.EventSimulator.load(tmp_path / "m.stmx", step_us=500)
    (tmp_path / "broken.stmx").write_bytes((tmp_path / "m.stmx").read_bytes()[:-1])
    with pytest.raises(ValueError, match="broken.stmx"):
        so.EventSimulator.load(tmp_path / "broken.stmx", **given)


def test_later_changes_to_a_model_have_no_effect() -> None:
    graph, events = random_network(seed=1), random_recording((2, 4, 5), 60)
    sim = so.EventSimulator.compile(graph, step_us=8)
    expected = sim.run(events)
    for values in graph.tensors.values():
        values[...] = 0
    graph.populations.clear()
    same(sim.run(events), expected)


def test_what_is_no_model_is_refused() -> None:
    for garbage in (None, 3, "model", torch.nn.Linear(2, 2), {}, np.zeros(3)):
        with pytest.raises((TypeError, ValueError)):
            so.EventSimulator.compile(garbage, step_us=8)
