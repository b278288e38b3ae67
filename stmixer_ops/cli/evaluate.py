"""``stmixer eval``."""

from __future__ import annotations

import argparse
import json

from ..train.checkpoint import load_checkpoint
from ..train.evaluate import evaluate
from ._arguments import add_data, add_threads, load_data, positive, set_threads
from ._table import format_table


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("checkpoint", help="file of stmixer train")
    add_data(parser)
    parser.add_argument("--T", type=positive, help="other time steps than in training")
    parser.add_argument("--batch-size", type=positive, default=256)
    parser.add_argument("--device", default="cpu")
    add_threads(parser)
    parser.add_argument("--confusion", action="store_true", help="print the confusion matrix")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    set_threads(args.threads)
    saved = load_checkpoint(args.checkpoint)
    data = load_data(saved, args.data, args.root)
    model = saved.build_model(**({"T": args.T} if args.T else {}))
    stored = saved.config["data"]
    result = evaluate(
        model.to(args.device),
        data.test,
        stored["mean"],
        stored["std"],
        batch_size=args.batch_size,
    )
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
