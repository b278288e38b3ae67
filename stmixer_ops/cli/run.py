"""``stmixer run``: classify image files with an engine file."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..data import stored_preparation
from ..data.images import fit, open_image, to_tensor
from ..engine import Engine
from ..measure.table import quantity
from ._arguments import positive
from ._labels import read_labels


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("engine", help="file of stmixer compile (.stmx)")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--top", type=positive, default=3, help="classes to print (default 3)")
    parser.add_argument("--threads", type=positive, help="CPU threads")


def run(args: argparse.Namespace) -> int:
    path = Path(args.engine)
    engine = Engine.load(path, num_threads=args.threads)
    labels = read_labels(path)
    status = 0
    for name in args.images:
        try:
            image = _read(Path(name), labels)
        except (OSError, ValueError) as error:  # the others are classified all the same
            print(f"stmixer: error: {' '.join(str(error).split())}", file=sys.stderr)
            status = 2
            continue
        result = engine.run(image)
        share = torch.as_tensor(result.logits)[0].softmax(0)
        best = share.topk(min(args.top, len(share)))
        answer = ", ".join(
            f"{labels['classes'][i]} {100 * p:.1f} %"
            for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        )
        spikes = quantity(result.stats.spikes)
        print(f"{name}: {answer} ({spikes} spikes, {_milliseconds(engine, image):.2f} ms)")
    return status


def _milliseconds(engine: Engine, image: torch.Tensor, calls: int = 9) -> float:
    """Median of a few calls; a first one is not counted."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        engine(image)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _read(path: Path, labels: dict[str, Any]) -> torch.Tensor:
    """The image as the network takes it, float32 ``[1, C, H, W]``."""
    image = fit(open_image(path, len(labels["mean"])), labels["img_size"])
    return stored_preparation(labels)(to_tensor(image)[None])
