"""A graph as dense matrices: what the brute-force event-driven simulator runs on.

Every projection becomes a matrix ``[targets, sources]`` in float64, found by pushing unit impulses
through PyTorch. Nothing here is shared with the code that is tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

import stmixer_ops as so

Array = np.ndarray


@dataclass
class Projection:
    """``fan_out [sources]``: the weights that a spike adds, zeros included, the halo not."""

    source: str
    matrix: Array
    fan_out: Array


@dataclass
class Neurons:
    """One LIF population, flat; ``inflow`` names what it integrates, some of it twice."""

    name: str
    shape: tuple[int, ...]
    theta: Array
    decay: Array
    v_init: Array
    bias: Array
    scale: float
    soft: bool
    max_spikes: int
    inflow: list[str]

    @property
    def size(self) -> int:
        return self.theta.size


class Network:
    """Populations in topological order, their projections by name, and the readout."""

    def __init__(self, graph: so.Graph) -> None:
        self.graph = graph
        self.currents = {c["name"]: c for c in graph.currents}
        self.nodes = {n["name"]: n for n in [*graph.populations, *graph.currents]}
        self.input = next(p for p in graph.populations if p["kind"] == "input")
        self.readout = next(p for p in graph.populations if p["kind"] == "readout")
        self.projections = {
            p["name"]: self._projection(p, c["shape"])
            for c in graph.currents
            for p in c["projections"]
            if p["kind"] != "mean"
        }
        lifs = [self.nodes[n] for n in self.order() if self.nodes[n].get("kind") == "lif"]
        self.populations = [self._neurons(p) for p in lifs]
        self.rows = [self.input["name"], *[p.name for p in self.populations]]

    def order(self) -> list[str]:
        """Depth first from the populations as they are listed; a current reads currents first."""
        found: dict[str, None] = {}

        def visit(name: str) -> None:
            if name in found:
                return
            node = self.nodes[name]
            own = [node["current"]] if node.get("current") else []
            sources = [p["source"] for p in node.get("projections", ())]
            for before in (*own, *node.get("currents", ()), *sources):
                visit(before)
            found[name] = None

        for population in self.graph.populations:
            visit(population["name"])
        return list(found)

    def size(self, name: str) -> int:
        return int(np.prod(self.nodes[name]["shape"]))

    # -- what a population integrates --------------------------------------------------------------

    def closure(self, current: str) -> list[dict[str, Any]]:
        """The current and those it adds, each as often as it is reached."""
        c = self.currents[current]
        return [c, *[d for other in c["currents"] for d in self.closure(other)]]

    def _neurons(self, p: dict[str, Any]) -> Neurons:
        channels, height, width = p["shape"]
        pixels = height * width

        def each(key: str) -> Array:
            value = np.asarray(self.graph.neuron_value(p, key), np.float64)
            # What is not a tensor crosses into C++ as float32 all the same.
            return np.broadcast_to(value, channels).astype(np.float32).repeat(pixels).astype(float)

        summed = self.closure(p["current"])
        bias = sum((self._bias(c) for c in summed), np.zeros(channels * pixels))
        return Neurons(
            p["name"], (channels, width) if p["tokens"] else (channels, height, width),
            each("threshold"), each("decay"), each("v_init"), bias, p["input_scale"],
            p["soft_reset"], p["max_spikes"],
            [q["name"] for c in summed for q in c["projections"]],
        )  # fmt: skip

    def _bias(self, c: dict[str, Any]) -> Array:
        """``[C * pixels]``"""
        pixels = c["shape"][1] * c["shape"][2]
        if c["bias"] is None:
            return np.zeros(c["shape"][0] * pixels)
        return self.graph.tensors[c["bias"]].astype(np.float64).repeat(pixels)

    def _projection(self, p: dict[str, Any], out_shape: list[int]) -> Projection:
        weight = torch.from_numpy(self.graph.tensors[p["weight"]]).double()
        shape = self.nodes[p["source"]]["shape"]
        matrix = _impulses(p, weight, shape, out_shape)
        ones = _impulses(p, torch.ones_like(weight), shape, out_shape)
        return Projection(p["source"], matrix, ones.sum(0).astype(np.int64))

    # -- what spikes cost --------------------------------------------------------------------------

    def leaving(self, source: str) -> list[str]:
        """Projections that carry this population's spikes into at least one LIF population."""
        read = {name for p in self.populations for name in p.inflow}
        return [name for name in read if self.projections[name].source == source]

    @cached_property
    def shared_cost(self) -> dict[str, Array]:
        """Per source neuron: weights of its projections, each once."""
        return {row: self._cost(row, self.leaving(row)) for row in self.rows}

    @cached_property
    def fan_out_cost(self) -> dict[str, Array]:
        """Per source neuron: weights as often as populations integrate them."""
        inflow = [name for p in self.populations for name in p.inflow]
        return {
            row: self._cost(row, [n for n in inflow if self.projections[n].source == row])
            for row in self.rows
        }

    def _cost(self, row: str, names: list[str]) -> Array:
        zero = np.zeros(self.size(row), np.int64)
        return sum((self.projections[name].fan_out for name in names), zero)

    # -- the readout, which is linear in the counts ------------------------------------------------

    def logits(self, counts: dict[str, Array], divisor: float, bias_times: float) -> Array:
        """``counts`` of the input and every population; the mean divides by ``divisor`` and
        positions, and a bias before the mean has come ``bias_times``."""

        def value(name: str, times: float) -> Array:
            if name in counts:
                return counts[name].reshape(-1).astype(np.float64)
            c = self.currents[name]
            total = times * self._bias(c)
            for other in c["currents"]:
                total = total + value(other, times)
            for p in c["projections"]:
                if p["kind"] == "mean":
                    source = value(p["source"], bias_times).reshape(c["shape"][0], -1)
                    total = total + source.mean(1) / divisor if divisor else total
                else:
                    total = total + self.projections[p["name"]].matrix @ value(p["source"], times)
            return total

        return value(self.readout["current"], 1.0)


def _impulses(p: dict, weight: torch.Tensor, shape: list[int], out_shape: list[int]) -> Array:
    """The matrix of a projection; its channels lie from ``channel_offset`` on."""
    count = int(np.prod(shape))
    x = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
    if p["kind"] == "conv":
        y = torch.nn.functional.conv2d(x, weight, stride=p["stride"], padding=p["padding"])
    elif p["kind"] == "linear":
        y = torch.nn.functional.linear(x.movedim(1, -1), weight).movedim(-1, 1)
    else:
        heads = x.reshape(count, len(weight), shape[0] // len(weight), -1)
        y = torch.matmul(heads, weight.transpose(1, 2))
        y = y.reshape(count, shape[0], -1)
    whole = torch.zeros(count, out_shape[0], out_shape[1] * out_shape[2], dtype=torch.float64)
    whole[:, p["channel_offset"] : p["channel_offset"] + y.shape[1]] = y.flatten(2)
    return whole.reshape(count, -1).T.numpy()
