"""How near the engine's kernels come to what this machine can add at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engine import Engine, stmx

_BITS = {"fp32": 32, "int8": 8}


def row_adds_per_second(precision: str, threads: int, seconds: float = 0.05) -> float:
    """Of the best exact micro-kernel: random rows of weights in L1, ``threads`` cores at once."""
    from ... import _C

    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(_C.row_adds_per_second, _BITS[precision], seconds) for _ in range(threads)
        ]
        return sum(job.result() for job in jobs)


@dataclass(frozen=True)
class Step:
    """One step of the engine's plan.

    Attributes:
        rate, synops: of the spikes that it adds rows for; None and 0 for other steps.
        ceiling: additions per second over the ceiling's; None for other steps.
    """

    name: str
    ms: float
    rate: float | None = None
    synops: int = 0
    ceiling: float | None = None


def steps(path: Path, engine: Engine, x: np.ndarray, repeat: int, ceiling: float) -> list[Step]:
    """Where the time of ``engine(x)`` goes; ``path`` is the file it was loaded from."""
    stats = {layer.name: layer for layer in engine.run(x).stats if layer.neurons}
    sources = {
        projection["name"]: projection["source"]
        for current in stmx.read(path).currents
        for projection in current["projections"]
    }
    readers = list(sources.values())
    found = []
    for name, ms in engine.profile(x, repeat):
        layer = stats.get(sources.get(name, ""))
        # The synaptic operations of a population belong to all that read it.
        if layer is None or readers.count(layer.name) != 1:
            found.append(Step(name, ms))
            continue
        share = layer.synops / (1e-3 * ms) / ceiling if ms else 0.0
        found.append(Step(name, ms, layer.rate, layer.synops, share))
    return found


def overall(found: list[Step], ceiling: float) -> float:
    """Of all steps that add rows, together."""
    adding = [step for step in found if step.ceiling is not None]
    seconds = 1e-3 * sum(step.ms for step in adding)
    return sum(step.synops for step in adding) / seconds / ceiling if seconds else 0.0
