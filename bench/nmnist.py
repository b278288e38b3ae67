"""Five-fold accuracy on recordings of N-MNIST: ``python -m bench nmnist --nmnist FOLDER``.

Training and test recordings are pooled; fold k holds out every fifth of each class, from its k-th
on. The accuracy is that of the last epoch: no epoch is picked.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stmixer_ops._files import write_atomically
from stmixer_ops.data import FrameData, MemoryFrames, load_dataset
from stmixer_ops.measure.machine import machine
from stmixer_ops.train import Recipe, get_recipe, train
from stmixer_ops.train.progress import Display, duration

FOLDS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nmnist", metavar="FOLDER", help="nmnist: the recordings")
    parser.add_argument("--epochs", type=int, default=12, help="nmnist: epochs a fold (12)")


def recipe(epochs: int) -> Recipe:
    """A network of 40,000 parameters on 16 x 16 pixels: seven seconds of one core an epoch."""
    return get_recipe("nmnist", epochs=epochs, img_size=16, fit="sum", lr=2e-2, sml=False)


def fold(data: FrameData, held: int) -> FrameData:
    """The data with the ``held``-th fold as test set."""
    frames = torch.cat([data.train.frames, data.test.frames])
    labels = torch.cat([data.train.labels, data.test.labels])
    place = torch.empty_like(labels)
    for label in labels.unique():
        here = labels == label
        place[here] = torch.arange(int(here.sum()))
    test = place % FOLDS == held
    parts = [MemoryFrames(frames[part], labels[part]) for part in (~test, test)]
    return FrameData(
        f"{data.name}, fold {held + 1} of {FOLDS}", *parts, data.classes, (), data.root, data.made,
        data.sensor,
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    if arguments.nmnist is None:
        raise SystemExit("bench: nmnist needs --nmnist, the folder of its recordings")
    start, display, chosen = time.perf_counter(), Display(), recipe(arguments.epochs)
    data = load_dataset(
        "nmnist", arguments.nmnist, T=chosen.T, img_size=chosen.img_size, fit=chosen.fit,
        progress=display,
    )  # fmt: skip
    assert isinstance(data, FrameData)
    torch.set_num_threads(1)
    right: list[int] = []
    counts: list[int] = []
    for held in range(FOLDS):
        part = fold(data, held)
        with tempfile.TemporaryDirectory() as out:
            result = train(chosen, data=part, out=Path(out) / "run", display=display)
        counts.append(len(part.test))
        right.append(round(result.history[-1]["test_top1"] * counts[-1]))
        display.line(f"fold {held + 1}: {100 * right[-1] / counts[-1]:.2f} %")
    content: dict[str, Any] = {
        "what": "accuracy on N-MNIST, five folds of the pooled recordings, last epoch",
        "recordings": sum(counts),
        "frames": dict(data.made or {}),
        "parameters": sum(p.numel() for p in result.model.parameters()),
        "right": right,
        "counts": counts,
        "top1": sum(right) / sum(counts),
        "folds": [r / n for r, n in zip(right, counts, strict=True)],
        "recipe": chosen.to_dict(),
        "machine": machine(1),
    }
    print(f"N-MNIST, {sum(counts)} recordings, {FOLDS} folds: {100 * content['top1']:.2f} %")
    print(f"total: {duration(time.perf_counter() - start)}")
    path = arguments.out / "nmnist.json"
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))
    print(f"written to {path}")
    return 0
