"""The int8 network of a float32 one, fitted to samples where there are some."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from ..graph import Graph
from ..graph.graph import as_array
from ..graph.quantize import direct_layers, quantize
from .disagreement import Executor, disagreement

MAX_SAMPLES = 256
LOCAL_LIMIT = 0.004
"""Local disagreement from which a population's weights get more bits; 0.005 is promised."""


def calibrated(
    graph: Graph,
    samples: Any = None,
    int16_layers: Collection[str] | None = None,
    *,
    run: Callable[[Graph], Executor],
) -> Graph:
    """Quantise ``graph``.

    Without samples the input is taken to lie in [-16, 16] and all weights have 8 bits. From samples
    comes the range of the input (twice the largest magnitude, rounded to a power of two), and how
    many bits a layer needs: layers that alone drive neurons begin with 7, which the engine adds
    faster, all others with 8, and where a population disagrees locally by more than
    ``LOCAL_LIMIT`` its layers go on to 8 and to 16.

    Args:
        samples: float32 inputs of the network, an array or a tensor; the first ``MAX_SAMPLES``
            images are used.
        int16_layers: projections that get 16 bits in any case.
        run: makes an executor of a graph (:class:`~stmixer_ops.Engine`).
    Raises:
        ValueError: samples of another shape or not finite; an unknown projection.
    """
    wide = set(int16_layers or ())
    if samples is None:
        return quantize(graph, wide)
    x, exact = _checked(graph, samples), run(graph)
    limit = 2 * max(float(np.abs(x).max()), 1e-6)
    slim = direct_layers(graph)
    while True:
        integer = quantize(graph, wide, limit, slim)
        found = disagreement(exact, run(integer), x)
        bad = {
            layer
            for name, d in found.items()
            if d.local > LOCAL_LIMIT
            for layer in _feeding(graph, name)
        }
        if bad <= wide:
            return integer
        wide |= bad - slim
        slim -= bad


def _checked(graph: Graph, samples: Any) -> np.ndarray:
    x = as_array(samples).astype(np.float32)
    shape = next(p["shape"] for p in graph.populations if p["kind"] == "input")
    if x.ndim not in (4, 5) or list(x.shape[-3:]) != shape or 0 in x.shape:
        sizes = ", ".join(map(str, shape))
        raise ValueError(
            f"calibration must be images [B, {sizes}] or sequences of them, got {list(x.shape)}"
        )
    if not np.isfinite(x).all():
        raise ValueError("calibration holds a value that is not finite")
    if x.ndim == 5 and not graph.batch_first:
        return x[:, :MAX_SAMPLES]
    return x[:MAX_SAMPLES]


def _feeding(graph: Graph, population: str) -> set[str]:
    """The projections in all currents that end in this population."""
    currents = {c["name"]: c for c in graph.currents}
    waiting = [next(p["current"] for p in graph.populations if p["name"] == population)]
    found: set[str] = set()
    while waiting:
        current = currents[waiting.pop()]
        found |= {p["name"] for p in current["projections"]}
        waiting += current["currents"]
    return found
