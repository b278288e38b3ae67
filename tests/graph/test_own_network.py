"""A network of one's own as data: what it says, how it is kept, and that the engine runs it."""

from __future__ import annotations

import inspect
import pickle
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.engine_cases import images, patch_graph, run_checked, run_exactly

import stmixer_ops as so
from stmixer_ops.engine.disagreement import disagreement
from stmixer_ops.graph.quantize import quantize


def documented_example() -> str:
    """The code in the docstring of Graph."""
    lines = inspect.getdoc(so.Graph).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.endswith("::")) + 1
    end = next(i for i, line in enumerate(lines) if line == "Attributes:")
    return textwrap.dedent("\n".join(lines[begin:end]))


def test_the_documented_example_runs_and_equals_pytorch() -> None:
    torch.manual_seed(3)
    names: dict[str, Any] = {}
    exec(documented_example(), names)
    spikes = names["engine"].run(names["x"], record=True).spikes["lif"]
    assert torch.equal(spikes.float(), names["spikes"]) and 0.01 < spikes.float().mean() < 0.5
    expected = names["fc"](names["spikes"].double().mean((0, 3, 4)).float())
    assert (names["logits"] - expected).abs().max() <= 3e-8


@pytest.mark.parametrize("soft_reset", [False, True])
def test_neurons_with_values_per_channel(soft_reset: bool) -> None:
    """Of every layout: pixels by channels, behind token mixing, behind a stored stream."""
    rng = np.random.default_rng(4)
    graph = patch_graph(steps=4, heads=1, soft_reset=soft_reset)
    for p in graph.populations:
        if p["kind"] == "lif":
            sizes = p["shape"][0]
            p["threshold"] = graph._number(p["name"] + ".t", rng.uniform(0.3, 1.5, sizes))
            p["decay"] = graph._number(p["name"] + ".d", rng.uniform(0, 1, sizes))
            p["v_init"] = graph._number(p["name"] + ".v", rng.uniform(-0.5, 0.9, sizes))
    x = images(graph, 3)
    result = run_checked(graph, x)
    one = so.Engine(graph, 1).run(x, record=True)
    for name, spikes in result.spikes.items():
        np.testing.assert_array_equal(one.spikes[name], spikes)
        assert 0.02 < spikes.mean() < 0.98, name


def test_equal_values_per_channel_are_one_number() -> None:
    """To the last bit, whichever of the three is given per channel."""
    plain = patch_graph(steps=3, threshold=0.75, decay=0.3, v_init=0.2)
    x = images(plain, 2)
    expected = so.Engine(plain)(x)
    for key in ("threshold", "decay", "v_init"):
        graph = patch_graph(steps=3, threshold=0.75, decay=0.3, v_init=0.2)
        for p in graph.populations:
            if p["kind"] == "lif":
                p[key] = graph._number(f"{p['name']}.{key}", np.full(p["shape"][0], p[key]))
        np.testing.assert_array_equal(so.Engine(graph)(x), expected)


def test_thresholds_per_channel_in_integers() -> None:
    """Exact, also in how far they are from the float32 network."""
    thresholds = np.random.default_rng(5).uniform(0.4, 1.2, 20)
    graph = patch_graph(steps=3)
    lif0 = next(p for p in graph.populations if p["name"] == "lif0")
    lif0["threshold"] = graph._number("lif0.threshold", thresholds)
    integer, x = quantize(graph), images(graph, 4)
    run_exactly(integer, x)
    assert disagreement(so.Engine(graph), so.Engine(integer), x)["lif0"].local < 0.01


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("mix.lif2", "threshold", "mix.lif2: threshold must be one number after token mixing"),
        ("lif0", "decay", "lif0: decay must be one number"),
        ("lif0", "v_init", "lif0: v_init must be 0"),
    ],
)
def test_what_integers_cannot_express_is_refused_by_name(name: str, key: str, message: str) -> None:
    graph = patch_graph()
    population = next(p for p in graph.populations if p["name"] == name)
    values = np.full(population["shape"][0], 0.5)
    population[key] = graph._number(f"{name}.{key}", values)
    with pytest.raises(ValueError, match=f"int8: {message}"):
        quantize(graph)


def test_several_spikes_a_step_are_kept_and_refused_by_the_engine() -> None:
    graph = patch_graph(max_spikes=4)
    with pytest.raises(ValueError, match=r"'lif0': max_spikes is 4, but .* one spike a step"):
        so.Engine(graph)
    with pytest.raises(ValueError, match=r"'lif0': max_spikes is 4, but"):
        so.Engine(quantize(graph))


@pytest.mark.parametrize("key", ["decay", "v_init"])
def test_integers_per_channel_are_refused_by_the_engine(key: str) -> None:
    graph = quantize(patch_graph())
    lif0 = next(p for p in graph.populations if p["name"] == "lif0")
    graph.tensors["lif0.new"] = np.ones(20, np.int32)
    lif0[key] = "lif0.new"
    with pytest.raises(ValueError, match=rf"'lif0': {key} must be .* in an int8 network"):
        so.Engine(graph)
    graph.tensors["lif0.new"] = np.ones(19, np.int32)
    with pytest.raises(ValueError, match=f"'lif0': {key} must hold 20 values, got 19"):
        so.Engine(graph)
    graph.tensors["lif0.new"] = np.full(20, -(2**30) - 1, np.int32)
    with pytest.raises(ValueError, match=f"'lif0': {key} must lie in"):
        so.Engine(graph)


def test_what_the_engine_does_not_compute_with_is_kept(tmp_path: Path) -> None:
    graph = patch_graph()
    graph.mean, graph.std, graph.step_us = [0.25, 0.5, 0.75], [1.0, 2.0, 0.5], 31_000
    graph.currents[0]["projections"][0]["clocked_only"] = True
    for made in (graph, quantize(graph)):
        engine = so.Engine(made, 1)
        engine.save(tmp_path / "m.stmx")
        content = (tmp_path / "m.stmx").read_bytes()
        for other in (so.Engine.load(tmp_path / "m.stmx"), pickle.loads(pickle.dumps(engine)),
                      so.Engine.load(content), so.Engine.load(memoryview(content)),
                      so.Engine.load(bytearray(content))):  # fmt: skip
            assert other.mean == (0.25, 0.5, 0.75) and other.std == (1, 2, 0.5)
            assert other.step_us == 31_000 and other.input_shape == (3, 8, 6)
            assert other.graph.description() == made.description()
            np.testing.assert_array_equal(other(images(graph, 1)), engine(images(graph, 1)))
    plain = so.Engine(patch_graph())
    assert plain.mean is plain.std is plain.step_us is None


def test_content_that_is_no_engine_file_is_refused() -> None:
    with pytest.raises(ValueError, match="content of 3 bytes is not a usable engine file: it has"):
        so.Engine.load(b"abc")


def test_compiling_keeps_mean_std_and_step() -> None:
    model = so.STMixer(
        img_size=8, in_channels=2, num_classes=3, embed_dim=16, depth=1, num_heads=2
    ).eval()  # fmt: skip
    engine = so.Engine.compile(model, mean=torch.tensor([0.5, 0.25]), std=(1, 2), step_us=500)
    assert (engine.mean, engine.std, engine.step_us) == ((0.5, 0.25), (1, 2), 500)
    with pytest.raises(ValueError, match="'input': mean must hold 2 values, got 1"):
        so.Engine.compile(model, mean=0.5, std=[1, 1])


def test_weights_of_any_type() -> None:
    weight = torch.full((2, 3), 0.5, dtype=torch.bfloat16, requires_grad=True)
    graph = so.Graph()
    graph.projection("fc", "linear", "x", weight)
    np.testing.assert_array_equal(graph.tensors["fc.weight"], np.full((2, 3), 0.5, np.float32))


def test_sops_keep_their_former_name() -> None:
    result = so.Engine(patch_graph()).run(images(patch_graph(), 2))
    layer = result.stats["lif0"]
    assert layer.sops == layer.synops == layer["synops"] == layer["sops"] > 0
    assert result.stats.sops == result.stats.synops == sum(s.sops for s in result.stats)
    step = next(s for s in so.Engine(patch_graph()).profile(images(patch_graph(), 2), 2) if s.sops)
    assert step.synops == step.sops and step.synops_per_second == step.sops_per_second > 0
