"""Times that may be compared: everybody in short turns, with a pause before every call."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

T = TypeVar("T")

# Threads of a pool that spins would take the cores from whoever comes next: before each call all
# of them get the time to fall asleep.
PAUSE = 0.002

# Whether glibc hands freed tensors back to the kernel at every call is luck of addresses, and the
# page faults that follow would be PyTorch's. Where times are taken, everybody keeps memory.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call.

    Attributes:
        median, iqr: over all calls (iqr: third minus first quartile).
        calls: how many were timed.
        turns: median of each turn, in the order of time: shows whether the machine drifted.
    """

    median: float
    iqr: float
    calls: int
    turns: list[float]


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        turns: how often each contestant has its turn.
        seconds: length of a turn, as far as `calls` lets it.
        calls: fewest and most calls in a turn.
        pause: seconds before each call.
    """

    turns: int
    seconds: float
    calls: tuple[int, int]
    pause: float = PAUSE


FULL = Pace(turns=8, seconds=0.25, calls=(3, 12))
QUICK = Pace(turns=3, seconds=0.1, calls=(2, 8))


def race(contestants: Mapping[str, Callable[[], object]], pace: Pace) -> dict[str, Timing]:
    """Time every contestant's call; whatever else the machine does meets all of them."""
    counts: dict[str, int] = {}
    samples: dict[str, list[list[float]]] = {}
    for name, call in contestants.items():
        call()  # the first call allocates
        counts[name] = _calls_in_turn(_timed(call), pace)
        samples[name] = [[] for _ in range(pace.turns)]
    for turn in range(pace.turns):
        for name, call in contestants.items():
            call()  # warms caches and wakes threads that slept during the others' turns
            for _ in range(counts[name]):
                time.sleep(pace.pause)
                samples[name][turn].append(_timed(call))
    return {name: summary(turns) for name, turns in samples.items()}


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Another process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            time.sleep(0.3)  # until it has started
            yield
        finally:
            neighbour.kill()


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def _calls_in_turn(milliseconds: float, pace: Pace) -> int:
    fewest, most = pace.calls
    return min(most, max(fewest, round(1e3 * pace.seconds / max(milliseconds, 1e-3))))


def summary(turns: list[list[float]]) -> Timing:
    """Of samples in milliseconds, turn by turn."""
    samples = [sample for turn in turns for sample in turn]
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(
        statistics.median(samples),
        third - first,
        len(samples),
        [statistics.median(turn) for turn in turns],
    )


def latency(
    first: Callable[[T], object],
    second: Callable[[T], object],
    x: T,
    calls: int = 100,
    seconds: float = 3.0,
) -> tuple[float, float]:
    """Median milliseconds of ``first(x)`` and of ``second(x)``.

    The two alternate in short turns, so that whatever else the machine does meets both. Ends
    after ``calls`` of each, or with the turn in which the ``seconds`` are over.
    """
    timed: tuple[tuple[Callable[[T], object], list[float]], ...] = ((first, []), (second, []))
    turn = min(10, calls)
    end = time.perf_counter() + seconds
    for _ in range(-(-calls // turn)):
        if timed[1][1] and time.perf_counter() > end:
            break
        for run, times in timed:
            run(x)  # warms caches and wakes threads that slept during the other's turn
            times += [_timed(partial(run, x)) for _ in range(turn)]
    return statistics.median(timed[0][1]), statistics.median(timed[1][1])
