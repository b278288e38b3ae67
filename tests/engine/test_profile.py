"""Where an engine's time goes: its steps, their kernels, and the work they do."""

from __future__ import annotations

import numpy as np
import pytest
from support.engine_cases import conv2d, images, patch_graph
from support.engine_models import make_input, make_model

import stmixer_ops as so
from stmixer_ops.engine import Engine, Profile
from stmixer_ops.engine.profile import StepProfile
from stmixer_ops.engine.quantize import quantize


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_step_of_a_model(precision: str) -> None:
    model = make_model()
    engine = so.Engine.compile(model, precision)
    profile = engine.profile(make_input(model, 1), repeat=3)
    names = [step.name for step in profile]
    assert {"patch_embed.main.0.conv", "blocks.1.token_mixer.stm", "head"} <= set(names)
    assert names[0] == "input" and names[-1] == "head" and len(profile) == len(names)
    assert profile.milliseconds > 0
    assert profile.milliseconds == sum(step.milliseconds for step in profile)


def test_kernels() -> None:
    source = patch_graph(channels=(257, 40), kernel=7, stride=1, padding=3)
    kernels = {
        g.precision: {s.name: s.kernel.split()[:2] for s in Engine(g).profile(images(g, 1), 1)}
        for g in (source, quantize(source, ["mix.fc"], int7_layers=["mix.fc", "late.fc1"]))
    }
    assert kernels["fp32"] | {
        "conv0": ["dense", "fp32"], "conv1": ["gather", "fp32"], "mix.stm": ["gather", "fp32"],
        "head": ["dense", "fp32"], "pool": ["mean"], "lif0 (lists)": ["lists"],
        "stream2": ["sum"], "mix.lif1": ["neurons"], "input": ["load", "fp32"],
    } == kernels["fp32"]  # fmt: skip
    assert kernels["int8"] | {
        "conv0": ["dense", "int16"], "mix.fc": ["gather", "int16"], "mix.stm": ["gather", "int8"],
        "late.fc1": ["gather", "int7"],
        "head": ["head", "int16"], "pool": ["mean"], "input": ["load", "int16"],
    } == kernels["int8"]  # fmt: skip


def test_huge_kernels_fall_back_to_16_bits() -> None:
    graph = patch_graph(channels=(257, 40), kernel=7, stride=1, padding=3)
    graph.tensors["conv1.weight"][:] = 0.25
    steps = {s.name: s.kernel for s in Engine(quantize(graph)).profile(images(graph, 1), 1)}
    assert steps["conv1"] == "gather int16" and steps["mix.fc"] == "gather int8"


@pytest.mark.parametrize("sequence", [None, 3])
def test_sops_are_each_layers_own(sequence: int | None) -> None:
    """Two layers behind one population share its spikes, not its sops."""
    graph = patch_graph(image=(3, 9, 7), channels=(6, 12), steps=2)
    graph.currents[-3]["projections"].append(
        graph.projection("again", "linear", "late.lif1", graph.tensors["mix.fc.weight"][:7])
    )
    x = images(graph, 5, sequence)
    engine = Engine(graph)
    result, profile = engine.run(x, record=True), engine.profile(x, 1)
    sops = {s.name: s.sops for s in profile if s.sops}
    spikes = {name: s.astype(np.int64) for name, s in result.spikes.items()}
    assert sops == {
        "conv1": conv2d(spikes["lif0"].reshape(-1, 6, 9, 7), np.ones((7, 6, 3, 3)), 2, 1).sum(),
        "mix.stm": 20 * spikes["mix.lif1"].sum(),
        "mix.fc": 12 * spikes["mix.lif2"].sum(),
        "late.fc1": 12 * spikes["late.lif1"].sum(),
        "again": 7 * spikes["late.lif1"].sum(),
        "late.fc2": 12 * spikes["late.lif2"].sum(),
    }
    assert sum(sops.values()) == result.stats.sops
    assert result.stats["late.lif1"].sops == sops["late.fc1"] + sops["again"]


def test_bytes_are_those_of_weights_and_lists() -> None:
    graph = patch_graph(image=(3, 8, 8), channels=(64, 128), kernel=1, stride=1, padding=0, steps=2)
    graph.tensors["c0.bias"][:] = -100
    x = images(graph, 3)
    for source, size in ((graph, 4), (quantize(graph), 1)):
        steps = {s.name: s for s in Engine(source).profile(x, 1)}
        starts = steps["lif0 (lists)"].bytes  # without a spike there is nothing else
        assert starts >= 4 * 2 * 3 * 64
        weights = steps["conv1"].bytes - starts
        assert 64 * 123 * size <= weights <= 64 * 128 * size
        assert steps["stream2"].kernel == "sum" and steps["stream2"].bytes == 0
    graph.tensors["c0.bias"][:] = 100
    steps = {s.name: s for s in Engine(graph).profile(x, 1)}
    everything = 64 * 64 * 2 * 3  # neurons, steps, images
    assert steps["lif0 (lists)"].bytes == starts + 2 * everything


def test_profiles_print_as_tables() -> None:
    profile = Profile(
        [
            StepProfile("input", "load fp32", 0.25, 0, 0),
            StepProfile("a.long.name", "gather fp32 4x16", 2.0, 3_000_000, 1536),
        ]
    )
    assert str(profile).splitlines() == [
        "step         kernel                  ms   GSOP/s       KiB",
        "input        load fp32            0.250",
        "a.long.name  gather fp32 4x16     2.000     1.50       1.5",
        "sum                               2.250",
    ]
    assert repr(profile) == "Profile(2 steps, 2.250 ms)"
    assert profile[1].sops_per_second == 1.5e9 and profile[:1] == [profile[0]]
