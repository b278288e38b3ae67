"""``stmixer run``: classify image files or recordings with an engine file; needs no PyTorch."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..data.framing import stored_frames
from ..data.pictures import fit, open_image, to_array
from ..engine import Engine
from ..measure.table import quantity
from ._arguments import positive
from ._labels import read_labels


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    parser.add_argument("engine", help="file of stmixer compile (.stmx)")
    parser.add_argument(
        "images", nargs="+", help="image files; recordings if it was trained on such"
    )
    parser.add_argument("--top", type=positive, default=3, help="classes to print (default 3)")
    parser.add_argument("--threads", type=positive, help="CPU threads")


def run(args: argparse.Namespace) -> int:
    path = Path(args.engine)
    engine = Engine.load(path, num_threads=args.threads)
    labels = read_labels(path)
    unread = 0
    for name in args.images:
        try:
            image = _read(Path(name), labels)
        except (OSError, ValueError) as error:  # the others are classified all the same
            print(f"stmixer: error: {' '.join(str(error).split())}", file=sys.stderr)
            unread += 1
            continue
        print(f"{name}: {_answer(engine, image, labels['classes'], args.top)}")
    return 0 if not unread else 1 if unread < len(args.images) else 2


def _answer(engine: Engine, image: np.ndarray, classes: list[str], top: int) -> str:
    """The likeliest classes, the spikes that it took, and the time."""
    result = engine.run(image)
    logits = np.asarray(result.logits, np.float64)[0]
    share = np.exp(logits - logits.max())
    share /= share.sum()
    best = np.argsort(-share, kind="stable")[:top]
    answer = ", ".join(f"{classes[i]} {100 * share[i]:.1f} %" for i in best)
    spikes = quantity(result.stats.spikes)
    return f"{answer} ({spikes} spikes, {_milliseconds(engine, image):.2f} ms)"


def _milliseconds(engine: Engine, image: np.ndarray, calls: int = 9) -> float:
    """Median of a few calls; a first one is not counted."""
    times = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        engine(image)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def _read(path: Path, labels: dict[str, Any]) -> np.ndarray:
    """As the network takes it, float32: frames of a recording ``[T, 1, C, H, W]``, or an image
    ``[1, C, H, W]``, ``(x / 255 - mean) / std``."""
    if len(labels.get("input_shape", ())) == 4:
        return stored_frames(labels, path)[:, None]
    pixels = to_array(fit(open_image(path, len(labels["mean"])), labels["img_size"]))
    mean, std = (np.array(labels[key], np.float32)[:, None, None] for key in ("mean", "std"))
    return ((pixels.astype(np.float32) / np.float32(255) - mean) / std)[None]
