"""The log of a run: CSV, JSON and a picture, written anew from the history after each epoch.

The history itself lives in the checkpoint: after a kill the resumed run rewrites the log from it,
so no line is ever lost, doubled or half written.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from .._files import write_atomically


class Record(TypedDict):
    """One epoch (counted from 1); accuracies are fractions, on the test set.

    ``train_loss`` is what was minimised, ``train_cross_entropy`` that of the model's answers alone,
    which log(classes) and ``test_loss`` compare with.
    """

    epoch: int
    lr: float
    train_loss: float
    train_cross_entropy: float
    test_loss: float
    test_top1: float
    seconds: float


def write_log(folder: Path, history: Sequence[Record]) -> None:
    """``log.csv`` and ``log.json``, one record per epoch."""

    def write_csv(path: Path) -> None:
        with open(path, "w", newline="") as file:
            names = [name for name in Record.__annotations__ if name in history[-1]]
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(history)

    write_atomically(folder / "log.csv", write_csv)
    text = json.dumps(list(history), indent=1) + "\n"
    write_atomically(folder / "log.json", lambda path: path.write_text(text))


def draw_curves(path: Path, history: Sequence[Record], title: str) -> str | None:
    """Loss, accuracy and learning rate over the epochs, as a PNG.

    Returns None, or why there is no picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        return f"no curves: matplotlib cannot be imported ({error})"
    epochs = [r["epoch"] for r in history]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    train = [r.get("train_cross_entropy", float("nan")) for r in history]
    loss.plot(epochs, train, label="train", color="#4c72b0")
    loss.plot(epochs, [r["test_loss"] for r in history], label="test", color="#dd8452")
    loss.set_title("cross-entropy")
    loss.legend(frameon=False)
    accuracy.plot(epochs, [100 * r["test_top1"] for r in history], color="#dd8452")
    best = max(history, key=lambda r: r["test_top1"])
    accuracy.scatter([best["epoch"]], [100 * best["test_top1"]], color="#c44e52", zorder=3)
    accuracy.set_title(f"test accuracy, best {100 * best['test_top1']:.2f} %")
    rate.plot(epochs, [r["lr"] for r in history], color="#55a868")
    rate.set_title("learning rate, end of epoch")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(title)
    write_atomically(path, lambda p: figure.savefig(p, format="png", dpi=130))
    return None
