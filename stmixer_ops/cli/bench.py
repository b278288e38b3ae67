"""``stmixer bench``: the engine against whatever else is installed, on the same network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._files import user_path, write_atomically
from ._arguments import positive

_ENGINE = "whole networks: engine, ONNX Runtime, OpenVINO, PyTorch; speed, memory, first answer"
_SWEEP = "single layers over the density of their input: where dense kernels win"
_EVENTS = "the event-driven simulator: synaptic operations and events a second on one core"


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(
        dest="what", metavar="WHAT", required=True, parser_class=type(parser)
    )
    engine = commands.add_parser("engine", help=_ENGINE, description=_ENGINE)
    engine.set_defaults(run=_run_engine)
    engine.epilog = (
        "Everybody computes the same network, which is checked first, with the same threads, in "
        "short turns with a pause before every call. Peers: pip install stmixer-ops[bench]."
    )
    engine.add_argument("--cases", nargs="+", metavar="CASE", help="only these (see --list)")
    engine.add_argument("--list", action="store_true", help="name the cases, measure nothing")
    engine.add_argument("--quick", action="store_true", help="two cases, few calls")
    engine.add_argument("--model", help="another name for create_model (stmixer_4_384_16)")
    engine.add_argument("--img-size", type=positive, help="height and width of its images")
    engine.add_argument(
        "--checkpoint", metavar="FILE",
        help="file of stmixer train: adds cases on its own test images",
    )  # fmt: skip
    engine.add_argument("--data", help="data set of the checkpoint; by default its own")
    engine.add_argument("--root", help="folder of the data set")
    sweep = commands.add_parser("sweep", help=_SWEEP, description=_SWEEP)
    sweep.set_defaults(run=_run_sweep)
    sweep.add_argument("--quick", action="store_true", help="few densities, few calls")
    for command in (engine, sweep):
        command.add_argument("--threads", type=positive, default=2, help="CPU threads (default 2)")
    events = commands.add_parser("events", help=_EVENTS, description=_EVENTS)
    events.set_defaults(run=_run_events)
    events.add_argument("--quick", action="store_true", help="the smallest network, few turns")
    for command in (engine, sweep, events):
        command.add_argument(
            "--out", default="out/bench", help="folder for JSON and pictures (out/bench)"
        )


def _run_engine(args: argparse.Namespace) -> int:
    from ..bench.cases import CASES, TRAINED, choose
    from ..bench.engine import measure_cases
    from ..bench.plot import draw_engine, require_matplotlib
    from ..bench.report import failures, show
    from ..measure.timing import FULL, QUICK

    if args.list:
        for case in (*CASES, *TRAINED):
            print(f"{case.name:<12} {case.describe()}")
        return 0
    cases = choose(
        args.cases,
        quick=args.quick,
        model=args.model,
        img_size=args.img_size,
        checkpoint=None if args.checkpoint is None else str(user_path(args.checkpoint).resolve()),
        data=args.data,
        root=None if args.root is None else str(user_path(args.root).resolve()),
    )
    require_matplotlib()  # now rather than after minutes
    about, results = measure_cases(cases, args.threads, QUICK if args.quick else FULL)
    print(show(results, about))
    content = {"machine": about, "cases": results}
    _write(user_path(args.out), "engine", content, lambda path: draw_engine(path, results, about))
    wrong = failures(results)
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


def _run_sweep(args: argparse.Namespace) -> int:
    from ..bench.plot import draw_sweep, require_matplotlib
    from ..bench.sweep import DENSITIES, measure_layers, show
    from ..measure.machine import machine

    require_matplotlib()
    about = machine(args.threads)
    densities = DENSITIES[2::3] if args.quick else DENSITIES
    results = measure_layers(densities, args.threads, turns=2 if args.quick else 8)
    print(show(results, densities))
    content = {"machine": about, "layers": results}
    _write(user_path(args.out), "sweep", content, lambda path: draw_sweep(path, results, about))
    return 0


def _run_events(args: argparse.Namespace) -> int:
    from ..bench.events import CASES, measure, show
    from ..measure.machine import machine

    rows = measure(3, CASES[:1]) if args.quick else measure()
    print(show(rows))
    out = user_path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine(1), "rows": rows}, indent=1) + "\n"
    write_atomically(out / "events.json", lambda path: path.write_text(text))
    print(f"\nwritten to {out / 'events.json'}")
    return 0


def _write(out: Path, name: str, content: Any, draw: Callable[[Path], None]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    results, picture = out / f"{name}.json", out / f"{name}.png"
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(results, lambda path: path.write_text(text))
    draw(picture)
    print(f"\nwritten to {results} and {picture}")
