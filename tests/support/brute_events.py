"""The event-driven simulator by brute force: float64, dense matrices, one obvious loop a schedule.

``brute(graph, events, step_us=..., schedule=...)`` takes the options of
``EventSimulator.compile`` and ``run``; nothing is shared with the code that is tested.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from support.brute_network import Array, Network, Neurons
from support.brute_neurons import Options, Result, Simulation, Spike

import stmixer_ops as so


def brute(
    graph: so.Graph, events: Any, t0: int = 0, duration: int | None = None, **options: Any
) -> Result:
    """``events`` has fields t, x, y, p. ``grid`` also takes ``[T, C, H, W]`` of real values."""
    kinds = {"grid": Grid, "rank": Rank, "serial": Serial}
    given = Options(**options)
    return kinds[given.schedule](Network(graph), given, t0).result(events, duration)


class Grid(Simulation):
    """Ticks of ``step_us``: leak, bias, all arrivals, one test of every neuron."""

    def run(self, events: Any, duration: int | None) -> tuple[float, float]:
        step, dense = self.options.step_us, np.ndim(events) == 4
        source = self.network.rows[0]
        self.mail: dict[tuple[int, str], Array] = {}
        binned: dict[int, list[Any]] = defaultdict(list)
        for event in () if dense else events:
            binned[(int(event["t"]) - self.t0) // step].append(event)
        ticks = len(events) if dense else max(binned, default=-1) + 1
        if duration is not None:
            ticks = -(-duration // step)
        for k in range(ticks):
            self.now = self.t0 + k * step
            if dense:
                values = events[k].reshape(-1).astype(np.float64)
                self.counts[source] = self.counts[source] + values
                self.send(self.now, source, values)
            for event in binned[k]:
                one = np.arange(self.network.size(source)) == self.index(event)
                self.counts[source] += one
                self.send(int(event["t"]), source, one.astype(np.float64))
            self.tick(k)
            if self.stopped:
                return k + 1, k + 1
        return ticks, ticks

    def send(self, t: int, source: str, n: Array) -> None:
        self.work += int(n @ self.network.fan_out_cost[source])
        for name, projection in self.network.projections.items():
            if projection.source == source:
                key = ((t + self.delay(name) - self.t0) // self.options.step_us, name)
                self.mail[key] = self.mail.get(key, 0) + n

    def tick(self, k: int) -> None:
        for p in self.populations:
            self.set(p, self.v[p.name] * self.decay(p))
            amount = p.bias.copy() if self.ticks_bias else np.zeros(p.size)
            for name in p.inflow:
                if (k, name) in self.mail:
                    amount += self.network.projections[name].matrix @ self.mail[k, name]
            everyone = np.ones(p.size, bool)
            self.add(p, amount, everyone)
            self.send(self.now, p.name, self.test(p, everyone).astype(np.float64))


class Clockless(Simulation):
    """An agenda of instants: whatever is due next."""

    def run(self, events: Any, duration: int | None) -> tuple[float, float]:
        events = sorted(events, key=lambda e: int(e["t"]))  # stable
        last = int(events[-1]["t"]) if events else self.t0 - 1
        end = last + 1 if duration is None else self.t0 + duration
        self.pending = events
        self.due: dict[int, list[Any]] = defaultdict(list)
        if self.options.bias == "initial" and end > self.t0:
            self.start()
        elapsed_to = self.t0 - 1
        while not self.stopped and (t := self.next_instant(elapsed_to, end)) < end:
            self.move_to(t)
            self.instant(t)
            elapsed_to = t
        elapsed = (elapsed_to if self.stopped else end - 1) - self.t0 + 1
        if not self.stopped and elapsed:
            exact = self.exact
            self.move_to(end - 1)
            self.exact = exact  # nothing is decided there any more
        steps = elapsed / self.options.step_us
        return (math.ceil(steps) if self.ticks_bias else steps), steps

    def next_instant(self, after: int, end: int) -> int:
        times = [t for t in (*self.due, *self.self_events) if t > after]
        times += [int(self.pending[0]["t"])] if self.pending else []
        if self.ticks_bias:
            times.append(self.t0 + ((after - self.t0) // self.options.step_us + 1)
                         * self.options.step_us)  # fmt: skip
        first = min([*times, end])
        if self.has_current:
            for t in range(after + 1, first):
                if any(self.crosses(p, t - self.now).any() for p in self.populations):
                    return t
        return first

    def crosses(self, p: Neurons, dt: int) -> Array:
        """Whom the current alone brings to the threshold at that time, from below."""
        v, driven = self.membrane(p, dt), p.bias != 0
        self.keep_margin(v[driven], p.theta[driven])
        below = self.membrane(p, dt - 1) < p.theta if dt else False
        return driven & below & (v >= p.theta)

    def self_visits(self, t: int) -> list[tuple[int, int]]:
        """(Population, index), ascending."""
        found = self.self_events.pop(t, set())
        return sorted(found | self.crossing)

    def move_to(self, t: int) -> None:
        self.crossing = set()
        if self.has_current:
            for number, p in enumerate(self.populations):
                crossing = self.crosses(p, t - self.now) & (self.ready[p.name] <= t)
                self.crossing |= {(number, int(i)) for i in np.flatnonzero(crossing)}
        super().move_to(t)

    def ticks_at(self, t: int) -> bool:
        return self.ticks_bias and (t - self.t0) % self.options.step_us == 0

    def take_events(self, t: int) -> Iterator[int]:
        """Indices of the input events of this timestamp, which are counted here."""
        while self.pending and int(self.pending[0]["t"]) == t:
            index = self.index(self.pending.pop(0))
            self.counts[self.network.rows[0]][index] += 1
            yield index

    def start(self) -> None:
        raise NotImplementedError

    def instant(self, t: int) -> None:
        raise NotImplementedError


class Rank(Clockless):
    """All arrivals of one timestamp are summed, population by population, then tested."""

    def start(self) -> None:
        self.crossing = set()
        self.round(self.t0, everyone=True)

    def instant(self, t: int) -> None:
        for index in self.take_events(t):
            self.send(self.network.rows[0], index, t)
        self.round(t)

    def send(self, source: str, index: int, t: int) -> None:
        self.pay(source, index)
        for name, projection in self.network.projections.items():
            if projection.source == source:
                self.due[t + self.delay(name)].append((name, index))

    def round(self, t: int, everyone: bool = False) -> None:
        visits = self.self_visits(t)
        for number, p in enumerate(self.populations):
            amount, visited = np.zeros(p.size), np.full(p.size, everyone)
            if self.ticks_at(t) and not everyone:
                amount += p.bias
                visited |= p.bias != 0
            for name, index in self.due.get(t, ()):
                if name in p.inflow:
                    column = self.network.projections[name].matrix[:, index]
                    amount += p.inflow.count(name) * column
                    visited |= column != 0
            self.add(p, amount, visited)
            visited[[i for which, i in visits if which == number]] = True
            for index, n in enumerate(self.test(p, visited)):
                for _ in range(n):
                    self.send(p.name, index, t)
        self.due.pop(t, None)


class Serial(Clockless):
    """One spike at a time is delivered; what it causes waits in line, or goes first."""

    def __init__(self, network: Network, options: Options, t0: int) -> None:
        super().__init__(network, options, t0)
        self.reached: dict[tuple[Spike, int], list[tuple[Neurons, Array, Array]]] = {}

    def start(self) -> None:
        self.crossing = set()
        fired: list[Spike] = []
        for p in self.populations:
            everyone = np.ones(p.size, bool)
            self.add(p, np.zeros(p.size), everyone)
            fired += self.listed(p, self.test(p, everyone))
        self.follow(fired)

    def listed(self, p: Neurons, n: Array) -> list[Spike]:
        return [(p.name, int(i)) for i in np.flatnonzero(n) for _ in range(n[i])]

    def instant(self, t: int) -> None:
        for number, index in self.self_visits(t):
            p = self.populations[number]
            self.follow(self.listed(p, self.test(p, np.arange(p.size) == index)))
        if self.ticks_at(t):
            for p in self.populations:
                self.add(p, p.bias, p.bias != 0)
                self.follow(self.listed(p, self.test(p, p.bias != 0)))
        for spike, delay in self.due.pop(t, ()):
            self.follow(self.deliver(spike, delay))
        for index in self.take_events(t):
            self.follow([(self.network.rows[0], index)])
            if self.stopped:
                return

    def follow(self, spikes: list[Spike]) -> None:
        """Deliver these spikes and all they cause now; what has a delay is put on the agenda."""
        line = list(self.emit(spikes))
        while line and not self.stopped:
            spike = line.pop(0)
            self.pay(*spike)
            caused = self.emit(self.deliver(spike, 0))
            line = [*line, *caused] if self.options.order == "fifo" else [*caused, *line]

    def emit(self, spikes: list[Spike]) -> Sequence[Spike]:
        spikes = list(self.options.permute(spikes))
        for spike in spikes:
            for delay in sorted(self.delays(spike[0]) - {0}):
                self.due[self.now + delay].append((spike, delay))
        return spikes

    def delays(self, source: str) -> set[int]:
        """Of the projections that carry the spikes of this population."""
        projections = self.network.projections.items()
        return {self.delay(name) for name, p in projections if p.source == source}

    def deliver(self, spike: Spike, delay: int) -> list[Spike]:
        """Over the projections of that delay, to each population it reaches, whose touched neurons
        are tested; the spikes it causes."""
        caused: list[Spike] = []
        if (spike, delay) not in self.reached:
            self.reached[spike, delay] = self.targets(*spike, delay)
        for p, amount, reached in self.reached[spike, delay]:
            self.add(p, amount, reached)
            caused += self.listed(p, self.test(p, reached))
        return caused

    def targets(self, source: str, index: int, delay: int) -> list[tuple[Neurons, Array, Array]]:
        """Per population: all weights of that spike together, and whom they touch."""
        found = []
        for p in self.populations:
            columns = [
                self.network.projections[name].matrix[:, index]
                for name in p.inflow
                if self.network.projections[name].source == source and self.delay(name) == delay
            ]
            if columns:
                found.append((p, np.sum(columns, axis=0), np.any(np.array(columns) != 0, axis=0)))
        return found
