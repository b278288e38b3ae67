"""``stmixer check-async``."""

from __future__ import annotations

import argparse
import sys

from ..chips import check_async, chip_names


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.epilog = (
        "Exit status 0: it fits; 1: it does not. Without --chip: the rules of a chip without any "
        "clock."
    )
    parser.add_argument(
        "model", help="checkpoint, engine file (.stmx), or a name for create_model (random weights)"
    )
    parser.add_argument("--chip", choices=chip_names(), help="the chip by whose limits to check")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    if sys.stderr.isatty():
        print(f"reading {args.model} ...", file=sys.stderr)  # a large one takes seconds
    report = check_async(args.model, args.chip)
    print(report.to_json() if args.json else report)
    return 0 if report.ok else 1
