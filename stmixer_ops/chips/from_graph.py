"""The network of a graph.

A population of a :class:`~stmixer_ops.Graph` integrates a current, which may be a sum of others.
Chips have no such sums: every projection that reaches a population is synapses of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..graph import Description, Graph
from ..graph.graph import sources
from .network import Bias, Network, Operation, Population, Shape, Synapses


def from_graph(graph: Graph) -> Network:
    """What a graph says, currents resolved."""
    return _Reader(graph).network


_WEIGHTED = ("conv", "linear", "token_mix")
_WINDOWS = ("identity", "avg_pool")


class _Reader:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.currents = {c["name"]: c for c in graph.currents}
        self.shapes: dict[str, Shape] = {
            p["name"]: tuple(p["shape"])  # type: ignore[misc]
            for p in graph.populations
            if p["kind"] != "readout"
        }
        self.graded = {p["name"]: p["current"] for p in graph.populations if p["kind"] == "graded"}
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
        synapses = [
            found
            for current, projection in self.parts(p["current"])
            for found in self.project(current, projection, threshold)
        ]
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
    ) -> Iterator[Synapses]:
        """One for each population whose spikes the projection carries."""
        name, kind, source = (projection[key] for key in ("name", "kind", "source"))
        if kind not in _WEIGHTED and kind not in _WINDOWS:
            self.operation(projection)
            return
        if source not in self.shapes:
            self.add(Operation(name, "real values", f"it reads the current {source}"))
            return
        inputs, shape = self.shapes[source], current["shape"]
        if kind in _WINDOWS:
            edge = projection.get("kernel", 1)
            weight = np.full((1, 1, edge, edge), 1.0 / edge**2)
            kind, channels = "window", inputs[0]
        else:
            weight = self.graph.tensors[projection["weight"]]
            channels = shape[0] if kind == "token_mix" else len(weight)
        limits = _limits(kind, threshold, weight, projection.get("channel_offset", 0), channels)
        limits = limits / self.worth(projection, weight.ndim, source)
        for origin, pool, factor in self.origins(source):
            yield Synapses(
                name, kind, origin, weight, limits / factor,
                inputs, (channels, *shape[1:]), projection.get("stride", 1),
                projection.get("padding", 0), pool, 8 * weight.itemsize,
            )  # fmt: skip

    def origins(self, source: str) -> Iterator[tuple[str, int | None, float]]:
        """Populations of spikes that a source emits, the edge over which it sums them, and what one
        of them is worth then.

        A graded population emits spikes that others have fired, as they are or pooled.
        """
        current = self.graded.get(source)
        if current is None:
            yield source, 1, 1.0
            return
        for inner in self.summed(current):
            if self.bias(inner, np.asarray(1.0)) > 0:
                self.add(Operation(inner["name"], "real values", "a constant between neurons"))
        for _, projection in self.parts(current):
            kind, stride = projection["kind"], projection.get("stride", 1)
            if kind not in ("identity", "avg_pool", "max_pool"):
                self.operation(projection)
                continue
            if kind == "max_pool":
                self.operation(projection)
            is_sum = kind == "identity" or (
                kind == "avg_pool" and projection["kernel"] == stride and not projection["padding"]
            )
            part = 1 / projection["kernel"] ** 2 if kind == "avg_pool" else 1.0
            for origin, pool, factor in self.origins(projection["source"]):
                yield origin, pool * stride if is_sum and pool else None, part * factor

    def operation(self, projection: Description) -> None:
        """A projection that is no synapses."""
        kind = projection["kind"]
        if kind == "spike_product":
            self.network.multiplied.update(sources(projection))
        names = {"mean": "mean over time", **dict.fromkeys(_WEIGHTED, "real values")}
        self.add(Operation(projection["name"], names.get(kind, kind.replace("_", " "))))

    def add(self, operation: Operation) -> None:
        if operation not in self.network.operations:
            self.network.operations.append(operation)

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


def _limits(
    kind: str, threshold: np.ndarray, weight: np.ndarray, offset: int, channels: int
) -> np.ndarray:
    """Thresholds that can be compared with the weights."""
    if kind == "token_mix":
        return _per_head(threshold, len(weight))
    if threshold.ndim == 1:
        threshold = threshold[offset : offset + channels]
    if kind == "window":
        threshold = threshold.min()
    return threshold.reshape(*threshold.shape, *[1] * (weight.ndim - threshold.ndim))


def _per_head(threshold: np.ndarray, heads: int) -> np.ndarray:
    """Against weights ``[heads, tokens out, tokens in]``: per channel, or per head and token."""
    if threshold.ndim == 0:
        return threshold.reshape(1, 1, 1)
    if threshold.ndim == 1:
        return threshold.reshape(heads, -1).min(1)[:, None, None]
    return threshold[:, :, None]
