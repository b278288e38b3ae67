"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data import ImageData


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def add_data(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--data", help="data set; by default the one the model was trained on")
    parser.add_argument("--root", help="folder of the data set")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, help="CPU threads")


def set_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def finds_data(stored: Mapping[str, Any], name: str | None, root: str | None) -> bool:
    """Whether :func:`load_data` has something to load: digits come with scikit-learn, all others
    lie in a folder that has to be named."""
    return name is not None or root is not None or stored["name"] == "digits"


def load_data(
    stored: Mapping[str, Any], source: str | os.PathLike[str], name: str | None, root: str | None
) -> ImageData:
    """The data set a model belongs to, or ``name``, in the size the model takes.

    ``stored``: the section ``data`` of the checkpoint, or the labels of the engine, ``source``.
    """
    from ..data import load_dataset

    data = load_dataset(
        name or stored["name"],
        root,
        img_size=stored["img_size"],
        in_channels=len(stored["mean"]),
    )
    if len(data.classes) != len(stored["classes"]):
        raise ValueError(
            f"data: expected {len(stored['classes'])} classes as in {source}, "
            f"got {len(data.classes)}"
        )
    return data
