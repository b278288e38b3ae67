"""How far an int8 network is from the float32 one it was made of, population by population."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..graph import Graph
from ..graph.reference import run_reference

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
        for name, own in run_reference(graph, part, got).spikes.items():
            local, free = (
                int((np.asarray(other) != np.asarray(got[name])).sum())
                for other in (own, expected[name])
            )
            wrong[name] = wrong.get(name, 0) + np.array([local, free, own.size])
    return {n: Disagreement(c[0] / c[2], c[1] / c[2]) for n, c in wrong.items()}
