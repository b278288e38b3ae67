"""``stmixer simulate``: recordings through a network without a clock; needs no PyTorch."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.network import thread_count
from ..events import EventResult, EventSimulator
from ..measure.table import format_table, quantity
from ._arguments import positive
from ._labels import class_names, labels_beside
from ._progress import progress
from ._recordings import (
    EPILOG,
    add_reading,
    add_scaling,
    add_simulation,
    load_simulator,
    scaled_recording,
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.epilog = EPILOG
    parser.add_argument("model", help="file of stmixer compile (.stmx)")
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--top", type=positive, default=3, help="classes to print (default 3)")
    parser.add_argument(
        "--confidence", type=_confidence, metavar="C",
        help="latency: until softmax reaches C; by default until the answer is final",
    )  # fmt: skip
    parser.add_argument("--stats", action="store_true", help="a table of the populations")
    parser.add_argument("--json", action="store_true", help="print JSON, one line a recording")
    parser.add_argument("--threads", type=positive, help="recordings at a time (default: the CPUs)")
    add_reading(parser)
    add_scaling(parser)
    add_simulation(parser)


def _confidence(text: str) -> float:
    """argparse type: a number in (0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in (0, 1], got {text!r}")
    return value


@dataclass(frozen=True)
class Run:
    """Of one recording: ``latency`` in µs since t0 and as a share of the events, NaN for never."""

    events: int
    result: EventResult
    elapsed_us: float
    seconds: float
    latency: np.ndarray

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def real_time_factor(self) -> float:
        """Time of the recording per time of the computation: above 1 is faster than the camera."""
        return self.elapsed_us / 1e6 / self.seconds

    def answer(self, top: int) -> list[tuple[int, float]]:
        """The likeliest classes and what softmax gives them."""
        logits = self.result.logits[0].astype(np.float64)
        share = np.exp(logits - logits.max())
        share /= share.sum()
        return [(int(i), float(share[i])) for i in np.argsort(-share, kind="stable")[:top]]


def run(args: argparse.Namespace) -> int:
    labels = labels_beside(Path(args.model))
    simulator = load_simulator(args, labels)
    classes = class_names(labels, simulator.num_classes)
    count, unread, stopped = len(args.files), 0, 0
    with (
        progress("simulating") as shown,
        _pool(min(thread_count(args.threads), count)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", ".* was stopped at", RuntimeWarning)  # a row says so
        runs = [pool.submit(_simulate, args, simulator, labels, name) for name in args.files]
        for done, (name, future) in enumerate(zip(args.files, runs, strict=True)):
            shown.status(f"{done} of {count} recordings done" if count > 1 else "")
            try:
                one = future.result()
            except (OSError, ValueError) as error:  # the others are simulated all the same
                shown.line(f"stmixer: error: {' '.join(str(error).split())}", sys.stderr)
                unread += 1
                continue
            stopped += bool(one.result.stopped[0])
            shown.line((_as_json if args.json else _as_text)(name, one, classes, args))
    return 0 if not unread + stopped else 1 if unread < count else 2


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads; what has not begun is left undone when this ends early."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _simulate(
    args: argparse.Namespace, simulator: EventSimulator, labels: dict[str, Any] | None, name: str
) -> Run:
    try:
        events = scaled_recording(args, name, labels)
        start = time.perf_counter()
        result = simulator.run(events, args.t0, args.duration)
        seconds = time.perf_counter() - start
        elapsed_us = result.stats.steps * simulator.step_us
        return Run(len(events), result, elapsed_us, seconds, result.latency(args.confidence)[0])
    except ValueError as error:
        raise error if name in str(error) else ValueError(f"{name}: {error}") from None


def _as_text(name: str, run: Run, classes: Sequence[str], args: argparse.Namespace) -> str:
    stats = run.result.stats
    after, share = run.latency
    sure = "final" if args.confidence is None else f"softmax {args.confidence:g}"
    late = f"{sure} after {quantity(after / 1e3, 'ms')} and {100 * share:.1f} % of the events"
    rows = [
        ("answer", ", ".join(f"{classes[i]} {100 * s:.1f} %" for i, s in run.answer(args.top))),
        ("latency", f"{sure}: never" if np.isnan(after) else late),
        ("spikes", f"{quantity(stats.spikes)} of {quantity(run.events)} events"),
        ("SOPs", f"{quantity(stats.sops)} shared, {quantity(stats.sops_fanout)} with fan-out"),
        ("speed", f"{quantity(run.events_per_second, 'events/s')}, "
                  f"{quantity(run.real_time_factor)} times real time"),
    ]  # fmt: skip
    if run.result.stopped[0]:
        after = quantity(run.elapsed_us / 1e3, "ms")
        rows.append(("stopped", f"after {after}: more than {args.max_sops} SOPs with fan-out; "
                                "all figures are of what came before"))  # fmt: skip
    lines = [str(name), *(f"  {label:<9}{value}" for label, value in rows)]
    return "\n".join([*lines, _table(run), ""] if args.stats else lines)


def _table(run: Run) -> str:
    header = ["population", "neurons", "spikes", "rate", "SOPs", "fan-out", "updates"]
    rows = [
        [
            row.name, f"{row.neurons:,}", f"{row.spikes:,}", f"{row.rate:.4f}", f"{row.sops:,}",
            f"{row.sops_fanout:,}", f"{row.updates:,}",
        ]
        for row in run.result.stats
    ]  # fmt: skip
    return format_table(header, rows)


def _as_json(name: str, run: Run, classes: Sequence[str], args: argparse.Namespace) -> str:
    stats = run.result.stats
    after, share = (None if np.isnan(v) else float(v) for v in run.latency)
    content: dict[str, Any] = {
        "file": str(name),
        "events": run.events,
        "elapsed_us": run.elapsed_us,
        "answer": classes[run.answer(1)[0][0]],
        "logits": [float(logit) for logit in run.result.logits[0]],
        "latency_us": after,
        "latency_events": share,
        "spikes": stats.spikes,
        "sops": stats.sops,
        "sops_fanout": stats.sops_fanout,
        "updates": stats.updates,
        "seconds": run.seconds,
        "events_per_second": run.events_per_second,
        "real_time_factor": run.real_time_factor,
        "stopped": bool(run.result.stopped[0]),
    }
    if args.stats:
        content["populations"] = [asdict(row) for row in stats]
    return json.dumps(content)
