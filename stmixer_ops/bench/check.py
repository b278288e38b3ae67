"""Whether everybody computes the same network: no speed is told of one that does not.

On random weights one spike that rounding turns becomes thousands within a few layers, so logits
say little: the engine is held to the spikes of the first population and to the rate of every one,
the other runtimes to the rates. Only where a contestant gives no rates do its logits count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .. import record, use_backend
from ..engine import Engine
from .network import Network, batches
from .peers import Contestant, Session

# Rates may differ by this much, besides what single spikes make out in small populations.
RATE_TOLERANCE = {"fp32": 0.01, "default": 0.03, "int8": 0.03}
# Share of the first population's spikes that may differ: rounding of float32, and of int8 weights.
FIRST_TOLERANCE = {"fp32": 1e-4, "int8": 0.02}
# Smallest correlation of logits (about their mean over the images).
LOGITS_TOLERANCE = 0.9


class Mismatch(Exception):
    """Says which contestant computes something else, and where it shows."""


@dataclass(frozen=True)
class Reference:
    """What plain PyTorch computes for ``network.check``."""

    logits: np.ndarray
    rates: dict[str, float]
    neurons: dict[str, int]
    first: np.ndarray

    @property
    def rate(self) -> float:
        """Of all neurons together."""
        total = sum(self.neurons.values())
        return sum(rate * self.neurons[path] for path, rate in self.rates.items()) / total


@torch.no_grad()
def reference(network: Network) -> Reference:
    with use_backend("reference"), record(network.model) as seen:
        logits = network.model(network.check).numpy()
    first = next(iter(seen.spikes.values())).numpy()
    return Reference(logits, seen.rates, dict(seen.neuron_steps), first)


def check_engine(
    engine: Engine, precision: str, network: Network, expected: Reference
) -> dict[str, Any]:
    """How well the engine agrees; raises :class:`Mismatch` where it does not."""
    run = engine.run(network.check.numpy(), record=True)
    name, spikes = next(iter(run.spikes.items()))
    differs = float((np.asarray(spikes) != expected.first).mean())
    allowed = FIRST_TOLERANCE[precision] + 2 / expected.first.size
    if differs > allowed:
        raise Mismatch(
            f"{differs:.2%} of the spikes of {name} differ from PyTorch's, allowed {allowed:.2%}"
        )
    rates = {path: run.stats[path].rate for path in expected.rates}
    worst = _check_rates(rates, precision, expected)
    logits = _compare_logits(np.asarray(run.logits), expected.logits)
    return {"first_population_differs": differs, "worst_rate_error": worst, **logits}


def check_peer(
    contestant: Contestant,
    session: Session,
    rates: Session | None,
    network: Network,
    expected: Reference,
) -> dict[str, Any]:
    """The same for another runtime; ``rates`` is its session with the second output."""
    parts = batches(network.check, len(network.images))
    found = _compare_logits(
        np.concatenate([np.array(session.call(x)[0]) for x in parts]), expected.logits
    )
    if rates is None:
        correlation = found["logits_correlation"]
        if not correlation >= LOGITS_TOLERANCE:
            raise Mismatch(
                f"its logits correlate with PyTorch's by {correlation:.3f}, "
                f"expected {LOGITS_TOLERANCE}"
            )
        return found
    means = np.mean([np.array(rates.call(x)[1]) for x in parts], axis=0)
    named = dict(zip(expected.rates, means.tolist(), strict=True))
    return {"worst_rate_error": _check_rates(named, contestant.precision, expected), **found}


def _check_rates(rates: dict[str, float], precision: str, expected: Reference) -> float:
    worst = 0.0
    for path, rate in rates.items():
        error = abs(rate - expected.rates[path])
        allowed = RATE_TOLERANCE[precision] + 1 / math.sqrt(expected.neurons[path])
        if not error <= allowed:
            raise Mismatch(
                f"{path} fires at a rate of {rate:.4f}, PyTorch's at {expected.rates[path]:.4f}"
            )
        worst = max(worst, error)
    return worst


def _compare_logits(logits: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Told, not judged, where there are rates."""
    if not np.isfinite(logits).all():
        raise Mismatch("its logits are not finite")
    a, b = (x.astype(np.float64) - x.mean(0, dtype=np.float64) for x in (logits, expected))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return {
        "logits_correlation": float((a * b).sum()) / scale if scale else 0.0,
        "same_answers": int((logits.argmax(1) == expected.argmax(1)).sum()),
        "answers": len(logits),
    }
