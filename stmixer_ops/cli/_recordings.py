"""What commands share that read recordings or simulate a network with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import user_path
from ..data.framing import says_how, stored_events
from ..events import Events, EventSimulator, crop, downsample, read
from ._arguments import positive

EPILOG = (
    "Where stmixer compile has left a labels file beside the engine file, recordings are read, "
    "cropped or scaled as the network was trained, unless --crop or --downsample says otherwise."
)
_ANNOUNCED = 64 << 20  # bytes of a file whose reading takes a second or more


def add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--partial", action="store_true", help="keep what comes before a fault in the file"
    )
    parser.add_argument(
        "--sort", action="store_true", help="sort events that are not in order of time"
    )


def add_scaling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--crop", type=positive, metavar="SIDE", help="keep a square of the centre")
    parser.add_argument(
        "--downsample", type=positive, metavar="SIDE", help="scale to so many pixels a side"
    )


def read_recording(args: argparse.Namespace, name: str | Path) -> Events:
    path = user_path(name)
    if path.is_file() and (size := path.stat().st_size) > _ANNOUNCED:
        print(f"reading {path}, {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return read(path, args.partial, sort=args.sort)


def scaled_recording(
    args: argparse.Namespace, name: str, labels: Mapping[str, Any] | None = None
) -> Events:
    """Cropped and scaled as is asked for; else as the network was trained, if ``labels`` say."""
    if labels and says_how(labels) and args.crop is None and args.downsample is None:
        return stored_events(labels, user_path(name), lambda path: read_recording(args, path))
    events = read_recording(args, name)
    if args.crop is not None:
        events = crop(events, args.crop)
    if args.downsample is not None:
        events = downsample(events, args.downsample)
    return events


# Options of EventSimulator: name, how argparse reads it, help.
_SIMULATION: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("schedule", {"choices": ("rank", "serial", "grid")}, "without a clock (rank, the default, or "
     "serial), or as the engine computes (grid)"),
    ("step_us", {"type": positive}, "microseconds that a step of the trained network stands for "
     "(default: what it was trained on, else 31000)"),
    ("bias", {"choices": ("refuse", "current", "initial", "tick", "drop")}, "what becomes of "
     "biases, which no clock adds (default refuse)"),
    ("readout", {"choices": ("rate", "total")}, "logits per elapsed step, or per step of the "
     "network"),
    ("multi_spike", {"action": "store_true", "default": None}, "as many spikes at a test as "
     "thresholds fit into the membrane"),
    ("refractory_us", {"type": int}, "microseconds without a test after a spike (default 0)"),
    ("v_min", {"type": float}, "membranes stay at or above it"),
    ("tau_us", {"type": float}, "time constant of every leak, microseconds"),
    ("order", {"choices": ("fifo", "depth")}, "serial: in which order spikes are followed"),
    ("order_seed", {"type": int}, "serial: a random order of the spikes that one causes"),
    ("delay_us", {"type": int}, "how late spikes come"),
    ("jitter_us", {"type": int}, "how much later at most, at random"),
    ("drop", {"type": float}, "share of spikes that are lost"),
    ("seed", {"type": int}, "of jitter and losses (default 0)"),
    ("latch_us", {"type": int}, "how long pools and spike products hold a spike"),
    ("max_sops", {"type": positive}, "stop a recording that causes more synaptic operations"),
    ("preset", {"choices": ("speck",)}, "what a chip does"),
)  # fmt: skip


def add_simulation(parser: argparse.ArgumentParser) -> None:
    """Options of the simulator, and when a recording begins and ends."""
    group = parser.add_argument_group("simulation")
    for name, how, text in _SIMULATION:
        group.add_argument("--" + name.replace("_", "-"), help=text, **how)
    group.add_argument(
        "--t0", type=int, default=0, help="when recordings begin, microseconds (default 0)"
    )
    group.add_argument(
        "--duration", type=positive,
        help="how long they last, microseconds (default: up to the last event)",
    )  # fmt: skip


def load_simulator(args: argparse.Namespace, labels: Mapping[str, Any] | None) -> EventSimulator:
    """Of ``args.model`` with the options that were given; one thread a recording."""
    given = {name: getattr(args, name) for name, _, _ in _SIMULATION}
    if labels and says_how(labels) and given["step_us"] is None:
        given["step_us"] = labels["made"].get("step_us")
    options = {name: value for name, value in given.items() if value is not None}
    return EventSimulator.load(args.model, num_threads=1, **options)
