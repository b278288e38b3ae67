"""Small networks with dyadic weights and short recordings, on which every sum is exact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import stmixer_ops as so

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])


def recording(*rows: Sequence[int]) -> np.ndarray:
    """Rows of (t, p), of (t, x, p) or of (t, x, y, p)."""
    spread = [(r[0], r[1] if len(r) > 2 else 0, r[2] if len(r) > 3 else 0, r[-1]) for r in rows]
    return np.array(spread, EVENT)


def random_recording(
    shape: Sequence[int], count: int, seed: int = 0, gap: int = 3, t0: int = 0
) -> np.ndarray:
    """Ties and duplicates included."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    events = np.empty(count, EVENT)
    events["t"] = t0 + rng.integers(0, gap + 1, count).cumsum()
    for name, size in (("x", width), ("y", height), ("p", channels)):
        events[name] = rng.integers(0, size, count)
    return events


def frames(events: np.ndarray, shape: Sequence[int], step: int, t0: int = 0) -> np.ndarray:
    """Counts ``[T, C, H, W]``, up to the tick of the last event."""
    ticks = (events["t"] - t0) // step
    counted = np.zeros((int(ticks.max()) + 1, *shape), np.float32)
    np.add.at(counted, (ticks, events["p"], events["y"], events["x"]), 1)
    return counted


def layers(*weights: Any, bias: Any = None, steps: int = 1, **lif: Any) -> so.Graph:
    """Fully connected: the input, LIF populations ``lif0``, ``lif1``, … for these weights
    ``[out, in]``, and a readout that shows the mean count of the last one. ``bias``: ``lif0``'s."""
    graph = so.Graph(steps=steps)
    source = graph.add_input("input", (np.shape(weights[0])[1], 1, 1))
    for i, weight in enumerate(weights):
        shape = (len(weight), 1, 1)
        graph.add_current(
            f"current{i}", shape, [graph.projection(f"fc{i}", "linear", source, np.array(weight))],
            bias=None if bias is None or i else np.array(bias),
        )  # fmt: skip
        source = graph.add_lif(f"lif{i}", f"current{i}", shape, **({"decay": 1.0} | lif))
    close(graph, source, shape)
    return graph


def race() -> so.Graph:
    """One event fires a0 and a1. a0 makes b fire; b adds +1 to c, and a1 adds -1, threshold 1."""
    graph = so.Graph()
    graph.add_input("input", (1, 1, 1))
    into = {
        "a": [graph.projection("ia", "linear", "input", [[1.0], [1.0]])],
        "b": [graph.projection("ab", "linear", "a", [[1.0, 0.0]])],
        "c": [
            graph.projection("ac", "linear", "a", [[0.0, -1.0]]),
            graph.projection("bc", "linear", "b", [[1.0]]),
        ],
    }
    for name, projections in into.items():
        shape = (2 if name == "a" else 1, 1, 1)
        graph.add_current(f"to {name}", shape, projections)
        graph.add_lif(name, f"to {name}", shape, decay=1.0)
    close(graph, "c", (1, 1, 1))
    return graph


def close(graph: so.Graph, source: str, shape: tuple[int, int, int], *currents: str) -> None:
    """A stream of what ``source`` emits and of these currents, its mean and the readout."""
    out = graph.projection("out", "linear", source, np.eye(shape[0]))
    graph.add_current("stream", shape, [out], currents)
    average = (shape[0], 1, 1)
    graph.add_current("average", average, [graph.projection("mean", "mean", "stream")])
    graph.add_readout("logits", "average", shape[0])


def dyadic(
    rng: np.random.Generator, *shape: int, low: float = -0.5, high: float = 0.75
) -> np.ndarray:
    """Multiples of 2^-8, a fifth of them 0."""
    values = rng.integers(int(low * 256), int(high * 256) + 1, shape) / 256
    return np.where(rng.random(shape) < 0.2, 0.0, values)


def random_network(
    *,
    seed: int = 0,
    image: tuple[int, int, int] = (2, 4, 5),
    channels: tuple[int, int] = (3, 4),
    kernels: tuple[int, int] = (3, 2),
    strides: tuple[int, int] = (1, 2),
    paddings: tuple[int, int] = (1, 0),
    heads: int = 2,
    beside: bool = True,
    protect: bool = True,
    twice: bool = False,
    bias: bool = False,
    per_channel: bool = False,
    steps: int = 2,
    **lif: Any,
) -> so.Graph:
    """Convolutions, token mixing and linear layers around a residual stream of currents, which two
    populations read; ``beside``: two projections into one current, ``protect``: the input enters
    the stream, ``twice``: the last population reaches a current by two ways."""
    rng = np.random.default_rng(seed)
    graph = so.Graph(steps=steps)

    def neurons(name: str, current: str, shape: Sequence[int]) -> str:
        count = shape[0]
        options = {"threshold": rng.integers(4, 10) / 8, "decay": 1.0} | lif
        if per_channel:
            options["threshold"] = rng.integers(4, 12, count) / 8
            options["v_init"] = rng.integers(-32, 32, count) / 64
        return graph.add_lif(name, current, shape, **options)

    def biased(count: int) -> np.ndarray | None:
        values = np.where(rng.random(count) < 0.3, 0.0, rng.integers(-64, 96, count) / 256)
        return values if bias else None

    def conv(name: str, source: str, sizes: tuple[int, int], place: int, offset: int = 0) -> Any:
        kernel = kernels[place]
        return graph.projection(
            name, "conv", source, dyadic(rng, *sizes, kernel, kernel), stride=strides[place],
            padding=paddings[place], channel_offset=offset,
        )  # fmt: skip

    source = graph.add_input("input", image)
    first, width = channels
    sizes = [output_size(image[1:], kernels[0], strides[0], paddings[0])]
    sizes.append(output_size(sizes[0], kernels[1], strides[1], paddings[1]))
    into = [conv("conv0", source, (first - beside, image[0]), 0)]
    if beside:
        into.append(conv("conv0b", source, (1, image[0]), 0, first - 1))
    graph.add_current("c0", (first, *sizes[0]), into, bias=biased(first))
    lif0 = neurons("lif0", "c0", (first, *sizes[0]))
    into = [conv("conv1", lif0, (width, first), 1)]
    if protect:  # a kernel that covers what both convolutions see
        extent = [n - m + 1 for n, m in zip(image[1:], sizes[1], strict=True)]
        weight = dyadic(rng, 1, image[0], *extent) / 2
        into.append(graph.projection("protect", "conv", source, weight, channel_offset=width - 1))
    graph.add_current("stream0", (width, *sizes[1]), into, bias=biased(width))
    tokens = sizes[1][0] * sizes[1][1]
    shape = (width, tokens)
    mix1 = neurons("mix.lif1", "stream0", shape)
    mixing = graph.projection("mix.stm", "token_mix", mix1, dyadic(rng, heads, tokens, tokens))
    graph.add_current("mix.current", shape, [mixing])
    mix2 = neurons("mix.lif2", "mix.current", shape)
    fc = graph.projection("mix.fc", "linear", mix2, dyadic(rng, width, width))
    graph.add_current("stream1", shape, [fc], ["stream0"], biased(width))
    late1 = neurons("late.lif1", "stream1", shape)
    late2 = neurons("late.lif2", "stream1", shape)
    both = [graph.projection(f"late.fc{i}", "linear", s, dyadic(rng, width, width))
            for i, s in enumerate((late1, late2))]  # fmt: skip
    others = ["stream1", "stream0"] if twice else ["stream1"]
    graph.add_current("stream2", shape, both, others, biased(width))
    last = neurons("last.lif", "stream2", shape)
    final = graph.projection("last.fc", "linear", last, dyadic(rng, width, width))
    graph.add_current("stream3", shape, [final], ["stream2"], biased(width))
    graph.add_current("mean", (width, 1, 1), [graph.projection("pool", "mean", "stream3")])
    head = graph.projection("head", "linear", "mean", dyadic(rng, 3, width))
    graph.add_current("head", (3, 1, 1), [head], bias=dyadic(rng, 3))
    graph.add_readout("logits", "head", 3)
    return graph


def output_size(size: Sequence[int], kernel: int, stride: int, padding: int) -> tuple[int, int]:
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    return height, width
