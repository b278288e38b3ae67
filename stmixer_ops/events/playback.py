"""A recording run through a network, and what there is to see after each piece of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._numbers import integer
from .array import Events, as_events

if TYPE_CHECKING:
    from .simulator import EventSimulator

PIECES = 200
MOST_ROWS = 64
_MOST = 2**62


@dataclass(frozen=True)
class Playback:
    """What :func:`play` gives: n pieces of one recording, and the network at the end of each.

    Attributes:
        events: the recording.
        sensor: height and width of the network's input.
        edges: int64 ``[n + 1]``, µs; piece k holds what happens in ``[edges[k], edges[k + 1])``.
        logits: float32 ``[n, classes]``.
        sops, sops_fanout: int64 ``[n]``, synaptic operations since the beginning.
        neurons: LIF population -> number of neurons.
        spikes: LIF population -> int64 ``[rows, n]``, spikes in each piece. A row is one channel,
            or several neighbours where a population has more than 64.
        channels: LIF population -> channels a row (the last row may have fewer).
        stopped: when ``max_sops`` ended the recording early, µs; else None.
    """

    events: Events
    sensor: tuple[int, int]
    edges: np.ndarray
    logits: np.ndarray
    sops: np.ndarray
    sops_fanout: np.ndarray
    neurons: dict[str, int]
    spikes: dict[str, np.ndarray]
    channels: dict[str, int]
    stopped: int | None


def play(
    simulator: EventSimulator,
    events: Any,
    t0: int = 0,
    duration: int | None = None,
    pieces: int = PIECES,
    progress: Callable[[int, int], None] = lambda done, pieces: None,
) -> Playback:
    """Run a recording and look at the network after each of at most ``pieces`` equal pieces of it.

    With ``schedule="grid"`` a piece is a number of ticks, else of microseconds. The answer at the
    end is that of :meth:`EventSimulator.run`, bit for bit.

    Args:
        events: a recording that fits the network's input.
        t0, duration: as :meth:`EventSimulator.run` takes them, µs.
        progress: is called after each piece with the number of pieces done and that of all.
    Raises:
        ValueError: an event outside of the input or of the time, by its index; neither an event nor
            a duration.
    """
    channels, height, width = simulator.input_shape
    events = as_events(events, (height, width))
    t0 = integer("t0", t0, least=-_MOST, most=_MOST)
    end = _end(events, t0, duration, channels)
    edges = _edges(t0, end, integer("pieces", pieces), _unit(simulator))
    stream = simulator.stream(t0)
    bounds = np.searchsorted(events["t"], edges)
    logits, sops, counts = [], [], []
    for k, edge in enumerate(edges[1:].tolist()):
        stream.push(events[bounds[k] : bounds[k + 1]])
        stream.advance(edge - 1)
        stats = stream.stats()
        logits.append(stream.logits())
        sops.append((stats.sops, stats.sops_fanout))
        counts.append({name: _by_row(c) for name, c in stream.counts().items()})
        progress(k + 1, len(edges) - 1)
    shared, fanout = np.array(sops, np.int64).T
    return Playback(
        events=events,
        sensor=(height, width),
        edges=edges,
        logits=np.stack(logits),
        sops=shared,
        sops_fanout=fanout,
        neurons={row.name: row.neurons for row in stats[1:]},
        spikes={
            name: np.diff(np.stack([c[name] for c in counts], axis=1), prepend=0)
            for name in counts[0]
        },
        channels={name: _channels_a_row(len(c)) for name, c in stream.counts().items()},
        stopped=stream.time if stream.stopped else None,
    )


def _end(events: Events, t0: int, duration: int | None, channels: int) -> int:
    """When the recording is over, if every event lies in its time and has a channel."""
    t = events["t"]
    if duration is not None:
        end = t0 + integer("duration", duration, most=_MOST)
    elif len(t):
        end = int(t[-1]) + 1
    else:
        raise ValueError("events: expected at least one to play, or a duration, got none")
    if len(t) and t[0] < t0:
        raise ValueError(f"events: event 0: t={t[0]} lies before t0={t0}")
    if len(t) and t[-1] >= end:
        first = int(np.searchsorted(t, end))
        raise ValueError(f"events: event {first}: t={t[first]} lies behind t0 + duration, {end}")
    if channels == 1 and events["p"].any():
        first = int(events["p"].argmax())
        raise ValueError(f"events: event {first}: p=1, but the input has one channel")
    return end


def _unit(simulator: EventSimulator) -> int:
    """What pieces are made of, µs: a tick is not cut."""
    return simulator.step_us if simulator.schedule == "grid" else 1


def _edges(t0: int, end: int, pieces: int, unit: int) -> np.ndarray:
    units = -(-(end - t0) // unit)
    pieces = min(pieces, units)
    return np.array([t0 + units * k // pieces * unit for k in range(pieces + 1)], np.int64)


def _channels_a_row(channels: int) -> int:
    return -(-channels // MOST_ROWS)


def _by_row(counts: np.ndarray) -> np.ndarray:
    """Counts of a population, ``[C, ...]``, summed over each row of channels."""
    each = counts.reshape(len(counts), -1).sum(axis=1)
    return np.add.reduceat(each, np.arange(0, len(each), _channels_a_row(len(each))))
