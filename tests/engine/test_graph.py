"""The engine on hand-made graphs, against NumPy in float64, and against itself."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.drawn import drawn_sizes
from support.engine_cases import (
    check_locally,
    conv2d,
    images,
    in_precision,
    patch_graph,
    run_checked,
)
from support.ops_calls import AT_THE_THRESHOLD

from stmixer_ops.engine import Engine
from stmixer_ops.engine.graph import PRECISIONS, Graph

SHAPES = [
    {},
    {"image": (1, 5, 5), "channels": (3, 7), "heads": 7},
    {"image": (2, 9, 16), "channels": (33, 40), "kernel": 5, "stride": 1, "padding": 2, "heads": 4},
    {"image": (3, 8, 8), "channels": (16, 48), "kernel": 1, "stride": 1, "padding": 0, "heads": 3},
    {"image": (3, 8, 8), "channels": (100, 24), "kernel": 4, "stride": 2, "padding": 3, "heads": 2},
    {"image": (3, 7, 11), "channels": (257, 130), "kernel": 2, "stride": 3, "padding": 0},
    {"image": (4, 12, 12), "channels": (48, 96), "heads": 6},
    {"overlap": 3},
    {"overlap": -2},
]
NEURONS = [
    {},
    {"soft_reset": True},
    {"decay": 0.9},
    {"decay": 1.0, "soft_reset": True, "threshold": 1.3},
    {"input_scale": 0.5, "v_init": 0.25, "threshold": 0.4},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3])
def test_every_spike_follows_from_its_sources(shape: dict, steps: int, isa: str) -> None:
    graph = patch_graph(steps=steps, **shape)
    result = run_checked(graph, images(graph, 3))
    rates = [layer.rate for layer in result.stats if layer.neurons]
    assert min(rates) > 0.02, "a silent population proves nothing"


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_sizes(data: st.DataObject) -> None:
    draw = data.draw
    sizes = drawn_sizes(draw, kernels=5, channels=70, per_head=20, steps=3)
    graph = patch_graph(**sizes, decay=draw(st.sampled_from([0.5, 0.9])))
    x = images(graph, draw(st.integers(1, 3)), draw(st.sampled_from([None, 1, 2])))
    run_checked(graph, x, num_threads=draw(st.integers(1, 3)))


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("sequence", [False, True])
def test_neurons(neuron: dict, sequence: bool, isa: str) -> None:
    graph = patch_graph(steps=4, **neuron)
    run_checked(graph, images(graph, 2, steps=5 if sequence else None))


@pytest.mark.parametrize("soft_reset", [False, True])
def test_a_membrane_at_the_threshold_fires_and_is_reset(soft_reset: bool, isa: str) -> None:
    """Exact numbers, where the oracles' tolerance would say nothing."""
    graph = Graph(steps=3)
    one = graph.projection("conv", "conv", graph.add_input("x", (1, 2, 3)), np.ones((19, 1, 1, 1)))
    graph.add_current("c", (19, 2, 3), [one])
    lif = graph.add_lif("lif", "c", (19, 2, 3), soft_reset=soft_reset)
    graph.add_current("s", (2, 2, 3), [graph.projection("fc", "conv", lif, np.ones((2, 19, 1, 1)))])
    graph.add_current("mean", (2, 1, 1), [graph.projection("pool", "mean", "s")])
    head = graph.projection("head", "linear", "mean", np.ones((2, 2)))
    graph.add_current("logits", (2, 1, 1), [head])
    graph.add_readout("out", "logits", 2)
    currents, expected = AT_THE_THRESHOLD
    x = np.empty((3, 1, 1, 2, 3), np.float32)
    x[:] = np.reshape(currents, (3, 1, 1, 1, 1))
    spikes = Engine(graph).run(x, record=True).spikes["lif"]
    assert [set(step.flat) for step in spikes] == [{s} for s in expected]


def test_static_image_equals_its_sequence() -> None:
    graph = patch_graph(steps=3)
    x = images(graph, 2)
    engine = Engine(graph)
    sequence = np.broadcast_to(x, (3, *x.shape))  # time stride 0
    np.testing.assert_array_equal(engine(x), engine(sequence))
    np.testing.assert_array_equal(engine(x), engine(np.ascontiguousarray(sequence)))
    assert (engine(x) != engine(sequence[:1])).any(), "T must matter here"


def test_batch_first_sequences() -> None:
    graph = patch_graph(steps=3)
    x = images(graph, 2, steps=4)
    expected = Engine(graph).run(x, record=True)
    graph.batch_first = True
    result = run_checked(graph, np.ascontiguousarray(x.swapaxes(0, 1)))
    np.testing.assert_array_equal(result.logits, expected.logits)
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(result.spikes[name], spikes)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_threads_batch_or_isa(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = patch_graph(steps=2, image=(3, 16, 16), channels=(96, 131), decay=0.9)
    graph = in_precision(graph, precision, ["mix.fc"])
    x = images(graph, 16)
    expected = None
    for isa in ("scalar", "avx2", "avx512"):
        monkeypatch.setenv("STMIXER_CPU_ISA", isa)
        try:
            engines = [Engine(graph, threads) for threads in (1, 2, 3)]
        except RuntimeError:
            continue  # not on this machine
        for engine in engines:
            assert engine.isa == isa
            result = engine.run(x, record=True)
            expected = expected or result
            single = np.concatenate([engine(x[i : i + 1]) for i in range(16)])
            np.testing.assert_array_equal(result.logits, expected.logits)
            np.testing.assert_array_equal(single, expected.logits)
            for batch in (16, 7, 3, 2):  # also such as threads cannot share out evenly
                np.testing.assert_array_equal(engine(x[:batch]), expected.logits[:batch])
            for name, spikes in expected.spikes.items():
                np.testing.assert_array_equal(result.spikes[name], spikes, err_msg=name)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batches_larger_than_a_slice(precision: str) -> None:
    graph = patch_graph(image=(3, 32, 32), channels=(256, 256), steps=4)
    graph = in_precision(graph, precision)
    x = images(graph, 11)
    engine = Engine(graph)
    single = np.concatenate([engine(x[i : i + 1]) for i in range(11)])
    result = engine.run(x, record=True)
    np.testing.assert_array_equal(result.logits, single)
    np.testing.assert_array_equal(engine(x), single)
    part = engine.run(x[7:9], record=True)
    for name, spikes in result.spikes.items():
        np.testing.assert_array_equal(spikes[:, 7:9], part.spikes[name], err_msg=name)


def test_one_engine_serves_changing_sizes() -> None:
    graph = patch_graph(steps=2)
    engine = Engine(graph)
    first = engine(images(graph, 3))
    for batch, steps in [(1, None), (7, 5), (2, 1), (7, None), (1, 9)]:
        x = images(graph, batch, steps)
        check_locally(graph, x, engine.run(x, record=True))
    np.testing.assert_array_equal(engine(images(graph, 3)), first)


def test_strided_inputs_are_read_as_they_are() -> None:
    graph = patch_graph(image=(3, 8, 6), steps=2)
    engine = Engine(graph)
    x = images(graph, 4, steps=3)
    expected = engine(x)
    wide = np.zeros((3, 8, 3, 8, 6), np.float32)
    wide[:, ::2] = x
    np.testing.assert_array_equal(engine(wide[:, ::2]), expected)
    channels_last = np.ascontiguousarray(x.transpose(0, 1, 3, 4, 2)).transpose(0, 1, 4, 2, 3)
    np.testing.assert_array_equal(engine(channels_last), expected)
    np.testing.assert_array_equal(engine(x[::-1, ::-1]), engine(x[::-1, ::-1].copy()))


def test_sops_count_the_weights_that_were_added() -> None:
    graph = patch_graph(image=(3, 9, 7), channels=(6, 12), kernel=3, stride=2, padding=1)
    result = run_checked(graph, images(graph, 2))
    # With weights and source values of one, a convolution's output is its number of addends.
    spikes = result.spikes["lif0"].astype(np.float64).reshape(-1, 6, 9, 7)
    ones = np.ones((12 - 5, 6, 3, 3))
    assert result.stats["lif0"].sops == conv2d(spikes, ones, 2, 1).sum()
    tokens = 5 * 4
    lif1, lif2 = result.spikes["mix.lif1"], result.spikes["mix.lif2"]
    assert result.stats["mix.lif1"].sops == lif1.sum() * tokens
    assert result.stats["mix.lif2"].sops == lif2.sum() * 12
    assert result.stats["mix.lif2"].spikes == lif2.sum()
    assert result.stats["mix.lif2"].rate == pytest.approx(lif2.mean())


def mean_of_one_layer(steps: int = 1, base: bool = True, channels: int = 37) -> Graph:
    """`patch_graph` whose last current is a single layer, which only the mean reads."""
    graph = patch_graph(steps=steps, channels=(20, channels))
    stream = next(c for c in graph.currents if c["name"] == "stream2")
    stream["projections"] = [p for p in stream["projections"] if p["name"] == "late.fc2"]
    stream["currents"] = ["stream1"] if base else []
    stream["bias"] = "stream2.bias"
    graph.tensors["stream2.bias"] = np.linspace(-1, 1, channels, dtype=np.float32)
    del graph.tensors["late.fc1.weight"]
    return graph


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("channels", [7, 37, 160])
def test_the_mean_of_a_layer_reads_rates(steps: int, base: bool, channels: int) -> None:
    """mean(W s) = W mean(s): one row per channel, not per spike; counted as the spikes' sops."""
    graph = mean_of_one_layer(steps, base, channels)
    x = images(graph, 5)
    result = run_checked(graph, x)
    kernels = {s.name: s.kernel.split()[0] for s in Engine(graph).profile(x, 1)}
    assert kernels["late.fc2"] == "dense" and kernels["late.lif2 (rates)"] == "rates"
    assert result.stats["late.lif2"].sops == channels * result.spikes["late.lif2"].sum()
    assert "late.fc2" not in {layer.name for layer in result.stats if layer.macs}
    for threads in (1, 3):
        engine = Engine(graph, threads)
        np.testing.assert_array_equal(engine(x), result.logits)
        np.testing.assert_array_equal(engine(x[2:3]), result.logits[2:3])


@pytest.mark.parametrize("reader", ["neurons", "a biased mean"])
def test_a_layer_that_others_read_keeps_its_current(reader: str) -> None:
    graph = mean_of_one_layer(base=False)
    if reader == "neurons":
        graph.add_lif("late.lif3", "stream2", (37, 12))
    else:
        mean = next(c for c in graph.currents if c["name"] == "mean")
        mean["bias"] = "mean.bias"
        graph.tensors["mean.bias"] = np.linspace(1, -1, 37, dtype=np.float32)
    x = images(graph, 3)
    run_checked(graph, x)
    kernels = {s.name: s.kernel.split()[0] for s in Engine(graph).profile(x, 1)}
    assert kernels["late.fc2"] == "gather"


def test_macs_are_those_of_real_valued_layers() -> None:
    graph = patch_graph(image=(3, 9, 7), channels=(6, 12), steps=4)
    per_image = {"conv0": 6 * 9 * 7 * 27, "protect": 5 * 20 * 3 * 5 * 4, "head": 5 * 12}

    def macs(x: np.ndarray) -> dict[str, int]:
        return {layer.name: layer.macs for layer in Engine(graph).run(x).stats if layer.macs}

    assert macs(images(graph, 2)) == {k: 2 * v for k, v in per_image.items()}
    steps = {"conv0": 3, "protect": 3, "head": 1}  # the head reads a mean over time
    assert macs(images(graph, 2, 3)) == {k: 2 * steps[k] * v for k, v in per_image.items()}


def test_stats_are_those_of_the_latest_run() -> None:
    graph = patch_graph(steps=2)
    engine = Engine(graph)
    with pytest.raises(RuntimeError, match="run"):
        _ = engine.stats
    result = engine.run(images(graph, 3))
    assert engine.stats is result.stats and not result.spikes
    assert (result.stats.images, result.stats.steps) == (3, 2)
    recorded = engine.run(images(graph, 3), record=True)
    assert list(recorded.stats) == list(result.stats)
    lif = result.stats["late.lif1"]
    assert lif["rate"] == lif.rate == lif.spikes / (lif.neurons * 6)
    assert [layer.name for layer in result.stats if layer.neurons] == list(recorded.spikes)


def test_copies_and_pickles() -> None:
    graph = patch_graph()
    engine = Engine(graph, 1)
    x = images(graph, 2)
    for other in (copy.deepcopy(engine), pickle.loads(pickle.dumps(engine))):
        assert other.num_threads == 1
        np.testing.assert_array_equal(other(x), engine(x))


def _change(where: str, **fields):
    """A graph whose node called ``where`` says something else."""
    graph = patch_graph()
    nodes = [*graph.populations, *graph.currents]
    nodes += [p for c in graph.currents for p in c["projections"]]
    node = next(n for n in nodes if n["name"] == where)
    for key, value in fields.items():
        if isinstance(value, np.ndarray):
            graph.tensors[f"changed {key}"] = value
            value = f"changed {key}"
        node[key] = value
    return graph


@pytest.mark.parametrize(
    ("where", "fields", "message"),
    [
        ("lif0", {"current": "nowhere"}, "'lif0': reads 'nowhere', which does not exist"),
        ("lif0", {"current": "input"}, "'lif0': reads 'input', which is no current"),
        ("lif0", {"name": "mix.lif1"}, "'mix.lif1': this name is used twice"),
        ("lif0", {"threshold": float("nan")}, "'lif0': .* finite"),
        ("lif0", {"decay": 1.5}, "'lif0': decay"),
        ("mix.lif2", {"shape": [37, 1, 13]}, r"'mix.fc': joins .* positions differ"),
        ("late.lif2", {"shape": [36, 1, 12]}, r"'late.fc2': weight must be"),
        ("lif0", {"shape": [20, 8]}, "'lif0' 'shape'"),
        ("lif0", {"shape": [1 << 15, 4096, 4096]}, "'lif0': shape .* larger"),
        ("lif0", {"kind": "pooling"}, "'lif0' is of unknown kind 'pooling'"),
        ("lif0", {"decay": "fast"}, "'lif0' 'decay' must be a number"),
        ("stream0", {"currents": ["stream2"]}, "part of a cycle"),
        ("stream0", {"shape": [37, 0, 3]}, "'stream0': shape"),
        ("stream1", {"currents": ["c0"]}, "'stream1': adds 'c0' of another shape"),
        ("stream1", {"bias": "nowhere"}, "'stream1' tensor 'nowhere' is missing"),
        ("stream1", {"bias": np.ones(5, np.float32)}, "'stream1': bias must hold 37 values, got 5"),
        ("stream1", {"currents": ["mean"]}, "'stream1': adds 'mean' of another shape"),
        ("mix.current", {"bias": np.ones(37, np.float32)}, "'mix.current': token mixing"),
        ("conv1", {"stride": 0}, "'conv1': stride"),
        ("conv1", {"padding": -1}, "'conv1': padding"),
        ("conv1", {"padding": 3}, "'conv1': gives .* positions"),
        ("conv1", {"channel_offset": 6}, "'conv1': writes channels 6 to 38 of 37"),
        ("conv1", {"weight": np.ones((5, 37), np.float32)}, "'conv1': weight must be"),
        ("conv1", {"source": "logits"}, "'conv1': reads 'logits', the readout"),
        ("mix.stm", {"source": "stream0"}, "'mix.stm': mixes tokens of no spikes"),
        ("late.fc1", {"weight": "mix.fc.weight"}, "'mix.fc.weight' is used twice"),
        (
            "lif0",
            {"shape": [20, 8, 6], "tokens": True},
            r"'lif0': shape .* \[channels, 1, tokens\]",
        ),
        ("pool", {"source": "late.lif1"}, "'pool': averages no current"),
        ("logits", {"current": "head2"}, "'logits': reads 'head2', which does not exist"),
        ("logits", {"current": "stream2"}, "'logits': has shape"),
        ("head", {"shape": [4, 1, 1]}, "'head': writes channels 0 to 5 of 4"),
    ],
)
def test_bad_graphs_are_refused_by_name(where: str, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(_change(where, **fields))


def test_token_mixing_must_fill_its_current() -> None:
    graph = patch_graph()
    nodes = [*graph.populations, *graph.currents]
    for node in nodes:
        if node["name"] in ("mix.current", "mix.lif2"):
            node["shape"] = [40, 1, 12]
    graph.tensors["mix.fc.weight"] = np.zeros((37, 40), np.float32)
    with pytest.raises(ValueError, match="'mix.current': token mixing"):
        Engine(graph)


def test_a_mean_may_fill_a_part_of_its_current() -> None:
    graph = patch_graph()
    for current in graph.currents:
        if current["name"] == "mean":
            current["shape"] = [40, 1, 1]
    head = graph.tensors["head.weight"]
    graph.tensors["head.weight"] = np.pad(head, ((0, 0), (0, 3)), constant_values=1e6)
    run_checked(graph, images(graph, 3))


def test_missing_ends_and_values_that_are_not_finite() -> None:
    graph = patch_graph()
    graph.populations = graph.populations[:-1]
    with pytest.raises(ValueError, match="one input and one readout"):
        Engine(graph)
    graph = patch_graph()
    graph.tensors["mix.stm.weight"][0, 1, 2] = np.inf
    with pytest.raises(ValueError, match=r"'mix\.stm': weight holds a value that is not finite"):
        Engine(graph)
    graph = patch_graph()
    graph.tensors["head.weight"] = graph.tensors["head.weight"].astype(np.float64)
    with pytest.raises(ValueError, match=r"head\.weight.*float32"):
        Engine(graph)


@pytest.mark.parametrize("threads", [0, -1, True, 2.0, 4096])
def test_bad_thread_counts(threads) -> None:
    with pytest.raises(ValueError, match="threads"):
        Engine(patch_graph(), threads)
