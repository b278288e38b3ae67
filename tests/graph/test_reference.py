"""The reference executor against NumPy, and graphs with kinds that the engine lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.engine_cases import Oracle, clocked_graph, images, patch_graph, run_checked

import stmixer_ops as so
from stmixer_ops.graph import Graph, stmx
from stmixer_ops.graph.quantize import quantize
from stmixer_ops.graph.reference import Reference, run_reference

GRAPHS = {
    "patch": lambda: patch_graph(steps=3, heads=1, decay=0.75),
    "patch, soft": lambda: patch_graph(steps=2, overlap=3, soft_reset=True, v_init=0.25),
    "clocked": clocked_graph,
    "clocked, soft": lambda: clocked_graph(soft_reset=True, threshold=0.625, input_scale=0.5),
}


def assert_reference(graph: Graph, x: np.ndarray, result: Reference) -> None:
    """Every membrane is NumPy's, and so every spike, but where rounding decides."""
    oracle = Oracle(graph, x, result.spikes)
    seen = []
    for name, u, fired in oracle.membranes():
        distances = oracle.flat(result.distances[name])
        np.testing.assert_allclose(distances, u, rtol=0, atol=1e-12, err_msg=name)
        assert (fired == (distances >= 0)).all() and 0.02 < fired.mean() < 0.98, name
        seen.append(name)
    assert seen == list(result.spikes)
    np.testing.assert_allclose(result.logits, oracle.logits(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("sequence", [False, True])
def test_the_reference_is_what_numpy_computes(name: str, sequence: bool) -> None:
    graph = GRAPHS[name]()
    graph.batch_first = sequence
    x = images(graph, 2, 4 if sequence else None)
    x = x.swapaxes(0, 1) if sequence else x
    result = run_reference(graph, x, distances=True)
    assert_reference(graph, x, result)
    assert not run_reference(graph, torch.from_numpy(x)).distances


def test_neurons_with_values_per_channel_and_several_spikes() -> None:
    """One neuron per channel, a constant input: the membrane, step by step."""
    graph = Graph(steps=4)
    graph.add_input("input", (3, 1, 1))
    graph.add_current("c", (3, 1, 1), [graph.projection("in", "linear", "input", np.eye(3))])
    graph.add_lif("lif", "c", (3, 1, 1), threshold=[1.0, 0.5, 2.0], decay=[0.5, 1.0, 0.0],
                  v_init=[0.0, 1.5, 9.0], soft_reset=True, max_spikes=3)  # fmt: skip
    spikes = graph.projection("out", "linear", "lif", np.eye(3))
    graph.add_current("o", (3, 1, 1), [spikes])
    graph.add_current("m", (3, 1, 1), [graph.projection("mean", "mean", "o")])
    graph.add_readout("logits", "m", 3)
    x = np.array([1.25, 0.75, 3.0]).reshape(1, 3, 1, 1)
    result = run_reference(graph, x)
    # 1.25 -> .25; .125 + 1.25 -> .375; .1875 + 1.25 -> .4375; .21875 + 1.25
    # 1.5 + .75 = 2.25, four thresholds, three spikes -> .75; 1.5: three -> 0; .75: one -> .25; 1: 2
    # 3 a step, whatever was before
    expected = [[1, 3, 1], [1, 3, 1], [1, 1, 1], [1, 2, 1]]
    np.testing.assert_array_equal(result.spikes["lif"].reshape(4, 3), expected)
    np.testing.assert_array_equal(result.logits, [np.mean(expected, axis=0)])
    graph.populations[1]["threshold"] = 0.0
    with pytest.raises(ValueError, match="lif: threshold must be positive for several spikes"):
        run_reference(graph, x)


@pytest.mark.parametrize("make", [patch_graph, clocked_graph])
def test_given_spikes_keep_a_flip_where_it_happened(make) -> None:
    graph = make(steps=3, soft_reset=True)
    x = images(graph, 2)
    own = run_reference(graph, x, distances=True)
    again = run_reference(graph, x, own.spikes, distances=True)
    first, *_, last = own.spikes
    given = {name: spikes.copy() for name, spikes in own.spikes.items()}
    given[first][0] ^= 1
    changed = run_reference(graph, x, given, distances=True)
    for name in own.spikes:
        np.testing.assert_array_equal(again.distances[name], own.distances[name])
    # Of the population itself only what it is reset by; of the later ones what they are fed.
    np.testing.assert_array_equal(changed.distances[first][0], own.distances[first][0])
    assert (changed.distances[first][1] != own.distances[first][1]).all()
    oracle = Oracle(graph, x, given)
    for name, u, _ in oracle.membranes():
        distances = oracle.flat(changed.distances[name])
        np.testing.assert_allclose(distances, u, rtol=0, atol=1e-12, err_msg=name)
    with pytest.raises(ValueError, match=rf"spikes of {last} must be \[3, 2, .*, got None"):
        run_reference(graph, x, {k: v for k, v in given.items() if k != last})
    with pytest.raises(ValueError, match=rf"spikes of {last} must be \[3, 2, .*, got \[1"):
        run_reference(graph, x, given | {last: given[last][:1]})


def test_the_engine_follows_the_reference() -> None:
    graph = patch_graph(steps=3)
    x = images(graph, 4)
    result = run_checked(graph, x)
    reference = run_reference(graph, x, result.spikes, distances=True)
    for name, spikes in result.spikes.items():
        wrong = reference.spikes[name] != spikes
        assert spikes.shape == reference.spikes[name].shape
        assert (np.abs(reference.distances[name][wrong]) < 1e-4).all()
    np.testing.assert_allclose(result.logits, reference.logits, rtol=1e-4, atol=1e-5)


def test_what_the_reference_does_not_run() -> None:
    graph = patch_graph()
    with pytest.raises(ValueError, match="runs float32 graphs, got int8"):
        run_reference(quantize(graph), images(graph, 1))
    with pytest.raises(ValueError, match=r"x must be \[B, \*\[3, 8, 6\]\] or .*, got \[3, 8, 6\]"):
        run_reference(graph, images(graph, 1)[0])
    next(c for c in graph.currents if c["name"] == "stream0")["currents"] = ["mean"]
    with pytest.raises(ValueError, match="'stream0': adds 'mean' of another shape"):
        run_reference(graph, images(graph, 1))
    one = Graph(steps=2)
    one.add_input("input", (1, 1, 1))
    one.add_current("m", (1, 1, 1), [one.projection("mean", "mean", "input")])
    one.add_current("c", (1, 1, 1), [one.projection("in", "identity", "input")], ["m"])
    one.add_readout("logits", "c", 1)
    x = np.ones((1, 1, 1, 1))
    with pytest.raises(ValueError, match="c adds a mean over time to what varies in time"):
        run_reference(one, x)
    one.currents[-1]["currents"] = []
    with pytest.raises(ValueError, match="logits must read a mean over time"):
        run_reference(one, x)
    one.populations[-1]["current"] = "m"
    one.add_lif("lif", "m", (1, 1, 1))
    with pytest.raises(ValueError, match="lif must not integrate a mean over time"):
        run_reference(one, x)


# -- Kinds of nodes -------------------------------------------------------------------------------


def _change(where: str, **fields) -> Graph:
    graph = clocked_graph()
    nodes = [*graph.populations, *graph.currents]
    nodes += [p for c in graph.currents for p in c["projections"]]
    next(n for n in nodes if n["name"] == where).update(fields)
    return graph


def test_graphs_of_every_kind_are_kept() -> None:
    graph = clocked_graph()
    again = stmx.decode(stmx.encode(graph))
    assert again.description() == graph.description()
    assert again.tensors.keys() == graph.tensors.keys()
    clocked = [p["name"] for c in graph.currents for p in c["projections"] if p["clocked_only"]]
    assert clocked == ["pool0", "attn"]


@pytest.mark.parametrize(
    ("where", "fields", "message"),
    [
        ("pool0", {"kernel": 0}, "'pool0': kernel size must lie in"),
        ("pool0", {"kernel": 1 << 21}, "'pool0': kernel size must lie in"),
        ("pool0", {"stride": 0}, "'pool0': stride must be at least 1"),
        ("pool0", {"padding": -1}, "'pool0': padding must not be negative"),
        ("pool0", {"kernel": 2, "padding": 1, "stride": 2}, "gives 5x5 positions"),
        ("pool1", {"kernel": 4, "padding": 2, "stride": 1}, "'pool1': gives 6x5 positions"),
        ("pool0", {"kernel": 5, "padding": 3, "stride": 3}, "'pool0': padding must be at"),
        ("pool0", {"clocked_only": False}, "'pool0': max_pool must be marked clocked_only"),
        ("attn", {"clocked_only": False}, "'attn': spike_product must be marked clocked_only"),
        ("pool1", {"weight": "head.weight"}, "'pool1' has an unknown field 'weight'"),
        ("skip1", {"weight": "head.weight"}, "'skip1' has an unknown field 'weight'"),
        ("pool0", {"source": "logits"}, "'pool0': reads 'logits', the readout"),
        ("skip1", {"source": "lif0"}, r"'skip1': joins \[6, 9, 8\] to .*: positions differ"),
        ("skip0", {"channel_offset": 3}, "'skip0': writes channels 3 to 9 of 8"),
        ("attn", {"heads": 3}, "'attn': 3 heads do not divide 8 channels"),
        ("attn", {"heads": 8}, "'attn': 8 heads do not divide 12 channels"),
        ("attn", {"heads": 0}, "'attn': 0 heads do not divide"),
        ("attn", {"scale": float("inf")}, "'attn': scale must be finite"),
        ("attn", {"key": "q.lif"}, r"'attn': multiplies a query .*, a key \[8, 1, 20\]"),
        ("attn", {"key": "v.lif"}, r"'attn': multiplies .* a key \[12, 1, 9\]"),
        ("attn", {"source": "k.lif"}, r"'attn': multiplies a query \[8, 1, 9\]"),
        ("attn", {"value": "nowhere"}, "'attn': reads 'nowhere', which does not exist"),
        ("attn", {"key": "stream"}, "'attn': reads 'stream', which is no population"),
        ("attn", {"value": "logits"}, "'attn': reads 'logits', the readout"),
        ("attn", {"key": 3}, "'attn' 'key' must be a string"),
        ("attn", {"value": "attn.lif", "key": "sums"}, "is part of a cycle"),
        ("pooled", {"current": "lif0"}, "'pooled': reads 'lif0', which is no current"),
        ("pooled", {"threshold": 1.0}, "'pooled' has an unknown field 'threshold'"),
        ("pool0", {"kind": "min_pool"}, "'pool0' is of unknown kind 'min_pool'"),
    ],
)
def test_bad_nodes_are_refused_by_name(where: str, fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stmx.check(_change(where, **fields))


def test_graded_populations_have_the_shape_of_their_current() -> None:
    graph = clocked_graph()
    graph.add_graded("extra", "p0", (6, 19))
    with pytest.raises(ValueError, match=r"'extra': has shape \[6, 1, 19\], its current \[6, 5, 4"):
        stmx.check(graph)


def test_fields_of_other_kinds_are_refused() -> None:
    graph = Graph()
    for kind, fields in (("linear", {"stride": 2}), ("conv", {"kernel": 3}), ("mean", {"heads": 2}),
                         ("max_pool", {"scale": 0.5}), ("identity", {"key": "q"})):  # fmt: skip
        (field,) = fields
        with pytest.raises(ValueError, match=f"p: {kind} takes no {field}, got "):
            graph.projection("p", kind, "x", **fields)


def test_what_the_engine_lacks_is_refused_by_name() -> None:
    message = (
        r"cannot express 'pooled' \(graded values\), 'pool0' \(max_pool\), 'skip0' \(identity\), "
        r"'pool1' \(avg_pool\), 'attn' \(spike_product\)$"
    )
    with pytest.raises(ValueError, match=message):
        so.Engine(clocked_graph())
    with pytest.raises(ValueError, match="content of .* is not a usable engine file: .*'attn'"):
        so.Engine.load(stmx.encode(clocked_graph()))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("pool0", "'pool0': an int8 network has no max_pool"),
        ("pooled", "'pooled': an int8 network has no graded population"),
    ],
)
def test_integers_know_no_such_nodes(node: str, message: str) -> None:
    with pytest.raises(ValueError, match="int8: pooled: no integers are defined for graded"):
        quantize(clocked_graph())
    graph = quantize(patch_graph(image=(2, 5, 4), channels=(4, 8)))
    c0 = next(c for c in graph.currents if c["name"] == "c0")
    if node == "pooled":
        graph.add_graded(node, "c0", (4, 5, 4))
    else:
        c0["projections"] = [
            graph.projection(node, "max_pool", "lif0", kernel=3, padding=1),
            *c0["projections"],
        ]
        graph.populations = [p | {"current": "c0"} if p["name"] == "x" else p
                             for p in graph.populations]  # fmt: skip
        c0["projections"][0]["source"] = "input"
        c0["shape"] = [4, 5, 4]
    with pytest.raises(ValueError, match=message):
        stmx.check(graph)
