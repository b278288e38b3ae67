"""Int8 networks: bit for bit what the integers of their graph say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn import drawn_sizes
from support.engine_cases import IntegerOracle, images, patch_graph, run_exactly

from stmixer_ops.engine import Engine, Graph
from stmixer_ops.engine.quantize import quantize

SHAPES = {
    "one_channel": {"image": (1, 5, 5), "channels": (1, 7), "heads": 7},
    "one_position": {"image": (3, 4, 4), "channels": (7, 63), "kernel": 4, "stride": 1,
                     "padding": 0, "heads": 7},
    "5x5": {"image": (2, 9, 16), "channels": (63, 65), "kernel": 5, "stride": 1, "padding": 2,
            "heads": 5},
    "pointwise": {"channels": (65, 63), "kernel": 1, "stride": 1, "padding": 0, "heads": 9},
    "padded": {"image": (3, 8, 8), "channels": (130, 128), "kernel": 4, "padding": 3, "heads": 2},
    "strided": {"image": (3, 7, 11), "channels": (257, 200), "kernel": 2, "stride": 3,
                "padding": 0, "classes": 70},
    "many_tokens": {"image": (4, 18, 18), "channels": (48, 96), "heads": 6},
    "overlap": {"overlap": 3},
    "gap": {"overlap": -2},
}  # fmt: skip
NEURONS = [
    {},
    {"soft_reset": True},
    {"decay": 0.9},
    {"decay": 1.0, "soft_reset": True, "threshold": 1.3},
    {"decay": 0.0, "input_scale": 0.5, "threshold": 0.4},
    {"threshold": -0.2, "decay": 0.7},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_spike_and_logit(shape: str, steps: int, isa: str) -> None:
    graph = quantize(patch_graph(steps=steps, **SHAPES[shape]))
    result = run_exactly(graph, images(graph, 3))
    rates = [layer.rate for layer in result.stats if layer.neurons]
    assert min(rates) > 0.02, "a silent population proves nothing"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_sizes(data: st.DataObject) -> None:
    draw = data.draw
    sizes = drawn_sizes(draw, kernels=7, channels=150, per_head=30, steps=8)
    graph = patch_graph(
        **sizes,
        decay=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        soft_reset=draw(st.booleans()),
    )
    names = [p["name"] for c in graph.currents for p in c["projections"]]
    wide, slim = (draw(st.sets(st.sampled_from(names))) for _ in range(2))
    integer = quantize(graph, wide, int7_layers=slim)
    x = images(graph, draw(st.integers(1, 3)), draw(st.sampled_from([None, 1, 2, 5])))
    run_exactly(integer, x, num_threads=draw(st.integers(1, 3)))


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("sequence", [False, True])
def test_neurons(neuron: dict, sequence: bool, isa: str) -> None:
    graph = quantize(patch_graph(steps=4, **neuron))
    run_exactly(graph, images(graph, 2, steps=8 if sequence else None))


@pytest.mark.parametrize("layers", [["conv1"], ["conv0", "mix.stm"], ["mix.fc", "late.fc2"]])
def test_layers_of_16_bits(layers: list[str], isa: str) -> None:
    source = patch_graph(image=(3, 8, 8), channels=(65, 70), steps=2, heads=2)
    graph = quantize(source, layers)
    for name in ("conv0", "protect", "conv1", "mix.stm", "mix.fc", "late.fc1", "late.fc2"):
        expected = np.int16 if name in layers else np.int8
        assert graph.tensors[f"{name}.weight"].dtype == expected, name
    run_exactly(graph, images(graph, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_layers_of_7_bits(shape: str, isa: str) -> None:
    source = patch_graph(steps=2, **SHAPES[shape])
    layers = ["conv1", "mix.stm", "mix.fc", "late.fc1", "late.fc2"]
    graph = quantize(source, int7_layers=layers)
    for name in layers:
        weight = graph.tensors[f"{name}.weight"]
        assert weight.dtype == np.int8 and np.abs(weight).max() == 63, name
    assert np.abs(graph.tensors["conv0.weight"]).max() > 63
    run_exactly(graph, images(graph, 3))


def _with_equal_weights(
    names: list[str], int7_layers: Collection[str] = (), **shape: object
) -> Graph:
    """Neurons that all fire, and layers whose integers are all 127, or 63: the largest sums."""
    graph = patch_graph(steps=2, **shape)
    graph.tensors["c0.bias"] += 5
    for name in names:
        graph.tensors[f"{name}.weight"][:] = 0.25
    return quantize(graph, int7_layers=int7_layers)


@pytest.mark.parametrize("int7_layers", [[], ["conv1"]])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_sums_larger_than_16_bits_of_convolutions(
    kernel: int, int7_layers: list[str], isa: str
) -> None:
    """5x5: fewer channels are summed in 16 bits at a time; 7x7: not even eight could be."""
    graph = _with_equal_weights(
        ["conv1"], int7_layers, channels=(257, 40), kernel=kernel, stride=1, padding=kernel // 2
    )
    x = images(graph, 2)
    oracle = IntegerOracle(graph, x)
    conv1 = graph.currents[1]["projections"][1]
    plain = conv1 | {"multiplier": None, "shift": 0}
    assert oracle.weighted(plain, oracle.emitted["lif0"]).max() > 2**16
    run_exactly(graph, x)


def test_sums_larger_than_16_bits_of_linear_layers(isa: str) -> None:
    graph = _with_equal_weights(
        ["mix.stm", "mix.fc", "late.fc1"],
        image=(3, 18, 18), channels=(20, 300), stride=1, kernel=3, heads=3,
    )  # fmt: skip
    graph.tensors["lif0.threshold"][:] = -(2**30)
    for name in ("mix.lif1", "mix.lif2", "late.lif1"):
        graph.tensors[f"{name}.threshold"][::2] = -(2**30)
    result = run_exactly(graph, images(graph, 1))
    assert 324 * 127 > 2**15 and 300 * 127 > 2**15
    assert result.stats["mix.lif1"].rate > 0.5


def test_membranes_saturate(isa: str) -> None:
    """Without a leak, up to 2**30 and no further, above and below zero."""
    source = patch_graph(decay=1.0)
    source.tensors["conv0.weight"][:] = 1
    source.tensors["c0.bias"][:] = 0
    graph = quantize(source)
    assert graph.tensors["lif0.threshold"].max() < 2**24
    x = np.full((12, 1, 3, 8, 6), 16, np.float32)
    x[:6] = -16
    _check_saturation(graph, x)
    graph.tensors["lif0.threshold"][:] = 1_320_000_000
    _check_saturation(graph, -x)


def _check_saturation(graph: Graph, x: np.ndarray) -> None:
    class Boundless(IntegerOracle):
        limit = 2**40

    run_exactly(graph, x)
    other = Boundless(graph, x).emitted["lif0"]
    assert (other != IntegerOracle(graph, x).emitted["lif0"]).any(), "nothing saturated"


def test_input_is_rounded_half_to_even_and_saturates() -> None:
    source = patch_graph(steps=2)
    graph = quantize(source, input_limit=3.0)
    assert graph.input_shift == 13
    x = images(graph, 4)
    x[0] = (np.round(x[0] * 2**13) + 0.5) / 2**13
    x[1] *= 1e3
    x[2, :, ::2], x[2, :, 1::2] = 3.4e38, -3.4e38
    x[3] *= 1e-42  # subnormal
    run_exactly(graph, x)
    even, odd = (np.full((1, 3, 8, 6), n / 2**13, np.float32) for n in (1000, 1001))
    half = (even + odd) / 2
    engine = Engine(graph)
    np.testing.assert_array_equal(engine(half), engine(even))
    assert (engine(half) != engine(odd)).any()


def test_two_populations_behind_one_token_mixing() -> None:
    """Their thresholds are per head and token, in a layout of its own."""
    source = patch_graph(image=(3, 8, 8), channels=(20, 36), heads=3, steps=2)
    source.populations.insert(-1, dict(
        next(p for p in source.populations if p["name"] == "mix.lif2"),
        name="mix.other", threshold=0.6,
    ))  # fmt: skip
    other = source.projection("other.fc", "linear", "mix.other", source.tensors["mix.fc.weight"])
    source.currents[-3]["projections"].append(other)
    assert source.currents[-3]["name"] == "stream2"
    graph = quantize(source)
    result = run_exactly(graph, images(graph, 2))
    assert result.stats["mix.other"].spikes != result.stats["mix.lif2"].spikes


def test_batch_first_sequences() -> None:
    graph = quantize(patch_graph(steps=3))
    x = images(graph, 2, steps=4)
    expected = run_exactly(graph, x)
    graph.batch_first = True
    result = run_exactly(graph, np.ascontiguousarray(x.swapaxes(0, 1)))
    np.testing.assert_array_equal(result.logits, expected.logits)


def _with_fields(where: str, **fields: object) -> Graph:
    graph = patch_graph(steps=2)
    nodes = [*graph.populations, *graph.currents]
    nodes += [p for c in graph.currents for p in c["projections"]]
    next(n for n in nodes if n["name"] == where).update(fields)
    return graph


@pytest.mark.parametrize(
    ("where", "fields", "message"),
    [
        ("lif0", {"v_init": 0.25}, r"lif0: v_init must be 0 .* got 0\.25 and 1\.0"),
        (
            "mix.lif2",
            {"input_scale": -0.5},
            r"mix\.lif2: .* input_scale positive, got 0.0 and -0.5",
        ),
        ("late.lif1", {"input_scale": 0.0}, r"late\.lif1: .* input_scale positive"),
    ],
)
def test_neurons_that_integers_cannot_express(where: str, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(_with_fields(where, **fields))


@pytest.mark.parametrize(
    ("weight", "node"),
    [(2e4, "stream0"), (1e9, "stream0"), (800, "stream1"), (500, "stream2")],
)
def test_streams_that_may_overflow(weight: float, node: str) -> None:
    """The last two only by the residual sum: each term alone stays below 2^30."""
    graph = patch_graph()
    graph.tensors["conv1.weight"] *= weight
    graph.tensors["mix.fc.weight"] *= weight
    with pytest.raises(ValueError, match=f"'{node}': its integers may overflow: up to .* of 2"):
        Engine(quantize(graph))


def test_what_comes_after_the_mean() -> None:
    """A plain mean, one linear layer of all of it, the readout: nothing else."""
    graph = patch_graph()
    graph.populations[-1].update(current="mean", shape=[37, 1, 1])
    with pytest.raises(ValueError, match="'logits': must read a linear layer in an int8 network"):
        Engine(quantize(graph))

    graph = patch_graph()
    graph.tensors["mean.bias"] = np.ones(37, np.float32)
    next(c for c in graph.currents if c["name"] == "mean")["bias"] = "mean.bias"
    with pytest.raises(ValueError, match="'mean': must be a plain mean"):
        Engine(quantize(graph))

    graph = patch_graph(classes=37)
    second = graph.projection("second", "linear", "head", np.eye(37))
    graph.add_current("logits2", (37, 1, 1), [second])
    graph.populations[-1]["current"] = "logits2"
    with pytest.raises(ValueError, match="'logits2': must be a plain mean or the head"):
        Engine(quantize(graph))

    graph = patch_graph()
    graph.tensors["head.weight"] = graph.tensors["head.weight"][:3]
    with pytest.raises(ValueError, match="'head': must be a plain mean or the head"):
        Engine(quantize(graph))


def _damaged(where: str, key: str, value: object) -> Graph:
    """An int8 graph with another field, or another tensor where ``value`` is one."""
    graph = copy.deepcopy(quantize(patch_graph(steps=2, heads=1, soft_reset=True)))
    nodes = [*graph.populations, *graph.currents]
    node = next(
        n for n in [*nodes, *(p for c in graph.currents for p in c["projections"])]
        if n["name"] == where
    )  # fmt: skip
    if isinstance(value, np.ndarray):
        graph.tensors["damaged"], value = value, "damaged"
    node[key] = value
    return graph


INT32 = np.int32
DAMAGED = [
    ("lif0", "threshold", np.zeros(19, INT32), "'lif0': threshold must hold 20 values, got 19"),
    ("mix.lif2", "threshold", np.zeros(37, INT32), "'mix.lif2': threshold must hold 12 values"),
    ("lif0", "threshold", np.full(20, -(2**31), INT32), "'lif0': threshold must lie in"),
    ("lif0", "threshold", np.zeros(20, np.float32), "'lif0' tensor 'damaged' must be .* I32"),
    ("lif0", "threshold", None, "'lif0': threshold must hold 20 values, got 0"),
    ("lif0", "reset", None, "'lif0': reset must hold 20 values, got 0"),
    ("lif0", "reset", np.full(20, -1, INT32), "'lif0': reset must lie in"),
    ("lif0", "decay", 2**15 + 1, "'lif0': decay must lie in"),
    ("lif0", "decay", 0.5, "'lif0' 'decay' must be an integer"),
    ("c0", "bias", np.full(20, 2**31 - 1, INT32), "'c0': bias must lie in"),
    ("c0", "bias", np.zeros(3, INT32), "'c0': bias must hold 20 values, got 3"),
    ("conv1", "shift", 33, "'conv1': shift must lie in"),
    ("conv1", "shift", -1, "'conv1': shift must lie in"),
    ("conv0", "shift", 17, "'conv0': shift must lie in"),
    ("conv1", "multiplier", np.ones(31, INT32), "'conv1': multiplier must hold 32 values, got 31"),
    ("mix.stm", "multiplier", np.ones(37, INT32), "'mix.stm': token mixing takes no multiplier"),
    ("conv1", "weight", np.ones((32, 20, 3, 3), np.float32), "'conv1' tensor .* must be .* I8"),
    ("conv1", "weight", np.ones((32, 20, 3), np.int8), "'conv1': weight must be"),
    ("conv0", "weight", np.full((20, 3, 3, 3), 2**15 - 1, np.int16), "'c0': its integers may ove"),
    ("logits", "scale", np.ones(4, np.float32), "'logits': scale must hold 5 values, got 4"),
    ("logits", "bias", np.full(5, np.inf, np.float32), "'logits': bias .* not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "key", "value", "message"), DAMAGED)
def test_bad_integer_graphs_are_refused_by_name(
    where: str, key: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(_damaged(where, key, value))


@pytest.mark.parametrize("shift", [-1, 25])
def test_bad_input_shifts(shift: int) -> None:
    graph = quantize(patch_graph())
    graph.input_shift = shift
    with pytest.raises(ValueError, match=r"'input': input_shift must lie in \[0, 24\]"):
        Engine(graph)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_input_limits(limit: float) -> None:
    with pytest.raises(ValueError, match="input_limit must be positive and finite"):
        quantize(patch_graph(), input_limit=limit)


def test_files_and_copies(tmp_path: Path) -> None:
    graph = patch_graph(image=(3, 8, 8), channels=(64, 128), steps=2, soft_reset=True)
    exact, engine = Engine(graph), Engine(quantize(graph, ["mix.fc"], 5.0), 1)
    path = tmp_path / "m.stmx"
    engine.save(path)
    loaded = Engine.load(path)
    x = images(graph, 3)
    expected = engine.run(x, record=True)
    for other in (loaded, copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert other.precision == "int8" and "int8" in repr(other)
        result = other.run(x, record=True)
        np.testing.assert_array_equal(result.logits, expected.logits)
        assert list(result.stats) == list(expected.stats)
        for name, spikes in expected.spikes.items():
            np.testing.assert_array_equal(result.spikes[name], spikes)
    loaded.save(tmp_path / "again.stmx")
    assert (tmp_path / "again.stmx").read_bytes() == path.read_bytes()
    assert (exact(x) != expected.logits).any()


def test_sops_and_macs_are_those_of_the_float32_network() -> None:
    graph = patch_graph(steps=2)
    x = images(graph, 2)
    exact = {s.name: s for s in Engine(graph).run(x).stats}
    stats = Engine(quantize(graph)).run(x).stats
    assert [s.name for s in stats] == list(exact)
    for layer in stats:
        assert (layer.neurons, layer.macs) == (exact[layer.name].neurons, exact[layer.name].macs)
    lif2 = stats["mix.lif2"]
    assert lif2.sops == 37 * lif2.spikes > 0
