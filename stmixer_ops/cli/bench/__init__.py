"""``stmixer bench``: the engine against whatever else is installed, on the same network."""

from __future__ import annotations

import argparse

from .._arguments import positive

_ENGINE = "whole networks: engine, ONNX Runtime, OpenVINO, PyTorch; speed, memory, first answer"
_SWEEP = "single layers over the density of their input: where dense kernels win"


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
        command.add_argument(
            "--out", default="out/bench", help="folder for JSON and pictures (out/bench)"
        )


def _run_engine(args: argparse.Namespace) -> int:
    from .engine import run

    return run(args)


def _run_sweep(args: argparse.Namespace) -> int:
    from .sweep import run

    return run(args)
