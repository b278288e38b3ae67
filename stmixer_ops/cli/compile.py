"""``stmixer compile``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine import Engine
from ..train.checkpoint import load_checkpoint
from ._arguments import positive
from ._labels import write_labels


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", help="file of stmixer train")
    parser.add_argument("-o", "--out", help="engine file (default: the checkpoint's name, .stmx)")
    parser.add_argument("--T", type=positive, help="other time steps than in training")
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32")


def run(args: argparse.Namespace) -> int:
    saved = load_checkpoint(args.checkpoint)
    out = Path(args.out) if args.out else saved.path.with_suffix(".stmx")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: expected the folder {out.parent} to exist")
    model = saved.build_model(**({"T": args.T} if args.T else {}))
    engine = Engine.compile(model, precision=args.precision)
    engine.save(out)
    write_labels(out, saved.config["data"])
    print(f"{out}: {engine}, {out.stat().st_size / 1e6:.2f} MB")
    return 0
