"""Times that may be compared: everybody in short turns, with a pause before every call."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

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
