"""How far an int8 network is from the float32 one it was made of, population by population."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph import Description, Graph

_BATCH = 16


@dataclass(frozen=True)
class Disagreement:
    """Of one population, shares of all neurons, steps and images.

    Attributes:
        local: spikes that are not those of a float64 membrane driven by this network's own
            upstream spikes: what the population's own integers get wrong.
        free: spikes that are not those of the float32 network run on its own: everything that
            went another way upstream, too.
    """

    local: float
    free: float


class Executor(Protocol):
    """What runs a graph and shows its spikes, as :class:`~stmixer_ops.Engine` does."""

    @property
    def graph(self) -> Graph: ...

    def run(self, x: Any, record: bool = False) -> Any: ...


def disagreement(exact: Executor, tested: Executor, x: np.ndarray) -> dict[str, Disagreement]:
    """Compare ``tested``, an int8 network, on ``x`` with ``exact``, the float32 one it came from.

    Args:
        x: ``[B, C, H, W]`` or ``[T, B, C, H, W]`` (``[B, T, ...]`` if the graph is batch-first).
    """
    graph = exact.graph
    wrong: dict[str, np.ndarray] = {}
    batch_dim = 0 if x.ndim == 4 or graph.batch_first else 1
    count = -(-x.shape[batch_dim] // _BATCH)
    for part in np.array_split(x, count, axis=batch_dim):
        expected, got = exact.run(part, record=True).spikes, tested.run(part, record=True).spikes
        for name, local in _Membranes(graph, part, got).wrong():
            free = int((np.asarray(expected[name]) != np.asarray(got[name])).sum())
            counts = np.array([local, free, np.asarray(got[name]).size])
            wrong[name] = wrong.get(name, 0) + counts
    return {n: Disagreement(c[0] / c[2], c[1] / c[2]) for n, c in wrong.items()}


class _Membranes:
    """Membranes in float64 from recorded spikes of all sources."""

    def __init__(self, graph: Graph, x: np.ndarray, spikes: dict) -> None:
        inputs = torch.from_numpy(np.ascontiguousarray(x)).double()
        if x.ndim == 4:
            inputs = inputs.expand(graph.steps, *x.shape)
        elif graph.batch_first:
            inputs = inputs.transpose(0, 1)
        self.graph = graph
        self.lead = inputs.shape[:2]
        self.currents = {c["name"]: c for c in graph.currents}
        self.shapes = {n["name"]: n["shape"] for n in [*graph.populations, *graph.currents]}
        source = next(p["name"] for p in graph.populations if p["kind"] == "input")
        # Spikes stay bytes until they are used: a network's worth of float64 would be large.
        self.spikes = {name: torch.as_tensor(s) for name, s in spikes.items()} | {source: inputs}
        self.sums: dict[str, Tensor] = {}

    def wrong(self) -> Iterator[tuple[str, int]]:
        """How many spikes of each LIF population its membrane contradicts."""
        for p in self.graph.populations:
            if p["kind"] != "lif":
                continue
            x = self.current(p["current"])
            fired = self.emitted(p["name"]).reshape(x.shape)
            threshold, decay, v_init = (
                torch.as_tensor(self.graph.neuron_value(p, key)).double().reshape(-1, 1, 1)
                for key in ("threshold", "decay", "v_init")
            )
            v, wrong = v_init.expand_as(x[0]), 0
            for t in range(len(x)):
                v = decay * v + p["input_scale"] * x[t]
                wrong += int(((v >= threshold) != (fired[t] > 0)).sum())
                v = v - threshold * fired[t] if p["soft_reset"] else v * (1 - fired[t])
            yield p["name"], wrong

    def emitted(self, name: str) -> Tensor:
        """``[T, B, C, H, W]``"""
        return self.spikes[name].double().reshape(*self.lead, *self.shapes[name])

    def current(self, name: str) -> Tensor:
        """``[T, B, C, H, W]``"""
        if name not in self.sums:
            current = self.currents[name]
            total = torch.zeros(*self.lead, *current["shape"], dtype=torch.float64)
            for other in current["currents"]:
                total += self.current(other).reshape(total.shape)
            for projection in current["projections"]:
                y = self.projected(projection)
                first = projection["channel_offset"]
                total[:, :, first : first + y.shape[2]] += y.reshape(*y.shape[:3], *total.shape[3:])
            if current["bias"] is not None:
                total += self.weight(current["bias"])[:, None, None]
            self.sums[name] = total
        return self.sums[name]

    def weight(self, name: str) -> Tensor:
        return torch.from_numpy(self.graph.tensors[name]).double()

    def projected(self, p: Description) -> Tensor:
        """``[T, B, C, H, W]``, or positions flat."""
        x, weight = self.emitted(p["source"]), self.weight(p["weight"])
        if p["kind"] == "conv":
            y = F.conv2d(x.flatten(0, 1), weight, stride=p["stride"], padding=p["padding"])
            return y.unflatten(0, self.lead)
        if p["kind"] == "linear":
            return torch.einsum("oc,tbcn->tbon", weight, x.flatten(3))
        heads = x.flatten(3).unflatten(2, (len(weight), -1))
        return torch.einsum("hmn,tbhcn->tbhcm", weight, heads).flatten(2, 3)
