"""Pools, spike products and graded populations without a clock, by brute force: every node of the
graph as a dense array in float64, walked anew for every timestamp or for every spike.

Shares nothing with the code that is tested. Networks without biases; spikes are whole numbers.
"""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import stmixer_ops as so
from stmixer_ops.graph.graph import sources

Array = np.ndarray


class BruteRelays:
    """``spikes``: of each LIF population (t, index), in order; ``logits``: rate readout."""

    def __init__(
        self, graph: so.Graph, events: Any, *, schedule: str, latch_us: int, step_us: int
    ) -> None:
        self.graph, self.serial, self.latch, self.step = (
            graph,
            schedule == "serial",
            latch_us,
            step_us,
        )
        self.nodes = {n["name"]: n for n in [*graph.populations, *graph.currents]}
        reads = {name: sources(node) for name, node in self.nodes.items()}
        self.order = list(TopologicalSorter(reads).static_order())
        self.lifs = lifs = [p["name"] for p in graph.populations if p["kind"] == "lif"]
        self.v = {name: np.zeros(self.nodes[name]["shape"]) for name in lifs}
        self.time = dict.fromkeys(lifs, 0)
        self.spikes: dict[str, list[tuple[int, int]]] = {name: [] for name in lifs}
        self.until: dict[tuple[str, str], Array] = {}
        self.sums: dict[str, Array] = {}
        self.run(events)
        self.logits = self.read(int(events[-1]["t"]) + 1)

    def run(self, events: Any) -> None:
        source = next(p for p in self.graph.populations if p["kind"] == "input")
        times = [(int(e["t"]), e) for e in events]
        if self.serial:
            for t, event in times:
                waiting = [(source["name"], self.one(source, event))]
                while waiting:
                    waiting += self.walk(dict([waiting.pop(0)]), t)
            return
        for t in sorted({t for t, _ in times}):
            now = sum(self.one(source, event) for other, event in times if other == t)
            self.walk({source["name"]: now}, t)

    def one(self, source: dict, event: Any) -> Array:
        n = np.zeros(source["shape"])
        n[event["p"], event["y"], event["x"]] = 1
        return n

    def walk(self, emitted: dict[str, Array], t: int) -> list[tuple[str, Array]]:
        """What is emitted goes through all nodes; returns the spikes that wait (serial)."""
        fired: dict[str, Array] = {}
        # Per node what it emits or sums, and a bound of it that is 0 only where nothing arrives.
        values: dict[str, tuple[Array, Array]] = {}
        for name in self.order:
            node = self.nodes[name]
            shape, kind = node["shape"], node.get("kind")
            nothing = np.zeros(shape), np.zeros(shape)
            if kind == "readout":
                continue
            if name in emitted:
                values[name] = emitted[name], emitted[name]
            elif kind == "input":
                values[name] = nothing
            elif kind == "graded":
                values[name] = tuple(x.reshape(shape) for x in values[node["current"]])  # type: ignore[assignment]
            elif kind == "lif":
                amount, reach = (x.reshape(shape) for x in values[node["current"]])
                n = self.integrate(node, amount, reach > 0, t) if reach.any() else nothing[0]
                fired[name] = n
                values[name] = nothing if self.serial else (n, n)
            elif not any(values[s][1].any() for s in sources(node) if s in values):
                values[name] = nothing
            elif not any(p["kind"] == "mean" for p in node["projections"]) and all(
                s in values for s in sources(node)
            ):
                values[name] = self.current(node, values, t)
        for c in self.graph.currents:
            for p in c["projections"]:
                if p["kind"] == "mean":
                    added = values[p["source"]][0].sum((1, 2))
                    self.sums[c["name"]] = self.sums.get(c["name"], 0) + added
        waiting = []
        for name in self.lifs:
            for i in np.flatnonzero(fired.get(name, 0)):
                self.spikes[name].append((t, int(i)))
                one = np.zeros(fired[name].size)
                one[i] = 1
                waiting.append((name, one.reshape(fired[name].shape)))
        return waiting

    def integrate(self, p: dict, amount: Array, visited: Array, t: int) -> Array:
        name = p["name"]
        self.v[name] *= p["decay"] ** ((t - self.time[name]) / self.step)
        self.time[name] = t
        self.v[name] += p["input_scale"] * amount
        n = (visited & (self.v[name] >= p["threshold"])).astype(float)
        self.v[name] = (
            self.v[name] - p["threshold"] * n if p["soft_reset"] else self.v[name] * (1 - n)
        )
        return n

    def current(self, c: dict, values: Any, t: int) -> tuple[Array, Array]:
        amount, reach = np.zeros(c["shape"]), np.zeros(c["shape"])
        for other in c["currents"]:
            amount += values[other][0].reshape(c["shape"])
            reach += values[other][1].reshape(c["shape"])
        for p in c["projections"]:
            parts = self.projected(p, values, t)
            for total, part in zip((amount, reach), parts, strict=True):
                first = p["channel_offset"]
                total[first : first + len(part)] += part.reshape(-1, *c["shape"][1:])
        return amount, reach

    def projected(self, p: dict, values: Any, t: int) -> tuple[Array, Array]:
        x, bound = values[p["source"]]
        kind = p["kind"]
        if kind == "identity":
            return x, bound
        if kind == "max_pool":
            y = self.pool(p, x, 1.0)
            if self.latch:
                until = self.until.setdefault((p["name"], ""), np.full(y.shape, -1))
                y = ((y > 0) & (t >= until)).astype(float)
                until[y > 0] = t + self.latch
            return y, y
        if kind == "avg_pool":
            return self.pool(p, x, p["kernel"] ** -2), self.pool(p, bound, 1.0)
        if kind == "spike_product":
            return self.product(p, values, t)
        w = self.graph.tensors[p["weight"]].astype(np.float64)
        return self.weighted(p, w, x), self.weighted(p, np.abs(w), bound)

    def pool(self, p: dict, x: Array, factor: float) -> Array:
        sums = F.avg_pool2d(torch.from_numpy(x)[None], p["kernel"], p["stride"], p["padding"],
                            divisor_override=1)  # fmt: skip
        return sums[0].numpy() * factor

    def weighted(self, p: dict, w: Array, x: Array) -> Array:
        if p["kind"] == "conv":
            y = F.conv2d(torch.from_numpy(x)[None], torch.from_numpy(w), None, p["stride"],
                         p["padding"])  # fmt: skip
            return y[0].numpy()
        if p["kind"] == "linear":
            return np.einsum("oc,cn->on", w, x.reshape(len(x), -1))
        heads = x.reshape(len(w), -1, w.shape[2])
        return np.einsum("hmn,hcn->hcm", w, heads).reshape(len(x), -1)

    def product(self, p: dict, values: Any, t: int) -> tuple[Array, Array]:
        """The product of the bits after this moment's arrivals, less that before them."""
        operands = [p["source"], p["key"], p["value"]]
        before, after = [], []
        for key, name in zip("qkv", operands, strict=True):
            n = values[name][0].reshape(len(values[name][0]), -1)
            until = self.until.setdefault((p["name"], key), np.full(n.shape, -1))
            before.append(until > t)
            until[n > 0] = t + max(self.latch, 1)
            after.append(until > t)
        grown = self.bits(p, after) - self.bits(p, before)
        return p["scale"] * grown, grown

    def bits(self, p: dict, operands: list[Array]) -> Array:
        q, k, v = (o.reshape(p["heads"], -1, o.shape[-1]).astype(float) for o in operands)
        y = np.einsum("hdi,hdj,hcj->hci", q, k, v)
        return y.reshape(-1, y.shape[-1])

    def read(self, elapsed: int) -> Array:
        """Means over positions and steps, then linear layers of them."""
        found: dict[str, Array] = {}
        for name in self.order:
            node = self.nodes[name]
            if node.get("kind") == "readout":
                return found[node["current"]]
            if name in self.sums:
                source = node["projections"][0]["source"]
                positions = np.prod(self.nodes[source]["shape"][1:])
                found[name] = self.sums[name] / positions / (elapsed / self.step)
            elif node.get("projections") and node["projections"][0]["source"] in found:
                (p,) = node["projections"]
                found[name] = self.graph.tensors[p["weight"]] @ found[p["source"]]
                if node["bias"] is not None:
                    found[name] = found[name] + self.graph.tensors[node["bias"]]
        raise AssertionError("no readout")
