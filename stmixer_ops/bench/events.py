"""The event-driven simulator on one core: synaptic operations and events a second."""

from __future__ import annotations

import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..events import DTYPE, EventSimulator
from ..graph import Graph
from ..graph.export import export
from ..measure.table import format_table, quantity
from ..models import STMixer

SIZE = 32
EVENTS, DURATION_US = 4000, 300_000


@dataclass(frozen=True)
class Case:
    """A network of ``depth`` blocks; ``sops``: what a recording of N-MNIST costs one that is
    trained, fan-out."""

    name: str
    width: int
    heads: int
    depth: int
    sops: float


CASES = (
    Case("2-32-8", 32, 8, 2, 4.8e6),
    Case("2-64-8", 64, 8, 2, 6.6e6),
    Case("4-384-16", 384, 16, 4, 5.3e8),
)
SCHEDULES, DECAYS = ("rank", "serial"), (1.0, 0.5)


def recording(seed: int = 0) -> np.ndarray:
    """A disc that moves along a triangle, as N-MNIST's camera did: events at its rim."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, DURATION_US, EVENTS))
    phase = 2 * np.pi * t / DURATION_US
    angle = rng.uniform(0, 2 * np.pi, EVENTS)
    events = np.zeros(EVENTS, DTYPE)
    events["t"] = t
    for field, centre, rim in (
        ("x", np.cos(phase), np.cos(angle)),
        ("y", np.sin(phase), np.sin(angle)),
    ):
        place = 16 + 4 * centre + 8 * rim + rng.normal(0, 0.7, EVENTS)
        events[field] = np.clip(np.rint(place), 0, SIZE - 1)
    events["p"] = rng.integers(0, 2, EVENTS)
    return events


def network(case: Case, decay: float, events: np.ndarray) -> Graph:
    """Untrained, with batch norms under which a recording costs what it costs a trained one."""
    low, high = 0.05, 5.0
    for _ in range(12):
        variance = (low * high) ** 0.5
        graph = _network(case, decay, variance)
        simulator = EventSimulator(graph, bias="drop", num_threads=1, max_sops=int(1.5 * case.sops))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # too many is what is looked for
            sops = simulator.run(events).stats.sops_fanout
        if abs(sops / case.sops - 1) < 0.25:
            break
        low, high = (variance, high) if sops > case.sops else (low, variance)
    return graph


def _network(case: Case, decay: float, variance: float) -> Graph:
    torch.manual_seed(0)
    model = STMixer(
        SIZE, in_channels=2, embed_dim=case.width, depth=case.depth, num_heads=case.heads,
        T=10, decay=decay,
    ).eval()  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_var.fill_(variance)
    return export(model)


def measure(turns: int = 7, cases: tuple[Case, ...] = CASES) -> list[dict[str, Any]]:
    """One row per network, leak and schedule; processor time of one thread, median of turns."""
    events, rows = recording(), []
    for case in cases:
        for decay in DECAYS:
            graph = network(case, decay, events)
            for schedule in SCHEDULES:
                simulator = EventSimulator(graph, schedule=schedule, bias="drop", num_threads=1)
                result = simulator.run(events)  # also fetches the weights
                times = [_time(simulator, events) for _ in range(turns)]
                seconds = statistics.median(times)
                rows.append(
                    {
                        "network": case.name,
                        "schedule": schedule,
                        "decay": decay,
                        "sops": result.stats.sops_fanout,
                        "spikes": result.stats.spikes,
                        "seconds": times,
                        "sops_per_second": result.stats.sops_fanout / seconds,
                        "events_per_second": len(events) / seconds,
                        "real_time_factor": DURATION_US * 1e-6 / seconds,
                    }
                )
    return rows


def _time(simulator: EventSimulator, events: np.ndarray) -> float:
    start = time.process_time()
    simulator.run(events)
    return time.process_time() - start


def show(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return format_table(
        ["network", "schedule", "leak", "SOPs", "SOP/s", "events/s", "x real time"],
        [
            [
                row["network"], row["schedule"], "yes" if row["decay"] < 1 else "no",
                quantity(row["sops"]), quantity(row["sops_per_second"]),
                quantity(row["events_per_second"]), f"{row['real_time_factor']:.1f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
