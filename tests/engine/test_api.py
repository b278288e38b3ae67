"""The engine's C++ interface: what an input leaves unsaid, and errors instead of crashes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.cpp_build import built
from support.engine_cases import patch_graph

from stmixer_ops.engine import Engine
from stmixer_ops.engine.quantize import quantize

pytestmark = pytest.mark.compiles

BATCH, STEPS = 2, 3

MISUSE = {
    "data": "Input::data must not be null",
    "batch": "Input::batch must be at least 1, got 0",
    "steps": "Input::steps must be at least 1, or 0 for the network's, got -1",
    "step_stride": "Input::step_stride must be left alone unless Input::sequence is set, got 5",
    "logits": "logits must not be null",
    "not finite": "input holds a value that is not finite",
    "spikes": "Recording::spikes must have {lif} entries, one per LIF population, got 1",
    "spikes[i]": "Recording::spikes[i] must not be null",
    "activity": "Recording::activity must have {lif} entries, one per LIF population, got 0",
    "work": "Recording::work must have {steps} entries, one per step, got 0",
    "layers": "steps must be at least 1, got 0",
    "threads": "threads must lie in [1, 1024], got 0",
    "array": "data of an Array of 3 must not be null",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Engine, Path]]:
    graph, folder = patch_graph(steps=4), tmp_path_factory.mktemp("models")
    engines = {"fp32": Engine(graph), "int8": Engine(quantize(graph))}
    for precision, engine in engines.items():
        engine.save(folder / f"{precision}.stmx")
    return {p: (engine, folder / f"{p}.stmx") for p, engine in engines.items()}


def _run(model: Path, case: str) -> subprocess.CompletedProcess[str]:
    program = built("engine_api") / "tests" / "support" / "engine_api"
    return subprocess.run([program, model, case], capture_output=True, text=True, check=False)


def _images(engine: Engine, count: int) -> np.ndarray:
    shape = engine.graph.populations[0]["shape"]
    values = np.arange(count * int(np.prod(shape))) * 37 % 101
    return (values.astype(np.float32) / 64 - np.float32(0.5)).reshape(count, *shape)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("case", ["defaults", "said", "same image", "sequence", "recording"])
def test_what_an_input_leaves_unsaid_is_what_the_network_says(
    models: dict[str, tuple[Engine, Path]], precision: str, case: str
) -> None:
    engine, model = models[precision]
    x = _images(engine, BATCH * STEPS)
    images = np.stack([x[0], x[0]]) if case == "same image" else x[:BATCH]
    expected = engine(x.reshape(STEPS, BATCH, *x.shape[1:]) if case == "sequence" else images)
    done = _run(model, case)
    assert done.returncode == 0, done.stdout + done.stderr
    found = np.array(done.stdout.split(), np.float32).reshape(BATCH, -1)
    np.testing.assert_array_equal(found, expected)
    assert (case == "same image") == np.array_equal(expected[0], expected[1])


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_an_error_that_names_the_field(
    models: dict[str, tuple[Engine, Path]], case: str
) -> None:
    engine, model = models["fp32"]
    steps = len(engine.profile(_images(engine, 1), repeat=1))
    expected = MISUSE[case].format(lif=_populations(engine), steps=steps)
    done = _run(model, case)
    assert (done.returncode, done.stdout.strip()) == (1, expected), done.stderr


def _populations(engine: Engine) -> int:
    return sum(p["kind"] == "lif" for p in engine.graph.populations)
