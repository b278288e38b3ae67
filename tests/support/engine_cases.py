"""Hand-made graphs, and the engine's meaning spelt out in NumPy float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from stmixer_ops.engine import Engine, Graph, RunResult
from stmixer_ops.engine.quantize import quantize

TOLERANCE = 1e-4  # nearer to the threshold than this, float32 may round a spike away


def weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random weights whose sums over typical spikes are about as large as a threshold."""
    fan_in = int(np.prod(shape[1:])) if len(shape) != 3 else shape[2]
    return rng.normal(0, 2 / np.sqrt(fan_in), shape).astype(np.float32)


def conv2d(x: np.ndarray, w: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """``x [R, C, H, W]``, ``w [O, C, kh, kw]``, tap by tap."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kh, kw = w.shape[2:]
    height = (x.shape[2] - kh) // stride + 1
    width = (x.shape[3] - kw) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], height, width))
    for i in range(kh):
        for j in range(kw):
            seen = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            y += np.einsum("oc,rchw->rohw", w[:, :, i, j], seen)
    return y


def pooled(x: np.ndarray, p: dict) -> np.ndarray:
    """``x [R, C, H, W]``, window by window."""
    k, stride, pad = p["kernel"], p["stride"], p["padding"]
    largest = p["kind"] == "max_pool"
    padded = np.pad(
        x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf if largest else 0
    )
    rows, columns = ((n - k) // stride + 1 for n in padded.shape[2:])
    y = np.empty((*x.shape[:2], rows, columns))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, :, i, j] = window.max((2, 3)) if largest else window.sum((2, 3)) / k**2
    return y


class Oracle:
    """Recomputes every population from what the engine says its sources did.

    ``membranes()`` yields (name, v - threshold, spikes), each ``[T, B, C, N]``; a membrane is reset
    by the recorded spikes, so an allowed difference does not spread.
    """

    number: type = np.float64

    def __init__(self, graph: Graph, x: np.ndarray, spikes: dict[str, np.ndarray]) -> None:
        if x.ndim == 4:
            x = np.broadcast_to(x, (graph.steps, *x.shape))
        elif graph.batch_first:
            x = x.swapaxes(0, 1)
        self.graph = graph
        self.steps, self.batch = x.shape[:2]
        self.currents = {c["name"]: c for c in graph.currents}
        self.shapes = {n["name"]: n["shape"] for n in [*graph.populations, *graph.currents]}
        self.emitted = {name: self.flat(s) for name, s in spikes.items()}
        for population in graph.populations:
            if population["kind"] == "input":
                self.emitted[population["name"]] = self.flat(x)
        self.graded = {p["name"]: p["current"] for p in graph.populations if p["kind"] == "graded"}
        self.sums: dict[str, np.ndarray] = {}

    def flat(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(values, self.number).reshape(self.steps, self.batch, values.shape[2], -1)

    def current(self, name: str) -> np.ndarray:
        """``[T, B, C, N]``, or ``[1, B, C, 1]`` for what comes after a mean."""
        if name not in self.sums:
            c = self.currents[name]
            terms = [self.current(other) for other in c["currents"]]
            terms += [self.projected(p, c["shape"]) for p in c["projections"]]
            total = np.sum(np.broadcast_arrays(*terms), axis=0)
            if c["bias"] is not None:
                total = total + self.graph.tensors[c["bias"]].astype(self.number)[:, None]
            self.sums[name] = total
        return self.sums[name]

    def projected(self, p: dict, shape: list[int]) -> np.ndarray:
        """The projection's channels of its current, zeros elsewhere."""
        y = self.weighted(p, self.source(p["source"]))
        whole = np.zeros((*y.shape[:2], shape[0], y.shape[3]), self.number)
        whole[:, :, p["channel_offset"] : p["channel_offset"] + y.shape[2]] = y
        return whole

    def source(self, name: str) -> np.ndarray:
        emitted = self.emitted.get(name)
        return self.current(self.graded.get(name, name)) if emitted is None else emitted

    def weighted(self, p: dict, x: np.ndarray) -> np.ndarray:
        if p["kind"] == "mean":
            return x.mean((0, 3), keepdims=True)
        if p["kind"] == "identity":
            return x
        if p["kind"] in ("max_pool", "avg_pool"):
            y = pooled(x.reshape(-1, *self.shapes[p["source"]]), p)
            return y.reshape(*x.shape[:3], -1)
        if p["kind"] == "spike_product":
            parts = [self.source(p[key]) for key in ("source", "key", "value")]
            q, k, v = (s.reshape(*s.shape[:2], p["heads"], -1, s.shape[3]) for s in parts)
            y = np.einsum("tbhdi,tbhdj,tbhcj->tbhci", q, k, v) * p["scale"]
            return y.reshape(*x.shape[:2], -1, x.shape[3])
        w = self.graph.tensors[p["weight"]].astype(np.float64)
        if p["kind"] == "linear":
            return np.einsum("oc,tbcn->tbon", w, x)
        if p["kind"] == "token_mix":
            heads = x.reshape(*x.shape[:2], len(w), -1, x.shape[3])
            y = np.einsum("hmn,tbhcn->tbhcm", w, heads)
            return y.reshape(*x.shape[:3], -1)
        image = x.reshape(-1, *self.shapes[p["source"]])
        y = conv2d(image, w, p["stride"], p["padding"])
        return y.reshape(*x.shape[:2], *y.shape[1:2], -1)

    def membranes(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for p in self.graph.populations:
            if p["kind"] != "lif":
                continue
            x, fired = self.current(p["current"]), self.emitted[p["name"]]
            threshold, decay, v = (self.of_neurons(p[k]) for k in ("threshold", "decay", "v_init"))
            u = np.empty_like(x)
            for t in range(self.steps):
                v = decay * v + p["input_scale"] * x[t]
                u[t] = v - threshold
                v = v - threshold * fired[t] if p["soft_reset"] else v * (1 - fired[t])
            yield p["name"], u, fired

    def of_neurons(self, value: float | str) -> np.ndarray:
        """A number, or the tensor of one per channel, for ``[B, C, N]``."""
        values = self.graph.tensors[value] if isinstance(value, str) else value
        return np.asarray(values, np.float64).reshape(-1, 1)

    def logits(self) -> np.ndarray:
        readout = next(p for p in self.graph.populations if p["kind"] == "readout")
        return self.current(readout["current"])[0, :, :, 0]


class IntegerOracle(Oracle):
    """An int8 graph carried out in integers of 64 bits, from the input on.

    ``emitted`` holds the spikes of every population, ``logits()`` is float32; both are exact.
    """

    number = np.int64
    limit = 2**30  # where membranes saturate

    def __init__(self, graph: Graph, x: np.ndarray) -> None:
        steps = np.rint(x.astype(np.float64) * 2.0**graph.input_shift)
        super().__init__(graph, np.clip(steps, -(2**15), 2**15 - 1), {})
        for p in graph.populations:
            if p["kind"] == "lif":
                self.emitted[p["name"]] = self.fire(p)

    def fire(self, p: dict) -> np.ndarray:
        x = self.current(p["current"])
        threshold, reset = (self.per_neuron(p, p[key]) for key in ("threshold", "reset"))
        v, fired = np.zeros_like(x[0]), np.empty_like(x)
        for t in range(self.steps):
            v = np.clip(v, -self.limit, self.limit) * p["decay"] + 2**14 >> 15
            v = v + x[t]
            fired[t] = v >= threshold
            v = np.where(v >= threshold, v - reset if p["soft_reset"] else 0, v)
        return fired

    def per_neuron(self, p: dict, name: str | None) -> np.ndarray | int:
        """Values per channel, or after token mixing per head and token, for ``[B, C, N]``."""
        if name is None:
            return 0
        values = self.graph.tensors[name].astype(np.int64)
        projections = self.currents[p["current"]]["projections"]
        if projections and projections[0]["kind"] == "token_mix":
            heads = self.graph.tensors[projections[0]["weight"]].shape[0]
            return values.reshape(heads, -1).repeat(p["shape"][0] // heads, axis=0)
        return values[:, None]

    def weighted(self, p: dict, x: np.ndarray) -> np.ndarray:
        if p["kind"] == "mean":
            count = x.shape[0] * x.shape[3]
            return (2 * x.sum((0, 3), keepdims=True) + count) // (2 * count)
        if p["source"] in self.currents:  # the head, whose sums need 64 bits
            w = self.graph.tensors[p["weight"]].astype(np.int64)
            return np.einsum("oc,tbcn->tbon", w, x)
        sums = super().weighted(p, x)  # in float64, which holds these integers
        assert np.abs(sums).max() < 2**31
        sums = sums.astype(np.int64)
        if p["multiplier"] is None:
            return sums << p["shift"]
        factor = self.graph.tensors[p["multiplier"]].astype(np.int64)[:, None]
        return sums * factor + (1 << p["shift"] >> 1) >> p["shift"]

    def logits(self) -> np.ndarray:
        readout = next(p for p in self.graph.populations if p["kind"] == "readout")
        scale, bias = (self.graph.tensors[readout[key]] for key in ("scale", "bias"))
        return scale * super().logits().astype(np.float32) + bias


def check_locally(graph: Graph, x: np.ndarray, result: RunResult) -> None:
    """Every population agrees with float64 from its own sources' recorded spikes."""
    oracle = Oracle(graph, x, {k: np.asarray(v) for k, v in result.spikes.items()})
    checked = 0
    for name, u, fired in oracle.membranes():
        decided = np.abs(u) >= TOLERANCE
        wrong = ((u >= 0) != (fired > 0)) & decided
        assert not wrong.any(), f"{name}: {wrong.sum()} of {wrong.size} spikes"
        assert decided.mean() > 0.99, f"{name}: nearly everything is undecided"
        checked += 1
    assert checked == len(result.spikes) > 0
    np.testing.assert_allclose(np.asarray(result.logits), oracle.logits(), rtol=1e-4, atol=1e-5)


def run_checked(graph: Graph, x: np.ndarray, num_threads: int = 2) -> RunResult:
    result = Engine(graph, num_threads).run(x, record=True)
    check_locally(graph, x, result)
    return result


def run_exactly(graph: Graph, x: np.ndarray, num_threads: int = 2) -> RunResult:
    """An int8 graph through the engine: every spike and every logit is the oracle's."""
    result = Engine(graph, num_threads).run(x, record=True)
    oracle = IntegerOracle(graph, x)
    assert result.spikes
    for name, spikes in result.spikes.items():
        np.testing.assert_array_equal(
            oracle.flat(spikes), oracle.emitted[name], err_msg=name, strict=True
        )
    np.testing.assert_array_equal(result.logits, oracle.logits(), strict=True)
    return result


def patch_graph(
    *,
    image: tuple[int, int, int] = (3, 8, 6),
    channels: tuple[int, int] = (20, 37),
    kernel: int = 3,
    stride: int = 2,
    padding: int = 1,
    heads: int = 1,
    steps: int = 1,
    classes: int = 5,
    seed: int = 0,
    overlap: int = 0,
    **lif: Any,
) -> Graph:
    """A small network with each kind of node: convolutions, concatenation (of which `overlap`
    channels are written twice, or if negative never), token mixing, a residual stream that several
    populations read, mean and head."""
    rng = np.random.default_rng(seed)
    a, b = channels
    protect = 5
    g = Graph(steps=steps)
    _, height, width = image
    x = g.add_input("input", image)
    first = g.projection("conv0", "conv", x, weights(rng, a, image[0], 3, 3), padding=1)
    g.add_current("c0", (a, height, width), [first], bias=rng.normal(0, 0.3, a))
    s = g.add_lif("lif0", "c0", (a, height, width), **lif)
    h, w = ((n + 2 * padding - kernel) // stride + 1 for n in (height, width))
    spiking = g.projection(
        "conv1", "conv", s, weights(rng, b - protect + overlap, a, kernel, kernel),
        stride=stride, padding=padding, channel_offset=protect - overlap,
    )  # fmt: skip
    kh, kw = height - h + 1, width - w + 1
    direct = g.projection("protect", "conv", x, weights(rng, protect, image[0], kh, kw))
    g.add_current("stream0", (b, h, w), [direct, spiking], bias=rng.normal(0, 0.3, b))
    n = h * w
    s = g.add_lif("mix.lif1", "stream0", (b, n), **lif)
    mixed = g.projection("mix.stm", "token_mix", s, weights(rng, heads, n, n))
    g.add_current("mix.current", (b, n), [mixed])
    s2 = g.add_lif("mix.lif2", "mix.current", (b, n), **lif)
    out = g.projection("mix.fc", "linear", s2, weights(rng, b, b))
    g.add_current("stream1", (b, n), [out], ["stream0"], rng.normal(0, 0.3, b))
    s3 = g.add_lif("late.lif1", "stream1", (b, n), **lif)
    s4 = g.add_lif("late.lif2", "stream1", (b, n), threshold=0.5, decay=0.25)
    both = [
        g.projection("late.fc1", "linear", s3, weights(rng, b, b)),
        g.projection("late.fc2", "linear", s4, weights(rng, b, b)),
    ]
    g.add_current("stream2", (b, n), both, ["stream1", "stream0"])
    g.add_current("mean", (b, 1, 1), [g.projection("pool", "mean", "stream2")])
    head = g.projection("head", "linear", "mean", weights(rng, classes, b))
    g.add_current("head", (classes, 1, 1), [head], bias=rng.normal(0, 0.3, classes))
    g.add_readout("logits", "head", classes)
    return g


def clocked_graph(steps: int = 3, seed: int = 0, **lif: Any) -> Graph:
    """A small network with the kinds of nodes that `patch_graph` lacks: pools, graded populations,
    spikes added as they are, and a product of spikes whose key has fewer tokens than its query."""
    rng = np.random.default_rng(seed)
    g = Graph(steps=steps)
    g.add_input("input", (2, 9, 8))
    first = g.projection("conv0", "conv", "input", weights(rng, 6, 2, 3, 3), padding=1)
    g.add_current("c0", (6, 9, 8), [first], bias=rng.normal(0, 0.3, 6))
    g.add_lif("lif0", "c0", (6, 9, 8), **lif)
    largest = g.projection("pool0", "max_pool", "lif0", kernel=3, stride=2, padding=1)
    g.add_current("p0", (6, 5, 4), [largest])
    g.add_graded("pooled", "p0", (6, 5, 4))
    conv = g.projection("conv1", "conv", "pooled", weights(rng, 8, 6, 3, 3), padding=1)
    g.add_current("c1", (8, 5, 4), [conv])
    g.add_lif("lif1", "c1", (8, 5, 4), **lif)
    both = [
        g.projection("skip0", "identity", "pooled", channel_offset=2),
        g.projection("skip1", "identity", "lif1"),
    ]
    g.add_current("stream", (8, 5, 4), both)
    g.add_graded("sums", "stream", (8, 5, 4))
    mean = g.projection("pool1", "avg_pool", "sums", kernel=2, stride=2, padding=1)
    g.add_current("p1", (8, 3, 3), [mean])
    g.add_graded("fewer", "p1", (8, 9))
    for name, source, channels, tokens in (
        ("q", "sums", 8, 20), ("k", "fewer", 8, 9), ("v", "fewer", 12, 9),
    ):  # fmt: skip
        linear = g.projection(name, "linear", source, weights(rng, channels, 8))
        g.add_current(f"{name}.sum", (channels, tokens), [linear], bias=np.full(channels, 0.4))
        g.add_lif(f"{name}.lif", f"{name}.sum", (channels, tokens), **lif)
    product = g.projection(
        "attn", "spike_product", "q.lif", key="k.lif", value="v.lif", heads=2, scale=1.5
    )
    g.add_current("scores", (12, 20), [product])
    g.add_lif("attn.lif", "scores", (12, 20), **lif)
    out = g.projection("proj", "linear", "attn.lif", weights(rng, 8, 12))
    g.add_current("late", (8, 20), [out], ["stream"])
    g.add_current("mean", (8, 1, 1), [g.projection("mean", "mean", "late")])
    head = g.projection("head", "linear", "mean", weights(rng, 5, 8))
    g.add_current("head", (5, 1, 1), [head], bias=rng.normal(0, 0.3, 5))
    g.add_readout("logits", "head", 5)
    return g


def in_precision(graph: Graph, precision: str, wide: Sequence[str] = ()) -> Graph:
    """The float32 graph, or the int8 graph made of it."""
    return graph if precision == "fp32" else quantize(graph, wide)


def images(graph: Graph, batch: int, steps: int | None = None, seed: int = 1) -> np.ndarray:
    """Random input: images, or sequences of ``steps`` steps."""
    shape = next(p["shape"] for p in graph.populations if p["kind"] == "input")
    lead = (batch,) if steps is None else (steps, batch)
    return np.random.default_rng(seed).normal(0, 1, (*lead, *shape)).astype(np.float32)
