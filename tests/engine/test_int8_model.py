"""Models as int8 networks: how much rounding may change, and what calibration does about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.engine_cases import Oracle, images, patch_graph, run_exactly
from support.engine_models import make_input, make_model

import stmixer_ops as so
from stmixer_ops.engine import Engine, Graph
from stmixer_ops.engine.calibrate import calibrated
from stmixer_ops.engine.disagreement import disagreement
from stmixer_ops.engine.export import export
from stmixer_ops.engine.quantize import quantize

LIMIT = 0.005  # of the spikes of a population

MODELS = {
    "static": {},
    "static_4": {"T": 4},
    "soft_4": {"T": 4, "reset": "soft"},
    "slow_4": {"T": 4, "decay": 0.9},
    "neuron": {"T": 3, "input_scale": 0.5, "threshold": 0.6, "v_reset": -0.2},
    "events": {"in_channels": 2, "downsample": 4, "img_size": 48},
    "events_4": {"in_channels": 2, "downsample": 4, "img_size": 48, "T": 4, "reset": "soft"},
}


def model_of(name: str) -> so.STMixer:
    options = {"img_size": 32, "embed_dim": 64, "num_heads": 4, "depth": 2, **MODELS[name]}
    return make_model("small", **options)


def local_counts(graph: Graph, x: np.ndarray, engine: Engine) -> dict[str, tuple[int, int]]:
    """Per population: spikes that float64 membranes contradict, with no band, and their number."""
    result = engine.run(x, record=True)
    oracle = Oracle(graph, x, {k: np.asarray(v) for k, v in result.spikes.items()})
    return {
        name: (int(((u >= 0) != (fired > 0)).sum()), u.size)
        for name, u, fired in oracle.membranes()
    }


@pytest.mark.slow
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_local_disagreement(name: str, calibrate: bool) -> None:
    model = model_of(name)
    samples = make_input(model, 16) if calibrate else None
    engine = so.Engine.compile(model, precision="int8", calibration=samples)
    assert engine.precision == "int8"
    sequence = 5 if name.startswith("events") else None
    x = make_input(model, 6, sequence).numpy()
    counts = local_counts(export(model), x, engine)
    assert list(counts) == [s.name for s in engine.run(x).stats if s.neurons]
    for population, (wrong, total) in counts.items():
        assert wrong <= LIMIT * total, f"{population}: {wrong} of {total}"
    assert sum(wrong for wrong, _ in counts.values()) > 0, "int8 and float32 must differ"


@pytest.mark.parametrize("name", ["static", "slow_4", "neuron", "events_4"])
def test_models_are_exact_integers(name: str) -> None:
    model = model_of(name)
    graph = calibrated(export(model), make_input(model, 8), run=Engine)
    run_exactly(graph, make_input(model, 2).numpy())


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_disagreement_counts_what_it_says(sequence: bool, batch_first: bool) -> None:
    graph = patch_graph(image=(3, 8, 8), channels=(20, 40), steps=3, heads=2, soft_reset=True)
    x = images(graph, 19, 4 if sequence else None)
    if batch_first and sequence:
        x = np.ascontiguousarray(x.swapaxes(0, 1))
    graph.batch_first = batch_first
    integer = quantize(graph)
    found = disagreement(Engine(graph), Engine(integer), x)
    counts = local_counts(graph, x, Engine(integer))
    exact, got = (Engine(g).run(x, record=True).spikes for g in (graph, integer))
    assert list(found) == list(counts)
    for name, (wrong, total) in counts.items():
        assert found[name].local == wrong / total, name
        assert found[name].free == (exact[name] != got[name]).mean(), name
    assert max(d.local for d in found.values()) > 0
    assert max(d.free for d in found.values()) > max(d.local for d in found.values())


@pytest.mark.parametrize("largest", [0.7, 3.0, 100.0])
def test_calibration_finds_the_range_of_the_input(largest: float) -> None:
    graph = patch_graph()
    x = np.clip(images(graph, 4), -1, 1) * np.float32(largest)
    shift = calibrated(graph, x, run=Engine).input_shift
    assert 2 * largest * 2**shift <= 2**15 - 1 < 2 * largest * 2 ** (shift + 1)
    assert quantize(graph).input_shift == 10  # without samples: [-16, 16]


def coarse_graph() -> Graph:
    """A layer for which int8 is too coarse: each row has one huge weight that no spike selects."""
    graph = patch_graph(image=(3, 8, 8), channels=(20, 40), steps=2)
    graph.tensors["c0.bias"][0] = -1e3
    graph.tensors["conv1.weight"][:, 0, 1, 1] = 40
    return graph


def dtypes(graph: Graph) -> dict[str, str]:
    return {
        p["name"]: graph.tensors[p["weight"]].dtype.name
        for c in graph.currents for p in c["projections"] if "weight" in p
    }  # fmt: skip


def test_calibration_promotes_layers_that_8_bits_are_too_coarse_for() -> None:
    graph = coarse_graph()
    x, others = images(graph, 32), images(graph, 32, seed=2)
    plain, fitted = quantize(graph), calibrated(graph, x, run=Engine)
    assert dtypes(plain)["conv1"] == "int8"
    assert disagreement(Engine(graph), Engine(plain), others)["mix.lif1"].local > 10 * LIMIT
    assert dtypes(fitted) == {
        "conv0": "int8", "protect": "int16", "conv1": "int16", "mix.stm": "int8",
        "mix.fc": "int16", "late.fc1": "int8", "late.fc2": "int8", "head": "int16",
    }  # fmt: skip
    for name, (wrong, total) in local_counts(graph, others, Engine(fitted)).items():
        assert wrong <= LIMIT * total, name
    run_exactly(fitted, others)


def test_layers_by_name() -> None:
    model = make_model()
    names = ["blocks.1.token_mixer.stm", "patch_embed.main.0.conv"]
    engine = so.Engine.compile(model, precision="int8", int16_layers=names)
    found = {name for name, dtype in dtypes(engine.graph).items() if dtype == "int16"}
    assert found == {*names, "head"}
    with pytest.raises(ValueError, match=r"int16_layers must name layers .*, got 'blocks\.9'"):
        so.Engine.compile(model, precision="int8", int16_layers=["blocks.9"])


def test_tensors_arrays_and_sequences_calibrate_alike() -> None:
    graph = patch_graph(steps=3)
    x = images(graph, 4, 3)
    expected = calibrated(graph, x[0], run=Engine)
    for samples in (torch.from_numpy(x[0]), x[0].astype(np.float64), x[0].tolist()):
        fitted = calibrated(graph, samples, run=Engine)
        assert fitted.description() == expected.description()
    assert calibrated(graph, x, run=Engine).input_shift <= expected.input_shift


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 3, 8, 7), np.float32), r"calibration must be images \[B, 3, 8, 6\].*8, 7\]"),
        (np.zeros((3, 8, 6), np.float32), r"calibration must be images .* got \[3, 8, 6\]"),
        (np.zeros((0, 3, 8, 6), np.float32), r"calibration must be images .* got \[0, 3, 8, 6\]"),
        (np.full((1, 3, 8, 6), np.nan, np.float32), "calibration holds a value that is not finite"),
        (torch.full((1, 3, 8, 6), torch.inf), "calibration holds a value that is not finite"),
    ],
)
def test_bad_samples(samples: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrated(patch_graph(), samples, run=Engine)


def test_a_model_without_a_head_is_refused() -> None:
    model = make_model("no_head")
    so.Engine.compile(model)
    for samples in (None, make_input(model, 2)):
        with pytest.raises(ValueError, match="must read a linear layer in an int8 network"):
            so.Engine.compile(model, precision="int8", calibration=samples)


def test_files_take_a_quarter(tmp_path: Path) -> None:
    model = make_model("small", embed_dim=128, num_heads=8)
    x = make_input(model, 3)
    sizes = {}
    for precision in ("fp32", "int8"):
        engine = so.Engine.compile(model, precision=precision)
        path = tmp_path / f"{precision}.stmx"
        engine.save(path)
        assert torch.equal(so.Engine.load(path)(x), engine(x))
        sizes[precision] = path.stat().st_size
    assert 0.24 < sizes["int8"] / sizes["fp32"] < 0.28
