"""Draws docs/schedules.png: one spike on its way through an STMixer, under the three schedules.

Run it from the root of the repository: python docs/schedules.py [FILE]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import stmixer_ops as so

STEP_US, DURATION_US, EVENTS = 1000, 4000, 40
SCHEDULES = {
    "grid": "grid: a test of everyone at each tick",
    "rank": "rank: instant by instant",
    "serial": "serial: spike by spike",
}
INK, FAINT, WAY = "#22223b", "#9d9db0", "#c8553d"


def network(seed: int = 0) -> so.STMixer:
    """Integrate and fire, one block; weights as untrained ones are drawn, a little larger."""
    model = so.STMixer(16, 2, 4, embed_dim=32, depth=1, num_heads=4, decay=1.0, reset="soft")
    rng = np.random.default_rng(seed)  # draws the same everywhere
    for module in model.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.constant_(module.weight, 1.7)
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear, so.STM)):
            weight = module.weight.data
            targets = weight.shape[1] if weight.dim() == 3 else weight[:, 0].numel()
            weight.copy_(torch.from_numpy(rng.normal(0, np.sqrt(2 / targets), weight.shape)))
    return model.eval()


def recording() -> np.ndarray:
    """A spot that moves to the right."""
    rng = np.random.default_rng(0)
    events = np.zeros(EVENTS, so.events.DTYPE)
    events["t"] = np.sort(rng.integers(0, DURATION_US, EVENTS))
    events["x"] = 4 + rng.integers(0, 4, EVENTS) + events["t"] // 1500
    events["y"] = 6 + rng.integers(0, 4, EVENTS)
    events["p"] = rng.integers(0, 2, EVENTS)
    return events


def run(events: np.ndarray) -> dict[str, Any]:
    model = network()
    return {
        schedule: so.EventSimulator.compile(model, schedule=schedule, step_us=STEP_US).run(
            events, duration=DURATION_US, record=True
        )
        for schedule in SCHEDULES
    }


def chosen_event(spikes: dict[str, np.ndarray]) -> int:
    """The instant at which most populations fire while it is still easy to see."""
    counts: dict[int, list[int]] = {}
    for found in spikes.values():
        for t, n in zip(*np.unique(found["t"], return_counts=True), strict=True):
            counts.setdefault(int(t), []).append(int(n))
    most = max(map(len, counts.values()))
    return min((t for t, n in counts.items() if len(n) == most), key=lambda t: sum(counts[t]))


def draw(path: Path) -> None:
    """Needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    events = recording()
    results = run(events)
    instant = chosen_event(results["rank"].spikes)
    figure = Figure(figsize=(12, 6.6), facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    figure.subplots_adjust(left=0.13, right=0.985, bottom=0.15, top=0.92, wspace=0.05)
    for axes, (schedule, result) in zip(panels, results.items(), strict=True):
        panel(axes, schedule, result, events, instant)
    names = ["input", *results["rank"].spikes]
    panels[0].set_yticks([i + 0.5 for i in range(len(names))], map(short, names), fontsize=9)
    panels[1].set_xlabel("time in ms", color=INK)
    figure.text(
        0.13, 0.02,
        f"{EVENTS} events, one row a population, one dot a spike. Red: what the event at "
        f"{instant / 1000:.2f} ms sets off; in the grid, all that happens in its tick.",
        fontsize=10, color=INK,
    )  # fmt: skip
    figure.savefig(path, dpi=110)


def panel(axes: Any, schedule: str, result: Any, events: np.ndarray, instant: int) -> None:
    moment = instant // STEP_US * STEP_US if schedule == "grid" else instant
    rows: list[tuple[np.ndarray, np.ndarray, int]] = [
        (events["t"], events["y"] * 16 + events["x"], 256)
    ]
    for name, spikes in result.spikes.items():
        rows.append((spikes["t"], spikes["index"], result.counts[name][0].size))
    reached = 0
    for row, (times, index, size) in enumerate(rows):
        mine = times == (instant if row == 0 else moment)
        height = row + 0.1 + 0.8 * index / size
        axes.scatter(times[~mine] / 1000, height[~mine], 3, color=FAINT, linewidths=0)
        axes.scatter(times[mine] / 1000, height[mine], 9, color=WAY, linewidths=0, zorder=3)
        axes.axhline(row, color=FAINT, linewidth=0.4)
        axes.text(4.05, row + 0.5, f"{len(times)}", fontsize=8, va="center", ha="left", color=INK)
        reached = row + 1 if mine.any() else reached
    axes.plot([moment / 1000] * 2, [1, reached], color=WAY, alpha=0.35, linewidth=2)
    axes.plot([instant / 1000, moment / 1000], [0.95, 1], color=WAY, alpha=0.35, linewidth=2)
    if schedule == "grid":
        for tick in range(0, DURATION_US, STEP_US):
            axes.axvline(tick / 1000, color=FAINT, linestyle=":", linewidth=0.8)
    axes.set_title(SCHEDULES[schedule], fontsize=11, color=INK, loc="left")
    axes.set_xlim(-0.1, 4.55)
    axes.set_ylim(0, len(rows))
    axes.set_xticks(range(5))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_color(FAINT)
    stats = result.stats
    axes.text(
        0, -0.115, f"{stats.spikes:,} spikes, {stats.sops:,} SOPs", transform=axes.transAxes,
        fontsize=9, color=INK,
    )  # fmt: skip


def short(path: str) -> str:
    return path.removeprefix("patch_embed.").removeprefix("blocks.0.")


if __name__ == "__main__":
    draw(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/schedules.png"))
