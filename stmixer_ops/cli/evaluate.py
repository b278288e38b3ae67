"""``stmixer eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..data import load_stored, stored_preparation, with_steps
from ..engine import Engine
from ..measure.table import format_table
from ..train.checkpoint import load_checkpoint
from ..train.evaluate import evaluate
from ..train.progress import open_display
from ._arguments import add_data, add_threads, device, positive, set_threads
from ._labels import read_labels


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("model", help="file of stmixer train, or of stmixer compile (.stmx)")
    add_data(parser)
    parser.add_argument("--T", type=positive, help="other time steps than in training")
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--device", type=device, default="cpu", help="cpu, cuda, auto, ...")
    add_threads(parser)
    parser.add_argument("--confusion", action="store_true", help="print the confusion matrix")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    model, stored = _load(args)
    data = load_stored(stored, args.model, args.data, args.root, open_display())
    prepare = stored_preparation(stored)
    result = evaluate(model, data.test, prepare=prepare, batch_size=args.batch_size)
    if args.json:
        content = {
            "count": result.count,
            "correct": result.correct,
            "top1": result.top1,
            "loss": result.loss,
            "confusion": result.confusion.tolist(),
        }
        print(json.dumps(content))
        return 0
    print(
        f"{data.name}: {result.correct} of {result.count} test images correct, "
        f"top-1 {100 * result.top1:.2f} %, cross-entropy {result.loss:.4f}"
    )
    if args.confusion:
        rows = [
            [name, *map(str, counts)]
            for name, counts in zip(data.classes, result.confusion.tolist(), strict=True)
        ]
        print("\nrows: true class, columns: predicted")
        print(format_table(["", *data.classes], rows))
    return 0


def _load(args: argparse.Namespace) -> tuple[Callable[[Tensor], Tensor], Mapping[str, Any]]:
    """The model and what is stored about its data."""
    if Path(args.model).suffix != ".stmx":
        saved = load_checkpoint(args.model)
        model = saved.build_model(**({"T": args.T} if args.T else {}))
        return model.to(args.device), with_steps(saved.config["data"], args.T)
    if args.T or args.device != "cpu":
        raise ValueError(
            f"{args.model}: an engine has its T and runs on the CPU; leave out --T and --device"
        )
    return Engine.load(args.model, num_threads=args.threads), read_labels(Path(args.model))
