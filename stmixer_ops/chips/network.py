"""A network as chips see it: neurons, the synapses that reach them, and what else happens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .report import Layer

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Synapses:
    """What one layer adds to one population.

    Attributes:
        path: the layer.
        kind: ``"conv"``, ``"linear"`` (at every position), ``"token_mix"``, or ``"window"``: the
            same kernel in each channel, that of an average or of spikes as they are.
        source: the population whose spikes it carries; None where nobody could tell.
        weight: ``[out, in, kh, kw]``, ``[out, in]``, ``[heads, tokens out, tokens in]`` or
            ``[1, 1, kh, kw]``.
        threshold: of the neurons behind, in units of ``weight`` and such that the two broadcast.
        inputs: ``[C, H, W]`` of the source, after ``pool``; None where nobody could tell.
        outputs: the layer's own channels at the positions of the population; or None.
        pool: spikes are summed over ``pool`` x ``pool`` positions before; None for another pool.
        bits: of a weight.
    """

    path: str
    kind: str
    source: str | None
    weight: np.ndarray
    threshold: np.ndarray
    inputs: Shape | None
    outputs: Shape | None
    stride: int = 1
    padding: int = 0
    pool: int | None = 1
    bits: int = 32

    @property
    def kernel(self) -> int:
        """Edge of the kernel, the longer one."""
        return max(self.weight.shape[2:]) if self.weight.ndim == 4 else 1

    @property
    def channels(self) -> int:
        """Of the source."""
        return self.inputs[0] if self.inputs else self.weight.shape[1]

    @property
    def features(self) -> int:
        """Channels that it adds to."""
        return self.outputs[0] if self.outputs else len(self.weight)

    @cached_property
    def largest(self) -> float:
        """The largest weight, in thresholds; 0 where a threshold is not positive."""
        return max(self._extreme(np.max), 0.0)

    @cached_property
    def largest_magnitude(self) -> float:
        return max(self.largest, -self._extreme(np.min))

    def _extreme(self, reduce: Callable[..., Any]) -> float:
        """Of the weights that share a threshold first: the quotients of all take memory."""
        if self.threshold.min() <= 0 or not self.weight.size:
            return 0.0
        shared = tuple(axis for axis, n in enumerate(self.threshold.shape) if n == 1)
        return float(reduce(reduce(self.weight, axis=shared, keepdims=True) / self.threshold))

    def reaching(self, thresholds: float) -> int:
        """How many weights are at least so many thresholds."""
        return int((self.weight >= thresholds * self.threshold).sum())

    @cached_property
    def weight_values(self) -> int:
        """The most different weights, zero left out, that one neuron has."""
        rows = self.weight.reshape(-1, self.weight.shape[-1])  # token mixing: by head and token
        if self.kind != "token_mix":
            rows = self.weight.reshape(len(self.weight), -1)
        ordered = np.sort(rows, axis=1)
        fresh = np.diff(ordered, axis=1, prepend=np.nan) != 0
        return int((fresh & (ordered != 0)).sum(1).max(initial=0))

    @property
    def fan_in(self) -> int:
        """Of a target neuron, the most."""
        if self.kind == "token_mix":
            return self.weight.shape[2]
        if self.kind == "linear" or self.inputs is None or self.outputs is None:
            return int(np.prod(self.weight.shape[1:]))
        taps = [self._taps(axis).sum(1).max(initial=0) for axis in (1, 2)]
        return int(self.weight.shape[1] * taps[0] * taps[1])

    @cached_property
    def reached(self) -> np.ndarray | None:
        """Neurons that a spike reaches, by its position ``[H, W]`` behind the pool; None without
        shapes."""
        if self.inputs is None or self.outputs is None:
            return None
        _, height, width = self.inputs
        if self.weight.ndim == 4:
            rows, columns = (self._taps(axis).sum(0) for axis in (1, 2))
            return np.outer(rows, columns) * len(self.weight)
        each = self.weight.shape[1] if self.kind == "token_mix" else len(self.weight)
        return np.full((height, width), each)

    @property
    def fan_out(self) -> np.ndarray | None:
        """The same by the position of the source."""
        if self.reached is None or self.pool is None:
            return None
        return self.reached.repeat(self.pool, 0).repeat(self.pool, 1)

    @property
    def count(self) -> int | None:
        """Pairs of neurons; behind a pool that is no sum, of what it emits."""
        places = self.reached if self.pool is None else self.fan_out
        return None if places is None else int(places.sum()) * self.channels

    def _taps(self, axis: int) -> np.ndarray:
        """Along an axis ``[outputs, inputs]``: whether the kernel at an output covers an input."""
        assert self.inputs is not None and self.outputs is not None
        first = np.arange(self.outputs[axis]) * self.stride - self.padding
        tap = np.arange(self.inputs[axis]) - first[:, None]
        return (tap >= 0) & (tap < self.weight.shape[axis + 1])


@dataclass(frozen=True)
class Bias:
    """A constant current; ``largest`` in thresholds a step."""

    path: str
    largest: float


@dataclass(frozen=True)
class Population:
    """Neurons. ``shape`` is None where nobody could tell."""

    path: str
    shape: Shape | None
    decay: float
    soft_reset: bool
    max_spikes: int
    lowest_threshold: float
    synapses: tuple[Synapses, ...]
    biases: tuple[Bias, ...]

    @property
    def neurons(self) -> int | None:
        return None if self.shape is None else int(np.prod(self.shape))

    @property
    def fan_in(self) -> int:
        return sum(s.fan_in for s in self.synapses)

    @property
    def weights(self) -> int:
        return sum(s.weight.size for s in self.synapses)


@dataclass(frozen=True)
class Operation:
    """Something that is no sum of weighted spikes: ``"spike product"``, ``"max pool"``, ..."""

    path: str
    name: str
    detail: str = ""


@dataclass
class Network:
    """All of it.

    Attributes:
        inputs: the input populations.
        populations: LIF neurons, in order of execution.
        operations: what is not legal without more ado.
        multiplied: populations whose spikes are multiplied by others'.
        readout_biases: constants that only the readout sums.
        classes: of the readout, 0 without.
        steps: time steps of a static image.
        unread: why the connections are guessed from the order of the modules; empty: they are
            known.
    """

    inputs: dict[str, Shape | None] = field(default_factory=dict)
    populations: list[Population] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    multiplied: set[str] = field(default_factory=set)
    readout_biases: list[Bias] = field(default_factory=list)
    classes: int = 0
    steps: int = 1
    bits: int = 32
    unread: str = ""

    def synapses(self) -> Iterator[tuple[Population, Synapses]]:
        for population in self.populations:
            for synapses in population.synapses:
                yield population, synapses

    def weights(self) -> int:
        """Numbers stored if each layer is stored once, however many populations it reaches."""
        return sum({s.path: s.weight.size for _, s in self.synapses()}.values())

    def fan_out(self, path: str) -> int | None:
        """Of one neuron of a population or input, the most, over all that it reaches."""
        found = [s.fan_out for _, s in self.synapses() if s.source == path]
        known = [f for f in found if f is not None]
        if self.unread or len(known) < len(found) or path in self.multiplied:
            return None
        return int(sum(known).max()) if known else 0  # type: ignore[union-attr]

    def targets(self, path: str) -> list[str]:
        """Populations that the spikes of a population or input reach."""
        return [p.path for p in self.populations if any(s.source == path for s in p.synapses)]

    def sizes(self) -> tuple[int, int]:
        """Width D and tokens N, of a network that mixes tokens; else zeros."""
        for population, synapses in self.synapses():
            if synapses.kind == "token_mix" and population.shape is not None:
                return population.shape[0], synapses.weight.shape[1]
        return 0, 0

    def depth(self) -> tuple[int, int]:
        """Blocks, and populations of one block; zeros where none is called ``blocks.<i>``."""
        numbers = [re.match(r"blocks\.(\d+)\.", p.path) for p in self.populations]
        blocks = [m[1] for m in numbers if m]
        count = len(set(blocks))
        return count, len(blocks) // count if count else 0

    def layers(self) -> list[Layer]:
        rows = []
        for p in self.populations:
            counts = [s.count for s in p.synapses]
            known = [c for c in counts if c is not None]
            rows.append(
                Layer(
                    p.path,
                    p.neurons,
                    p.weights,
                    sum(known) if len(known) == len(counts) else None,
                    p.fan_in,
                    self.fan_out(p.path),
                    max((s.kernel for s in p.synapses), default=1),
                    max((s.largest for s in p.synapses), default=0.0),
                )
            )
        return rows
