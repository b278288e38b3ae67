"""Small networks whose figures can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

import stmixer_ops as so


def fired(**lif: Any) -> so.LIF:
    """Neurons that chips have: integrate and fire, the threshold subtracted."""
    return so.LIF(**{"decay": 1.0, "reset": "soft", **lif})


def conv(source: int, out: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(source, out, kernel, stride, padding, bias=False)


def dvs_net() -> nn.Sequential:
    """Four layers for events ``[2, 64, 64]``, of the kind that sinabs puts on a Speck."""
    return nn.Sequential(
        conv(2, 8, 3, 2, 1), fired(), nn.AvgPool2d(2),
        conv(8, 16, 3, 1, 1), fired(), nn.AvgPool2d(2),
        conv(16, 16, 3, 1, 1), fired(), nn.AvgPool2d(2),
        nn.Flatten(2), nn.Linear(256, 10, bias=False), fired(),
    )  # fmt: skip


def one_layer(weight: Any, bias: Any = None, **lif: Any) -> so.Graph:
    """``weight [out, in]`` at one position, neurons, and a readout of their mean."""
    weight = np.asarray(weight, dtype=np.float32)
    out, inputs = weight.shape
    graph = so.Graph()
    graph.add_input("input", (inputs, 1, 1))
    layer = graph.projection("layer", "linear", "input", weight)
    graph.add_current("sum", (out, 1, 1), [layer], bias=bias)
    graph.add_lif("lif", "sum", (out, 1, 1), **{"decay": 1.0, "soft_reset": True, **lif})
    return read_out(graph, "lif", (out, 1, 1))


def joined(out: int, *layers: tuple[int, int, int, int]) -> so.Graph:
    """Populations ``lif0``, ``lif1``, ..., each behind a convolution of the input, and neurons
    ``lif [out, 8, 8]`` that add a layer (channels, kernel, stride, padding) of each of them."""
    graph = so.Graph()
    most = max(stride for _, _, stride, _ in layers)
    graph.add_input("input", (2, 8 * most, 8 * most))
    projections = []
    for i, (channels, kernel, stride, padding) in enumerate(layers):
        shape = (channels, 8 * stride, 8 * stride)
        first = graph.projection(
            f"first{i}", "conv", "input", np.full((channels, 2, 1, 1), 0.25), stride=most // stride
        )
        graph.add_current(f"current{i}", shape, [first])
        graph.add_lif(f"lif{i}", f"current{i}", shape, decay=1.0, soft_reset=True)
        weight = np.full((out, channels, kernel, kernel), 0.25)
        projections.append(
            graph.projection(f"layer{i}", "conv", f"lif{i}", weight, stride=stride, padding=padding)
        )
    graph.add_current("sum", (out, 8, 8), projections)
    graph.add_lif("lif", "sum", (out, 8, 8), decay=1.0, soft_reset=True)
    return read_out(graph, "lif", (out, 8, 8))


def read_out(graph: so.Graph, source: str, shape: tuple[int, int, int]) -> so.Graph:
    """Three classes from the mean of a population."""
    weight = np.ones((3, shape[0]), np.float32)
    scores = graph.projection("fc", "linear", source, weight)
    graph.add_current("scores", (3, *shape[1:]), [scores])
    graph.add_current("average", (3, 1, 1), [graph.projection("mean", "mean", "scores")])
    graph.add_readout("logits", "average", 3)
    return graph
