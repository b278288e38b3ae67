"""How near the engine's kernels come to what this machine can add at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .._extension import extension
from ..engine import Engine

_SEVEN_BITS = 63  # the largest magnitude of weights that the engine adds as 7 bits


def row_adds_per_second(bits: int, threads: int, seconds: float = 0.02) -> float:
    """Of the best exact micro-kernel: random rows of weights in L1, ``threads`` cores at once.

    ``bits`` of a weight: 32 (float32), 16, 8 or 7.
    """
    measure = extension().row_adds_per_second
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(measure, bits, seconds) for _ in range(threads)]
        return sum(job.result() for job in jobs)


@dataclass(frozen=True)
class Step:
    """One step of the engine's plan.

    Attributes:
        rate, sops: of the spikes that it adds rows for; None and 0 for other steps.
        bits: of a weight in those rows.
        share: additions per second over the ceiling for these bits; None for other steps.
    """

    name: str
    ms: float
    rate: float | None = None
    sops: int = 0
    bits: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Profile:
    """Where the time of an engine goes.

    Attributes:
        ceilings: additions per second by bits of a weight, where the network has such.
        share: of all steps that add rows, together: the time that the ceilings allow over theirs.
    """

    steps: list[Step]
    ceilings: dict[int, float]
    share: float


def profile(engine: Engine, x: np.ndarray, repeat: int) -> Profile:
    """Of ``engine(x)``."""
    graph = engine.graph
    stats = engine.run(x).stats
    projections = {p["name"]: p for current in graph.currents for p in current["projections"]}
    ceilings: dict[int, float] = {}
    steps, ideal, spent = [], 0.0, 0.0
    for step in engine.profile(x, repeat):
        if not step.kernel.startswith("gather"):
            steps.append(Step(step.name, step.milliseconds))
            continue
        projection, seconds = projections[step.name], 1e-3 * step.milliseconds
        bits = _bits(graph.tensors[projection["weight"]])
        if bits not in ceilings:
            ceilings[bits] = row_adds_per_second(bits, engine.num_threads)
        needed = step.sops / ceilings[bits]
        rate = stats[projection["source"]].rate
        steps.append(Step(step.name, step.milliseconds, rate, step.sops, bits, needed / seconds))
        ideal, spent = ideal + needed, spent + seconds
    return Profile(steps, ceilings, ideal / spent if spent else 0.0)


def _bits(weight: np.ndarray) -> int:
    if weight.dtype == np.int8 and np.abs(weight.astype(np.int16)).max() <= _SEVEN_BITS:
        return 7
    return 8 * weight.dtype.itemsize
