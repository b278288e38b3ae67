"""What the schedules of the brute-force simulator share: options, neurons, counting."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from support.brute_network import Array, Network, Neurons

Spike = tuple[str, int]  # population, flat index


@dataclass
class Options:
    """As ``EventSimulator.compile`` has them; ``permute`` stands for ``order_seed``."""

    step_us: int
    schedule: str = "rank"
    bias: str = "refuse"
    multi_spike: bool = False
    refractory_us: int = 0
    v_min: float | None = None
    tau_us: float | None = None
    order: str = "fifo"
    permute: Callable[[list[Spike]], Sequence[Spike]] = lambda spikes: spikes
    delay_us: int | dict[str, int] = 0
    readout: str | None = None
    max_sops: int | None = None


@dataclass
class Result:
    """``counts``, ``updates`` and the two figures of synaptic operations go by row, the input's
    included; spikes are (time, index), sorted, a spike of value n is there n times. ``exact``: no
    membrane needed more digits than float32 has. ``margin``: how near a tested membrane came to
    where one spike more or less would have been emitted."""

    counts: dict[str, Array]
    spikes: dict[str, list[tuple[int, int]]]
    logits: Array
    sops: dict[str, int]
    sops_fanout: dict[str, int]
    updates: dict[str, int]
    stopped: bool
    exact: bool
    margin: float
    v: dict[str, Array]


class Simulation:
    """Membranes, who may be tested, and what has been counted."""

    def __init__(self, network: Network, options: Options, t0: int) -> None:
        self.network, self.options, self.t0 = network, options, t0
        self.populations = network.populations
        steps = network.graph.steps if options.bias == "initial" else 0
        self.v = {p.name: p.v_init + steps * p.scale * p.bias for p in self.populations}
        self.ready = {p.name: np.full(p.size, t0) for p in self.populations}
        self.counts = {row: np.zeros(network.size(row), np.int64) for row in network.rows}
        self.spikes: dict[str, list[tuple[int, int]]] = {p.name: [] for p in self.populations}
        self.updates = dict.fromkeys(network.rows, 0)
        self.self_events: dict[int, set[tuple[int, int]]] = defaultdict(set)
        self.work = 0
        self.exact, self.margin = True, math.inf
        self.now = t0
        self.has_current = options.bias == "current"
        self.ticks_bias = options.bias == "tick"

    # -- a neuron ----------------------------------------------------------------------------------

    def decay(self, p: Neurons) -> Array:
        """Per step."""
        if self.options.tau_us is None:
            return p.decay
        return np.where(p.decay < 1, math.exp(-self.options.step_us / self.options.tau_us), 1.0)

    def membrane(self, p: Neurons, dt: int) -> Array:
        """What it will be in ``dt`` microseconds if nothing arrives."""
        decay, steps = self.decay(p), dt / self.options.step_us
        factor = np.where(decay > 0, decay**steps, float(dt == 0))
        v = self.v[p.name] * factor
        if self.has_current:
            drive = p.scale * p.bias
            leaky = decay < 1
            v[leaky] += (drive / (1 - np.where(leaky, decay, 0)) * (1 - factor))[leaky]
            v[~leaky] += (drive * steps)[~leaky]
        return v

    def move_to(self, t: int) -> None:
        for p in self.populations:
            self.set(p, self.membrane(p, t - self.now))
        self.now = t

    def set(self, p: Neurons, v: Array) -> None:
        self.v[p.name] = v
        self.exact &= bool((v == v.astype(np.float32)).all() and (np.abs(v) < 4096).all())

    def add(self, p: Neurons, amount: Array, reached: Array) -> None:
        v = self.v[p.name] + p.scale * amount
        if self.options.v_min is not None:
            v = np.where(reached, np.maximum(v, self.options.v_min), v)
        self.set(p, v)

    def test(self, p: Neurons, visited: Array) -> Array:
        """Spikes of each neuron, which are counted and recorded here."""
        v, t = self.v[p.name], self.now
        self.updates[p.name] += int(visited.sum())
        most = math.inf if self.options.multi_spike else p.max_spikes
        fires = visited & (v >= p.theta) & (self.ready[p.name] <= t)
        self.keep_margin(v[visited], p.theta[visited], most)
        n = np.where(fires, np.minimum(np.floor(v / p.theta), most), 0).astype(np.int64)
        self.set(p, np.where(fires, v - n * p.theta if p.soft else 0.0, v))
        self.counts[p.name] += n
        for i in np.flatnonzero(n):
            self.spikes[p.name] += [(t, int(i))] * int(n[i])
        if self.options.refractory_us:
            self.ready[p.name][fires] = t + self.options.refractory_us
            number = self.populations.index(p)
            self.self_events[t + self.options.refractory_us] |= {
                (number, int(i)) for i in np.flatnonzero(fires)
            }
        return n

    def keep_margin(self, v: Array, theta: Array, most: float = 1) -> None:
        nearest = np.clip(np.rint(v / theta), 1, most) * theta
        self.margin = min(self.margin, np.abs(v - nearest).min(initial=math.inf))

    # -- projections -------------------------------------------------------------------------------

    def delay(self, projection: str) -> int:
        d = self.options.delay_us
        return d.get(projection, 0) if isinstance(d, dict) else d

    def pay(self, source: str, index: int, n: int = 1) -> None:
        self.work += n * int(self.network.fan_out_cost[source][index])

    @property
    def stopped(self) -> bool:
        return self.options.max_sops is not None and self.work > self.options.max_sops

    def index(self, event: Any) -> int:
        _, height, width = self.network.input["shape"]
        return (int(event["p"]) * height + int(event["y"])) * width + int(event["x"])

    # -- a run -------------------------------------------------------------------------------------

    def result(self, events: Any, duration: int | None) -> Result:
        times, divisor = self.run(events, duration)
        network = self.network
        bias_times = {"initial": network.graph.steps, "drop": 0}.get(self.options.bias, times)
        readout = self.options.readout or ("total" if self.options.bias == "initial" else "rate")
        if readout == "total":
            divisor = network.graph.steps
        shapes = {p.name: p.shape for p in self.populations}
        return Result(
            {name: self.counts[name].reshape(shape) for name, shape in shapes.items()},
            {name: sorted(s) for name, s in self.spikes.items()},
            network.logits(self.counts, divisor, bias_times),
            *(
                {row: int(self.counts[row] @ cost[row]) for row in network.rows}
                for cost in (network.shared_cost, network.fan_out_cost)
            ),
            self.updates,
            self.stopped,
            self.exact,
            self.margin,
            self.v,
        )

    def run(self, events: Any, duration: int | None) -> tuple[float, float]:
        """How often a bias of the stream has come, and the elapsed time in steps."""
        raise NotImplementedError
