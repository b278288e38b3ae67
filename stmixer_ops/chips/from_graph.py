"""The network of a graph.

A population of a :class:`~stmixer_ops.Graph` integrates a current, which may be a sum of others.
Chips have no such sums: every projection that reaches a population is synapses of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..graph import Description, Graph
from .network import Bias, Network, Operation, Population, Shape, Synapses


def from_graph(graph: Graph) -> Network:
    """What a graph says, currents resolved."""
    return _Reader(graph).network


# Kinds of projections that are no synapses, as operations.
_OPERATIONS = {"max_pool": "max pool", "spike_product": "spike product", "mean": "mean over time"}


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.currents = {c["name"]: c for c in graph.currents}
        self.shapes: dict[str, Shape] = {
            p["name"]: tuple(p["shape"])  # type: ignore[misc]
            for p in graph.populations
            if p["kind"] != "readout"
        }
        self.network = Network(
            {p["name"]: self.shapes[p["name"]] for p in graph.populations if p["kind"] == "input"},
            steps=graph.steps,
            bits=8 if graph.precision == "int8" else 32,
        )
        for p in graph.populations:
            if p["kind"] == "lif":
                self.network.populations.append(self.population(p))
        for p in graph.populations:
            if p["kind"] == "readout":
                self.network.classes = p["shape"][0]
                self.readout(p["current"])

    def parts(self, name: str) -> Iterator[tuple[Description, Description]]:
        """Currents that a current sums, itself first, and one projection of each in turn."""
        current = self.currents[name]
        for projection in current["projections"]:
            yield current, projection
        for inner in current["currents"]:
            yield from self.parts(inner)

    def summed(self, name: str) -> Iterator[Description]:
        yield self.currents[name]
        for inner in self.currents[name]["currents"]:
            yield from self.summed(inner)

    def population(self, p: Description) -> Population:
        threshold = self.number(p, "threshold")
        if self.graph.precision == "fp32":
            threshold = threshold / p["input_scale"]
        decay = self.number(p, "decay")
        if self.graph.precision == "int8":
            decay = decay / 2**15
        shape = self.shapes[p["name"]] = self.on_grid(p)
        synapses = []
        for current, projection in self.parts(p["current"]):
            found = self.project(current, projection, threshold)
            if found is not None:
                synapses.append(found)
        biases = [
            Bias(c["name"], largest)
            for c in self.summed(p["current"])
            if (largest := self.bias(c, threshold)) > 0
        ]
        return Population(
            p["name"], shape, float(np.min(decay)), p["soft_reset"], p.get("max_spikes", 1),
            float(np.min(threshold)), tuple(synapses), tuple(biases),
        )  # fmt: skip

    def number(self, p: Description, key: str) -> np.ndarray:
        value = p[key]
        tensor = self.graph.tensors[value] if isinstance(value, str) else value
        return np.asarray(tensor, dtype=np.float64)

    def bias(self, current: Description, threshold: np.ndarray) -> float:
        """The largest value in thresholds a step."""
        if current["bias"] is None:
            return 0.0
        values = np.abs(self.graph.tensors[current["bias"]].astype(np.float64))
        if threshold.ndim == 2:  # per head and token, of an int8 network
            threshold = threshold.min()
        return float((values / np.abs(threshold)).max(initial=0.0))

    def on_grid(self, p: Description) -> Shape:
        """The shape of a population; tokens ``[C, 1, N]`` as the map that they are made of."""
        channels, height, width = self.shapes[p["name"]]
        if height == 1:
            for current, projection in self.parts(p["current"]):
                for _, h, w in (current["shape"], self.shapes.get(projection["source"], (0, 0, 0))):
                    if h > 1 and h * w == width:
                        return channels, h, w
        return channels, height, width

    def project(
        self, current: Description, projection: Description, threshold: np.ndarray
    ) -> Synapses | None:
        name, kind, source = (projection[key] for key in ("name", "kind", "source"))
        if kind in _OPERATIONS or kind not in ("conv", "linear", "token_mix"):
            self.operation(Operation(name, _OPERATIONS.get(kind, kind)))
            return None
        if source not in self.shapes:
            self.operation(Operation(name, "real values", f"it reads the current {source}"))
            return None
        weight = self.graph.tensors[projection["weight"]]
        offset = projection.get("channel_offset", 0)
        if kind == "token_mix":
            channels = current["shape"][0]
            limits = _per_head(threshold, len(weight))
        else:
            channels = len(weight)
            if threshold.ndim == 1:
                threshold = threshold[offset : offset + channels]
            limits = threshold.reshape(*threshold.shape, *[1] * (weight.ndim - threshold.ndim))
        return Synapses(
            name, kind, source, weight,
            limits / self.worth(projection, weight.ndim, source),
            self.shapes[source], (channels, *current["shape"][1:]),
            projection.get("stride", 1), projection.get("padding", 0),
            bits=8 * weight.itemsize,
        )  # fmt: skip

    def worth(self, projection: Description, ndim: int, source: str) -> Any:
        """What one step of an integer weight adds, in units of the threshold; 1 of real ones."""
        if self.graph.precision == "fp32":
            return 1.0
        shift = projection["shift"]
        event = 2.0**self.graph.input_shift if source in self.network.inputs else 1.0
        if projection["multiplier"] is None:
            return 2.0**shift * event
        factor = self.graph.tensors[projection["multiplier"]].astype(np.float64)
        return (factor * 2.0**-shift * event).reshape(-1, *[1] * (ndim - 1))

    def operation(self, operation: Operation) -> None:
        if operation not in self.network.operations:
            self.network.operations.append(operation)

    def readout(self, name: str, behind_mean: bool = True) -> None:
        """Biases that only the readout sums; those at or behind the mean are the head's."""
        known = {b.path for p in self.network.populations for b in p.biases}
        for current in self.summed(name):
            largest = self.bias(current, np.asarray(1.0))
            if not behind_mean and largest > 0 and current["name"] not in known:
                self.network.readout_biases.append(Bias(current["name"], largest))
            for projection in current["projections"]:
                if projection["source"] in self.currents:
                    self.readout(projection["source"], behind_mean and projection["kind"] != "mean")


def _per_head(threshold: np.ndarray, heads: int) -> np.ndarray:
    """Against weights ``[heads, tokens out, tokens in]``: per channel, or per head and token."""
    if threshold.ndim == 0:
        return threshold.reshape(1, 1, 1)
    if threshold.ndim == 1:
        return threshold.reshape(heads, -1).min(1)[:, None, None]
    return threshold[:, :, None]
