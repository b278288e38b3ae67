"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data import ImageData
    from ..train import Checkpoint


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", help="data set; by default the one the model was trained on")
    parser.add_argument("--root", help="folder of the data set")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, help="CPU threads")


def set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def load_data(saved: Checkpoint, name: str | None, root: str | None) -> ImageData:
    """The data set a checkpoint belongs to, or ``name``, in the size the model takes."""
    from ..data import load_dataset

    stored = saved.config["data"]
    data = load_dataset(
        name or stored["name"],
        root,
        img_size=stored["img_size"],
        in_channels=len(stored["mean"]),
    )
    if len(data.classes) != len(stored["classes"]):
        raise ValueError(
            f"data: expected {len(stored['classes'])} classes as in {saved.path}, "
            f"got {len(data.classes)}"
        )
    return data
