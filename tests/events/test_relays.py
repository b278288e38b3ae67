"""Pools, spike products and graded populations in the simulator: on the grid what the reference
computes, without a clock what brute force finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.brute_relays import BruteRelays
from support.engine_cases import clocked_graph, images
from support.event_cases import dyadic, frames, random_recording, recording
from support.golden import Golden
from support.small_models import images as model_images
from support.small_models import spikformer, stmixer

import stmixer_ops as so
from stmixer_ops.graph import Graph
from stmixer_ops.graph.export import export
from stmixer_ops.graph.reference import run_reference

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

STEP = 10


def dyadic_graph(biased: bool = True, **lif: Any) -> Graph:
    """`clocked_graph` on which every sum is exact."""
    graph = clocked_graph(**lif)
    for name, tensor in graph.tensors.items():
        graph.tensors[name] = (np.rint(tensor * 64) / 64).astype(np.float32)
    for current in graph.currents:
        if not biased and current["name"] != "head":
            current["bias"] = None
    return graph


def simulate(graph: Graph, events: Any, schedule: str, **options: Any) -> so.events.EventResult:
    simulator = so.EventSimulator(graph, schedule=schedule, step_us=STEP, num_threads=1, **options)
    return simulator.run(events, record=True)


def ticks(result: Any, shapes: dict[str, tuple[int, ...]], steps: int) -> dict[str, np.ndarray]:
    """Recorded spikes of one recording as ``[T, 1, ...]``."""
    found = {}
    for name, spikes in result.spikes.items():
        fired = np.zeros((steps, int(np.prod(shapes[name][2:]))), np.uint8)
        np.add.at(fired, (spikes["t"] // STEP, spikes["index"]), 1)
        found[name] = fired.reshape(steps, 1, *shapes[name][2:])
    return found


def assert_same_spikes(result: Any, expected: dict[str, np.ndarray]) -> None:
    shapes = {name: s.shape for name, s in expected.items()}
    steps = len(next(iter(expected.values())))
    for name, fired in ticks(result, shapes, steps).items():
        np.testing.assert_array_equal(fired, expected[name], err_msg=name)


# -- With a clock ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lif", [{}, {"soft_reset": True, "threshold": 0.625, "decay": 1.0}])
def test_the_grid_is_the_reference(lif: dict[str, Any]) -> None:
    graph = dyadic_graph(**lif)
    events = random_recording((2, 9, 8), 400, gap=1)
    result = simulate(graph, events, "grid", bias="tick")
    x = frames(events, (2, 9, 8), STEP)[:, None]
    expected = run_reference(graph, x)
    assert_same_spikes(result, expected.spikes)
    np.testing.assert_allclose(result.logits, expected.logits, rtol=1e-5, atol=1e-6)
    assert all(s.mean() > 0.02 for s in expected.spikes.values())
    dense = np.rint(images(graph, 1, 4) * 16).astype(np.float32) / 16
    expected = run_reference(graph, dense)
    assert_same_spikes(simulate(graph, dense, "grid", bias="tick"), expected.spikes)


def assert_by_the_local_rule(graph: Graph, x: torch.Tensor, result: Any) -> None:
    """One image: every spike follows in float64 from the run's own upstream spikes."""
    expected = run_reference(graph, x)
    shapes = {name: s.shape for name, s in expected.spikes.items()}
    given = ticks(result, shapes, graph.steps)
    local = run_reference(graph, x, given, distances=True)
    for name, spikes in given.items():
        wrong = local.spikes[name] != spikes
        assert (np.abs(local.distances[name][wrong]) < 1e-4).all(), name
        assert spikes.any(), name
    np.testing.assert_allclose(result.logits, local.logits, rtol=1e-4, atol=1e-5)


def test_the_grid_runs_spikformer_of_the_official_code() -> None:
    golden = Golden("spikformer_T2")
    graph, x = export(golden.model().eval()), golden["input"][:1].float()
    assert_by_the_local_rule(graph, x, simulate(graph, x, "grid", bias="tick"))


@pytest.mark.parametrize(
    "make",
    [spikformer, lambda: stmixer(mixer="ssa", patch_embed="sps")],
    ids=["spikformer", "ablation"],
)
def test_the_grid_counts_what_the_recorder_counts(make) -> None:
    """But what spikes cost in a spike product, and in layers that only the readout sums."""
    model, x = make(), model_images(1)
    simulator = so.EventSimulator.compile(model, schedule="grid", step_us=STEP, bias="tick")
    result = simulator.run(x, record=True)
    assert_by_the_local_rule(export(model), x, result)
    with so.record(model) as recorded, torch.no_grad():
        model(x)
    rows = {row.name: row for row in result.stats}
    assert {n: rows[n].spikes for n in recorded.counts} == recorded.counts, "a spike was rounded"
    for name, sops in recorded.sops.items():
        if not name.endswith(("q_lif", "k_lif", "v_lif", "1.channel_mlp.lif2")):
            assert rows[name].sops == sops, name


# -- Without ---------------------------------------------------------------------------------------


def assert_brute_force(graph: Graph, events: Any, schedule: str, latch: int) -> BruteRelays:
    result = simulate(graph, events, schedule, latch_us=latch)
    expected = BruteRelays(graph, events, schedule=schedule, latch_us=latch, step_us=STEP)
    for name, spikes in expected.spikes.items():
        found = result.spikes[name]
        assert sorted(zip(found["t"].tolist(), found["index"].tolist(), strict=True)) == sorted(
            spikes
        ), name
    np.testing.assert_allclose(result.logits[0], expected.logits, rtol=1e-5, atol=1e-6)
    return expected


@pytest.mark.parametrize("schedule", ["rank", "serial"])
@pytest.mark.parametrize("latch", [0, 7, 10**6])
def test_without_a_clock_it_is_brute_force(schedule: str, latch: int) -> None:
    graph = dyadic_graph(biased=False, soft_reset=latch == 7, decay=0.5 if latch else 1.0)
    events = random_recording((2, 9, 8), 60, seed=1, gap=2)
    expected = assert_brute_force(graph, events, schedule, latch)
    counts = [len(spikes) for spikes in expected.spikes.values()]
    assert min(counts) > 5 or latch == 0


@st.composite
def drawn_graphs(draw: st.DrawFn) -> Graph:
    """The input, a pool, neurons, their sum as graded values, a product of what reads it."""
    size, kind = draw(st.tuples(*[st.integers(3, 6)] * 2)), draw(st.sampled_from(["max", "avg"]))
    kernel = draw(st.integers(1, 3 if kind == "max" else 2))  # no ninths, which float32 rounds
    stride, padding = draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    lif = {"decay": draw(st.sampled_from([1.0, 0.5])), "soft_reset": draw(st.booleans())}
    heads, each = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    queries, values = 2 * heads, each * heads
    graph = Graph()
    graph.add_input("input", (2, *size))
    window = {"kernel": kernel, "stride": stride, "padding": padding}
    h, w = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    pool = graph.projection("pool", f"{kind}_pool", "input", channel_offset=1, **window)
    graph.add_current("pooled", (3, h, w), [pool])
    graph.add_graded("graded", "pooled", (3, h, w))
    conv = graph.projection("conv", "conv", "graded", dyadic(rng, 3, 3, 3, 3, high=1), padding=1)
    graph.add_current("c", (3, h, w), [conv])
    graph.add_lif("first", "c", (3, h, w), threshold=0.5, **lif)
    back = graph.projection("back", "identity", "first")
    graph.add_current("summed", (3, h, w), [back], ["pooled"])
    graph.add_graded("sums", "summed", (3, h * w))
    for name, channels in (("q", queries), ("k", queries), ("v", values)):
        weight = dyadic(rng, channels, 3, high=1)
        linear = graph.projection(name, "linear", "sums", weight)
        graph.add_current(f"{name}.sum", (channels, h * w), [linear])
        graph.add_lif(f"{name}.lif", f"{name}.sum", (channels, h * w), threshold=0.5, **lif)
    product = graph.projection(
        "attn", "spike_product", "q.lif", key="k.lif", value="v.lif", heads=heads, scale=0.5
    )
    graph.add_current("scores", (values, h * w), [product])
    graph.add_lif("lif", "scores", (values, h * w), **lif)
    return _with_readout(graph, (values, 1, h * w))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(graph=drawn_graphs(), latch=st.integers(0, 12), seed=st.integers(0, 99))
@pytest.mark.parametrize("schedule", ["rank", "serial"])
def test_any_pool_and_any_product(schedule: str, graph: Graph, latch: int, seed: int) -> None:
    height, width = graph.populations[0]["shape"][1:]
    events = random_recording((2, height, width), 30, seed=seed, gap=2)
    assert_brute_force(graph, events, schedule, latch)


def test_within_one_timestamp_products_and_pools_are_those_of_a_tick() -> None:
    graph = dyadic_graph(biased=False)
    events = random_recording((2, 9, 8), 150, gap=0)
    grid = simulate(graph, events, "grid")
    for latch in (1, 10**9):
        rank = simulate(graph, events, "rank", latch_us=latch)
        for name, counts in grid.counts.items():
            np.testing.assert_array_equal(rank.counts[name], counts, err_msg=name)
    assert grid.counts["attn.lif"].sum() > 1


def small_pool(**lif: Any) -> Graph:
    """A row of four pixels, pooled in pairs; every pooled spike fires."""
    graph = Graph()
    graph.add_input("input", (1, 1, 4))
    pool = graph.projection("pool", "max_pool", "input", kernel=2, stride=2, padding=1)
    graph.add_current("pooled", (1, 1, 3), [pool])
    graph.add_lif("lif", "pooled", (1, 1, 3), decay=1.0, **lif)
    return _with_readout(graph, (1, 1, 3))


def _with_readout(graph: Graph, shape: tuple[int, int, int]) -> Graph:
    graph.add_current("stream", shape, [graph.projection("out", "identity", "lif")])
    graph.add_current("mean", (shape[0], 1, 1), [graph.projection("mean", "mean", "stream")])
    graph.add_readout("logits", "mean", shape[0])
    return graph


def times(result: Any) -> list[tuple[int, int]]:
    spikes = result.spikes["lif"]
    return list(zip(spikes["t"].tolist(), spikes["index"].tolist(), strict=True))


def test_the_first_spike_of_a_window_blocks_the_others() -> None:
    """Windows of a row with padding 1: pixel 0; pixels 1 and 2; pixel 3."""
    events = recording((0, 1, 0), (3, 2, 0), (4, 0, 0), (5, 1, 0), (9, 2, 0), (9, 1, 0))
    for schedule in ("rank", "serial"):
        found = {w: times(simulate(small_pool(), events, schedule, latch_us=w)) for w in (0, 1, 5)}
        assert found[5] == [(0, 1), (4, 0), (5, 1)]
        assert found[1] == [(0, 1), (3, 1), (4, 0), (5, 1), (9, 1)]
        twice = [(9, 1)] if schedule == "rank" else [(9, 1)] * 2  # one test, or one a spike
        assert found[0] == [*found[1][:-1], *twice]
    several = simulate(small_pool(soft_reset=True), events, "rank", latch_us=0, multi_spike=True)
    assert times(several)[-2:] == [(9, 1)] * 2


def test_a_product_grows_when_the_last_of_three_bits_arrives() -> None:
    """One channel, one token; q, k and v are the input's three pixels."""
    graph = Graph()
    graph.add_input("input", (1, 1, 3))
    names = []
    for i, name in enumerate("qkv"):
        pixel = np.eye(3)[i].reshape(1, 1, 1, 3)
        graph.add_current(f"{name}.sum", (1, 1), [graph.projection(name, "conv", "input", pixel)])
        names.append(graph.add_lif(name, f"{name}.sum", (1, 1), decay=1.0))
    product = graph.projection(
        "attn", "spike_product", names[0], key=names[1], value=names[2], scale=0.5
    )
    graph.add_current("scores", (1, 1), [product])
    graph.add_lif("lif", "scores", (1, 1), decay=1.0, threshold=0.5)
    graph = _with_readout(graph, (1, 1, 1))

    def fired(latch: int, *rows: tuple[int, int]) -> list[int]:
        events = recording(*((t, x, 0) for t, x in rows))
        found = {
            tuple(t for t, _ in times(simulate(graph, events, s, latch_us=latch)))
            for s in ("rank", "serial")
        }
        (one,) = found
        return list(one)

    assert fired(10, (0, 0), (4, 1), (8, 2)) == [8]
    assert fired(8, (0, 0), (4, 1), (8, 2)) == []  # q was held until 8
    assert fired(8, (0, 0), (4, 1), (7, 2)) == [7]
    assert fired(8, (0, 0), (4, 1), (6, 0), (8, 2)) == [8]  # q is held anew
    assert fired(10, (0, 0), (0, 1), (0, 2), (5, 2)) == [0]  # the bit is set already
    assert fired(5, (0, 0), (0, 1), (4, 2), (4, 0), (9, 1), (9, 2)) == [4]  # q alone is left
    assert fired(0, (3, 2), (3, 1), (3, 0), (4, 2)) == [3]  # bits hold for their own timestamp


def test_pieces_threads_and_shifts_make_no_difference() -> None:
    graph = dyadic_graph(biased=False)
    events = random_recording((2, 9, 8), 120, seed=2)
    for schedule in ("grid", "rank", "serial"):
        latch = None if schedule == "grid" else 9
        sim = so.EventSimulator(
            graph, schedule=schedule, step_us=STEP, latch_us=latch, num_threads=2
        )
        whole = sim.run([events, events[:50]])
        stream = sim.stream(t0=1000)
        for part in np.array_split(events, 7):
            part["t"] += 1000
            stream.push(part)
            stream.logits()
        stream.finish()
        for name, counts in stream.counts().items():
            np.testing.assert_array_equal(counts.reshape(-1), whole.counts[name][0].reshape(-1))
        np.testing.assert_array_equal(np.ravel(stream.logits()), whole.logits[0])
        events["t"] -= 1000


# -- Refused ---------------------------------------------------------------------------------------


def _changed(where: str, **fields: Any) -> Graph:
    graph = dyadic_graph(biased=False)
    nodes = [*graph.populations, *graph.currents]
    nodes += [p for c in graph.currents for p in c["projections"]]
    next(n for n in nodes if n["name"] == where).update(fields)
    return graph


@pytest.mark.parametrize(
    ("graph", "options", "message"),
    [
        (dyadic_graph(), {"bias": "drop"}, r"latch_us: .* 'pool0' \(max_pool\), 'attn' \(spike_pr"),
        (dyadic_graph(), {"latch_us": 5}, "bias: .* the biases of 'c0', 'q.sum', 'k.sum', 'v.sum'"),
        (dyadic_graph(), {"latch_us": -1}, "latch_us must be .*-1"),
        (_changed("conv1", clocked_only=True), {"latch_us": 5}, "'conv1': is marked clocked_only"),
        (dyadic_graph(biased=False), {"latch_us": 5, "drop": 0.5}, "delay_us, jitter_us and drop"),
        (_changed("pool1", source="stream"), {"latch_us": 5}, "'pool1': reads values of 'stream'"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name(
    graph: Graph, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        so.EventSimulator(graph, step_us=STEP, **options)


def test_graded_populations_emit_spikes_only() -> None:
    graph = dyadic_graph(biased=False)
    graph.add_graded("weighted", "c1", (8, 5, 4))
    with pytest.raises(
        ValueError, match="'weighted': emits what is no sum of spikes: conv1 weighs"
    ):
        so.EventSimulator(graph, step_us=STEP, latch_us=5)
    graph = dyadic_graph(biased=False)
    stream = next(c for c in graph.currents if c["name"] == "stream")
    stream["bias"] = graph._add_tensor("stream.bias", np.ones(8))
    with pytest.raises(
        ValueError, match="'sums': emits what is no sum of spikes: stream has a bias"
    ):
        so.EventSimulator(graph, step_us=STEP, latch_us=5, bias="drop")


def test_a_model_says_what_it_needs_and_runs_with_it(tmp_path: Path) -> None:
    model = spikformer(in_channels=2)
    with pytest.raises(ValueError, match=r"latch_us: .*'blocks\.1\.attn' \(spike_product\)"):
        so.EventSimulator.compile(model, step_us=STEP, bias="drop")
    events = random_recording((2, 16, 16), 2000, gap=0)
    simulator = so.EventSimulator.compile(model, step_us=STEP, bias="drop", latch_us=STEP)
    result = simulator.run(events)
    assert all(counts.any() for name, counts in result.counts.items() if "patch_embed" in name)
    simulator.save(tmp_path / "model.stmx")
    with pytest.raises(ValueError, match=r"model\.stmx is not a usable engine file: .*'blocks\.0"):
        so.Engine.load(tmp_path / "model.stmx")
    options = {"step_us": STEP, "bias": "drop", "latch_us": STEP}
    loaded = so.EventSimulator.load(tmp_path / "model.stmx", **options)
    np.testing.assert_array_equal(loaded.run(events).logits, result.logits)


def test_what_is_summed_twice_is_worth_twice() -> None:
    """Weight 1/2 of a graded population that holds every spike of the input two times."""
    graph = Graph()
    graph.add_input("input", (1, 1, 1))
    once = graph.projection("once", "identity", "input")
    graph.add_current("one", (1, 1, 1), [once])
    graph.add_current("two", (1, 1, 1), [], ["one", "one"])
    graph.add_graded("graded", "two", (1, 1, 1))
    half = graph.projection("half", "linear", "graded", [[0.5]])
    graph.add_current("c", (1, 1, 1), [half])
    graph.add_lif("lif", "c", (1, 1, 1))
    graph = _with_readout(graph, (1, 1, 1))
    for schedule in ("grid", "rank", "serial"):
        assert times(simulate(graph, recording((3, 0)), schedule)) == [
            (3 * (schedule != "grid"), 0)
        ]
    assert run_reference(graph, np.ones((1, 1, 1, 1))).spikes["lif"].sum() == 1
    pool = graph.projection("pool", "max_pool", "graded", kernel=1)
    graph.add_current("pooled", (1, 1, 1), [pool])
    with pytest.raises(
        ValueError, match="'pool': reads 'graded', whose spikes are not worth 1 each"
    ):
        so.EventSimulator(graph, step_us=STEP, latch_us=1)
