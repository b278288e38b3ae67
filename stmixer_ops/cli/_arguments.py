"""Arguments that several commands share."""

from __future__ import annotations

import argparse


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


def device(text: str) -> str:
    """argparse type: a device on which PyTorch can compute here; ``auto`` is a GPU if there is."""
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=text).add(1).cpu()
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError (meta), ...
        usable = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise argparse.ArgumentTypeError(
            f"expected a device that PyTorch can use here ({usable}), got {text!r}"
        ) from error
    return text
