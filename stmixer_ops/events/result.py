"""What a run of the event-driven simulator gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.stats import StatsRow, StatsRows
from ..measure.energy import Row

Outcome = Mapping[str, Any]
"""Of one recording, as the extension gives it."""

Shapes = Sequence[tuple[str, Sequence[int]]]

SPIKE = np.dtype([("t", np.int64), ("index", np.int64), ("recording", np.int64)])


@dataclass(frozen=True)
class EventStats(StatsRow):
    """One population of one run, all its recordings together.

    Attributes:
        name: module path; that of the input for the first row.
        neurons: number of neurons.
        spikes: number of spikes; of the input: events.
        rate: spikes per neuron and step of ``step_us``.
        sops: synaptic operations those spikes caused, each projection counted once, however many
            populations integrate its current. The readout counts in neither figure.
        sops_fanout: the same, counted for each population that the spikes are delivered to.
        updates: visits of the population's neurons (``grid``: neurons times ticks).
    """

    name: str
    neurons: int
    spikes: int
    rate: float
    sops: int
    sops_fanout: int
    updates: int


class RunStats(StatsRows[EventStats]):
    """The input and the LIF populations of one run, by index or by module path.

    Attributes:
        images: number of recordings.
        steps: their length in steps of ``step_us``, all together.
    """

    def __init__(self, rows: Sequence[EventStats], images: int, steps: float) -> None:
        super().__init__(rows, images)
        self.steps = steps

    @property
    def spikes(self) -> int:
        """Of the LIF populations."""
        return sum(row.spikes for row in self[1:])

    @property
    def sops_fanout(self) -> int:
        return sum(row.sops_fanout for row in self)

    @property
    def updates(self) -> int:
        return sum(row.updates for row in self)

    def layer_totals(self) -> Iterator[Row]:
        for row in self:
            yield Row(row.name, row.rate, row.spikes, 0, row.sops, row.neurons)

    def __repr__(self) -> str:
        return (
            f"RunStats({len(self)} populations, {self.images} recordings: {self.spikes} spikes, "
            f"{self.sops} SOPs, {self.sops_fanout} with fan-out)"
        )


def make_stats(input_name: str, shapes: Shapes, outcomes: Sequence[Outcome]) -> RunStats:
    """``shapes``: of the input, whose name is given apart, and of the populations."""
    steps = float(sum(outcome["steps"] for outcome in outcomes))
    rows = []
    for i, (name, shape) in enumerate(shapes):
        spikes, sops, fanout, updates = (
            sum(outcome["activity"][i][k] for outcome in outcomes) for k in range(4)
        )
        neurons = int(np.prod(shape))
        rate = spikes / (neurons * steps) if steps else 0.0
        rows.append(
            EventStats(name if i else input_name, neurons, spikes, rate, sops, fanout, updates)
        )
    return RunStats(rows, len(outcomes), steps)


def counts_of(outcome: Outcome, shapes: Shapes) -> dict[str, np.ndarray]:
    """Module path -> int64 ``[C, H, W]`` or ``[C, N]``."""
    return {
        name: np.frombuffer(counts, np.int64).reshape(shape).copy()
        for (name, shape), counts in zip(shapes, outcome["counts"], strict=True)
    }


def spikes_of(outcomes: Sequence[Outcome], shapes: Shapes) -> dict[str, np.ndarray]:
    """Module path -> ``t, index, recording``, recording by recording in order of emission."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name, _ in shapes}
    for number, outcome in enumerate(outcomes):
        t, population, index = (
            np.frombuffer(column, dtype)
            for column, dtype in zip(outcome["spikes"], (np.int64, np.int32, np.int32), strict=True)
        )
        for i, (name, _) in enumerate(shapes):
            mine = population == i
            spikes = np.empty(int(mine.sum()), SPIKE)
            spikes["t"], spikes["index"], spikes["recording"] = t[mine], index[mine], number
            parts[name].append(spikes)
    return {
        name: np.concatenate(found) if found else np.empty(0, SPIKE)
        for name, found in parts.items()
    }


class EventResult:
    """What :meth:`EventSimulator.run` gives for B recordings.

    Attributes:
        logits: float32 ``[B, classes]``.
        counts: module path of each LIF population -> int64 ``[B, C, H, W]`` or ``[B, C, N]``.
        spikes: with ``record``, module path -> structured array ``t`` (µs), ``index`` (flat, into
            ``[C, H, W]``), ``recording``; else empty.
        stats: the input and the LIF populations: spikes, SOPs, visits.
        stopped: bool ``[B]``, whether ``max_sops`` ended a recording early.
    """

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        input_name: str,
        shapes: Shapes,
        classes: int,
        record: bool,
        trace: Callable[[], list[tuple[np.ndarray, Outcome, int]]],
    ) -> None:
        populations = shapes[1:]
        self.logits = np.array([o["logits"] for o in outcomes], np.float32).reshape(-1, classes)
        each = [counts_of(outcome, populations) for outcome in outcomes]
        self.counts = {
            name: np.stack([counts[name] for counts in each])
            if each
            else np.empty((0, *shape), np.int64)
            for name, shape in populations
        }
        self.spikes = spikes_of(outcomes, populations) if record else {}
        self.stats = make_stats(input_name, shapes, outcomes)
        self.stopped = np.array([outcome["stopped"] for outcome in outcomes], bool)
        self._trace = trace

    def latency(self, confidence: float | None = None) -> np.ndarray:
        """When the answer is there, per recording. Runs the recordings once more.

        Args:
            confidence: None for the first moment after which the largest logit stays that of the
                final answer; a number in (0, 1] for the first at which softmax reaches it.
        Returns:
            float64 ``[B, 2]``: µs since ``t0``, and the share of the events that had come by then;
            NaN where it never happens.
        Raises:
            ValueError: ``confidence`` is out of range, or the input was no events.
        """
        if confidence is not None and not 0 < confidence <= 1:
            raise ValueError(f"confidence must lie in (0, 1], got {confidence!r}")
        found = np.full((len(self.logits), 2), np.nan)
        for row, (times, outcome, t0) in enumerate(self._trace()):
            t, best, sure = (
                np.frombuffer(column, dtype)
                for column, dtype in zip(
                    outcome["moments"], (np.int64, np.int32, np.float64), strict=True
                )
            )
            if confidence is None:
                wrong = np.flatnonzero(best != self.logits[row].argmax())
                first = int(wrong[-1]) + 1 if len(wrong) else 0
            else:
                reached = np.flatnonzero(sure >= confidence)
                first = int(reached[0]) if len(reached) else len(t)
            if first < len(t):
                moment = t[first]
                share = np.searchsorted(times, moment, "right") / max(len(times), 1)
                found[row] = moment - t0, share
        return found

    def __repr__(self) -> str:
        return f"EventResult({len(self.logits)} recordings, {self.stats!r})"
