"""Plays a recording of an event camera in real time into a network that answers at any moment.

    python examples/stream_dvs.py model.stmx clip.bin --picture answer.png

Every slice of the recording prints the answer so far, how sure it is, and the synaptic operations
it has taken. The picture (needs matplotlib) shows events, answer and operations over time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import stmixer_ops as so


class Moment(NamedTuple):
    """What is known after a slice. ``lag_us``: how far the answer is behind the camera."""

    t: int
    events: int
    chances: np.ndarray
    sops: int
    lag_us: float


def play(
    simulator: so.EventSimulator, events: np.ndarray, slice_us: int, speed: float
) -> Iterator[Moment]:
    """Push slice after slice when its time has come; ``speed`` 0 does not wait."""
    stream = simulator.stream()
    began, pushed = time.perf_counter(), 0
    last = int(events["t"][-1]) if len(events) else 0
    for end in range(slice_us, last + slice_us + 1, slice_us):
        if speed > 0:
            due = began + end / 1e6 / speed
            time.sleep(max(0.0, due - time.perf_counter()))
        upto = int(np.searchsorted(events["t"], end))
        stream.push(events[pushed:upto])
        stream.advance(end)
        pushed = upto
        logits = stream.logits()
        passed = (time.perf_counter() - began) * 1e6 * speed
        yield Moment(end, pushed, softmax(logits), stream.stats().sops, max(0.0, passed - end))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def line(moment: Moment, labels: Sequence[str]) -> str:
    best = int(moment.chances.argmax())
    return (
        f"{moment.t / 1000:8.1f} ms  {moment.events:8,} events  {labels[best]:>12} "
        f"{moment.chances[best]:6.1%}  {moment.sops / 1e6:10.2f} M SOPs  "
        f"{moment.lag_us / 1000:6.1f} ms behind"
    )


def draw(path: Path, moments: Sequence[Moment], labels: Sequence[str]) -> None:
    """Three rows over time: events so far, the chances of the five best classes, SOPs so far."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(3, 1, sharex=True, height_ratios=[1, 2, 1])
    t = [m.t / 1000 for m in moments]
    rows[0].plot(t, [m.events / 1000 for m in moments], color="#1d6fb8")
    rows[0].set_ylabel("1000 events")
    for c in np.argsort(moments[-1].chances)[::-1][:5]:
        rows[1].plot(t, [m.chances[c] for m in moments], label=labels[c])
    rows[1].set(ylabel="chance", ylim=(0, 1))
    rows[1].legend(frameon=False, loc="upper left")
    rows[2].plot(t, [m.sops / 1e6 for m in moments], color="#c8553d")
    rows[2].set(ylabel="million SOPs", xlabel="time in ms")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="engine file (.stmx)")
    parser.add_argument("recording", help="file of an event camera, of any format that is read")
    parser.add_argument("--slice-ms", type=float, default=10.0, help="answer so often (10)")
    parser.add_argument("--speed", type=float, default=1.0, help="1: real time; 0: do not wait")
    parser.add_argument("--schedule", default="rank", choices=("rank", "serial", "grid"))
    parser.add_argument("--bias", default="refuse", help="what becomes of biases (refuse)")
    parser.add_argument("--step-us", type=int, help="what a step of the training stands for")
    parser.add_argument("--crop", action="store_true", help="cut out the centre if it is larger")
    parser.add_argument("--labels", help="names of the classes, separated by commas")
    parser.add_argument("--picture", type=Path, help="PNG file to draw")
    args = parser.parse_args(argv)
    if not args.slice_ms >= 0.001:
        parser.error(f"--slice-ms must be at least 0.001, got {args.slice_ms}")

    options = {"schedule": args.schedule, "bias": args.bias, "step_us": args.step_us}
    simulator = so.EventSimulator.load(args.model, **options)
    events = so.events.read(args.recording)
    labels = [f"class {c}" for c in range(simulator.num_classes)]
    if args.labels:
        labels = args.labels.split(",")
        if len(labels) != simulator.num_classes:
            parser.error(f"--labels must be {simulator.num_classes} names, got {len(labels)}")
    if args.crop:
        events = so.events.crop(events, simulator.input_shape[1:])

    moments = []
    for moment in play(simulator, events, round(args.slice_ms * 1000), args.speed):
        print(line(moment, labels), flush=True)
        moments.append(moment)
    if args.picture is not None and moments:
        draw(args.picture, moments, labels)
        print(args.picture)


if __name__ == "__main__":
    main()
