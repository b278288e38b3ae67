"""What a graph means: every node in float64, in plain PyTorch, all time steps at once.

Slow, and as short as can be. Executors and exporters are compared with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import stmx
from .graph import Description, Graph, as_array, sources


@dataclass(frozen=True)
class Reference:
    """What :func:`run_reference` gives.

    Attributes:
        logits: ``[B, classes]`` float64.
        spikes: LIF population -> spikes, ``[T, B, C, H, W]`` or ``[T, B, C, N]``, in the order of
            the graph; uint8, or int64 where a neuron may give more than 255 a step.
        distances: LIF population -> ``v - threshold`` before the reset, float64, of the same shape;
            empty unless asked for.
    """

    logits: np.ndarray
    spikes: dict[str, np.ndarray]
    distances: dict[str, np.ndarray] = field(default_factory=dict)


def run_reference(
    graph: Graph,
    x: Any,
    spikes: Mapping[str, Any] | None = None,
    *,
    distances: bool = False,
) -> Reference:
    """Run a float32 network in float64.

    Args:
        x: images ``[B, C, H, W]``, shown at ``graph.steps`` steps, or sequences
            ``[T, B, C, H, W]`` (``[B, T, ...]`` if the graph is batch-first).
        spikes: what another executor's LIF populations did with ``x``, as :class:`Reference` has
            it. Each population is then fed by these spikes and reset by its own among them, and
            the result says what it should have done: a single flip has no consequences.
        distances: also give how far each membrane was from its threshold.
    Raises:
        ValueError: the graph is wrong or holds integers, by node; ``x`` has another shape.
    """
    if graph.precision != "fp32":
        raise ValueError(f"the reference runs float32 graphs, got {graph.precision}")
    stmx.check(graph)
    return _Run(graph, _sequence(graph, x), spikes, distances).result()


def _sequence(graph: Graph, x: Any) -> Tensor:
    """``[T, B, C, H, W]``"""
    images = torch.from_numpy(np.array(as_array(x), np.float64))
    shape = next(p["shape"] for p in graph.populations if p["kind"] == "input")
    if images.dim() not in (4, 5) or list(images.shape[-3:]) != shape or 0 in images.shape:
        raise ValueError(f"x must be [B, *{shape}] or [T, B, *{shape}], got {list(images.shape)}")
    if images.dim() == 4:
        return images.expand(graph.steps, *images.shape)
    return images.transpose(0, 1) if graph.batch_first else images


class _Run:
    """Values of nodes are ``[T, B, C, H, W]``, after a mean over time ``[1, B, C, 1, 1]``."""

    def __init__(
        self, graph: Graph, x: Tensor, spikes: Mapping[str, Any] | None, keep_distances: bool
    ) -> None:
        self.graph, self.x, self.given, self.keep_distances = graph, x, spikes, keep_distances
        self.lead = x.shape[:2]
        self.values: dict[str, Tensor] = {}
        self.fired: dict[str, np.ndarray] = {}
        self.distances: dict[str, np.ndarray] = {}

    def result(self) -> Reference:
        nodes = {n["name"]: n for n in [*self.graph.populations, *self.graph.currents]}
        reads = {name: sources(node) for name, node in nodes.items()}
        readers = Counter(name for names in reads.values() for name in names)
        readout = next(p["name"] for p in self.graph.populations if p["kind"] == "readout")
        readers[readout] += 1
        for name in TopologicalSorter(reads).static_order():
            self.values[name] = self.value(nodes[name])
            readers.subtract(reads[name])
            for done in (n for n in (name, *reads[name]) if not readers[n]):
                self.values.pop(done, None)
        logits = self.values[readout][0, :, :, 0, 0].numpy()
        order = [p["name"] for p in self.graph.populations if p["kind"] == "lif"]
        return Reference(
            logits,
            {name: self.fired[name] for name in order},
            {name: self.distances[name] for name in order if self.keep_distances},
        )

    def value(self, node: Description) -> Tensor:
        kind = node.get("kind")
        if kind is None:
            return self.current(node)
        if kind == "input":
            return self.x
        x = self.values[node["current"]]
        if kind == "readout":
            if len(x) != 1:
                raise ValueError(f"{node['name']} must read a mean over time")
            return x
        x = x.reshape(*x.shape[:2], *node["shape"])
        return x if kind == "graded" else self.lif(node, x)

    # -- neurons -----------------------------------------------------------------------------------

    def lif(self, p: Description, x: Tensor) -> Tensor:
        """Spikes, as bytes where they fit: a network's worth of float64 would be large."""
        if len(x) != self.lead[0]:
            raise ValueError(f"{p['name']} must not integrate a mean over time")
        threshold, decay, input_scale, v = (
            torch.from_numpy(_float32(self.graph.neuron_value(p, key))).double().reshape(-1, 1, 1)
            for key in ("threshold", "decay", "input_scale", "v_init")
        )
        dtype = torch.uint8 if p["max_spikes"] < 256 else torch.int64
        own = torch.empty(x.shape, dtype=dtype)
        given = None if self.given is None else self.of_another(p["name"], x.shape)
        distances = torch.empty(x.shape if self.keep_distances else 0, dtype=torch.float64)
        for t in range(len(x)):
            v = decay * v + input_scale * x[t]
            if self.keep_distances:
                distances[t] = v - threshold
            own[t] = _count(p, v, threshold)
            fired = own[t] if given is None else given[t]
            v = v - threshold * fired if p["soft_reset"] else v.where(fired == 0, 0.0)
        shape = (*x.shape[:3], -1) if p["tokens"] else x.shape
        self.fired[p["name"]] = own.reshape(shape).numpy()
        if self.keep_distances:
            self.distances[p["name"]] = distances.reshape(shape).numpy()
        return own if given is None else given

    def of_another(self, name: str, shape: torch.Size) -> Tensor:
        assert self.given is not None
        spikes = None if name not in self.given else torch.from_numpy(as_array(self.given[name]))
        if spikes is None or spikes.numel() != shape.numel():
            got = None if spikes is None else list(spikes.shape)
            raise ValueError(f"spikes of {name} must be {list(shape)}, got {got}")
        return spikes.reshape(shape)

    # -- currents ----------------------------------------------------------------------------------

    def current(self, c: Description) -> Tensor:
        terms = [(0, self.values[name]) for name in c["currents"]]
        terms += [(p["channel_offset"], self.projected(p)) for p in c["projections"]]
        steps = {len(term) for _, term in terms}
        if len(steps) > 1:
            raise ValueError(f"{c['name']} adds a mean over time to what varies in time")
        total = torch.zeros(*steps, self.lead[1], *c["shape"], dtype=torch.float64)
        for first, term in terms:
            part = total[:, :, first : first + term.shape[2]]
            part += term.reshape(part.shape)
        return total if c["bias"] is None else total + self.tensor(c["bias"])[:, None, None]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.graph.tensors[name]).double()

    def projected(self, p: Description) -> Tensor:
        """``[T, B, C, H, W]``, or positions flat."""
        x, kind = self.values[p["source"]].double(), p["kind"]
        if kind == "identity":
            return x
        if kind == "mean":
            return x.mean((0, 3, 4), keepdim=True)
        if kind == "spike_product":
            q, k, v = (self.heads(p[key], p["heads"]) for key in ("source", "key", "value"))
            scores = q.transpose(-1, -2) @ k  # [T, B, heads, N, M]
            return float(_float32(p["scale"])) * (v @ scores.transpose(-1, -2)).flatten(2, 3)
        if kind == "linear":
            return torch.einsum("oc,tbcn->tbon", self.tensor(p["weight"]), x.flatten(3))
        if kind == "token_mix":
            weight = self.tensor(p["weight"])
            mixed = torch.einsum("hmn,tbhcn->tbhcm", weight, self.heads(p["source"], len(weight)))
            return mixed.flatten(2, 3)
        images = x.flatten(0, 1)
        if kind == "conv":
            y = F.conv2d(images, self.tensor(p["weight"]), None, p["stride"], p["padding"])
        else:
            pool: Any = F.max_pool2d if kind == "max_pool" else F.avg_pool2d
            y = pool(images, p["kernel"], p["stride"], p["padding"])
        return y.unflatten(0, x.shape[:2])

    def heads(self, source: str, heads: int) -> Tensor:
        """``[T, B, heads, C / heads, N]``"""
        return self.values[source].double().flatten(3).unflatten(2, (heads, -1))


def _float32(value: Any) -> np.ndarray:
    """Numbers as files and executors have them."""
    return np.asarray(value, np.float32)


def _count(p: Description, v: Tensor, threshold: Tensor) -> Tensor:
    """How many spikes membranes give."""
    if p["max_spikes"] == 1:
        return v >= threshold
    if (threshold <= 0).any():
        raise ValueError(f"{p['name']}: threshold must be positive for several spikes a step")
    return (v / threshold).floor().clamp(0, p["max_spikes"])
