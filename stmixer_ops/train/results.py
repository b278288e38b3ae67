"""The folder of a run: checkpoints, log and curves, and what a checkpoint remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..data import Data
from ..models.base import SpikingClassifier
from ..nn import LIF
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .history import Record, draw_curves, write_log
from .recipe import Recipe

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model in eval mode, its history, the folder with the files."""

    model: SpikingClassifier
    history: list[Record]
    out: Path

    @property
    def last(self) -> Path:
        return self.out / LAST

    @property
    def best(self) -> Path:
        return self.out / BEST


def find_run(out: Path, recipe: Recipe | None, resume: bool) -> Checkpoint | None:
    """The run in ``out`` that goes on, or None if there is none.

    Raises:
        FileExistsError: there is one, and ``resume`` is False.
        ValueError: it has another recipe, or is no training run.
    """
    if not (out / LAST).exists():
        return None
    if not resume:
        raise FileExistsError(f"{out / LAST}: exists; resume it or choose another folder")
    saved = load_checkpoint(out / LAST)
    if "recipe" not in saved.config or "history" not in saved.config:
        raise ValueError(f"{saved.path}: holds no training run to resume")
    if recipe is not None:
        check_same_recipe(saved, recipe.to_dict())
    return saved


def check_same_recipe(saved: Checkpoint, given: Mapping[str, Any]) -> None:
    """Raise a ValueError where a field that is ``given`` is another in the run of ``saved``."""
    stored = saved.config["recipe"]
    for name, value in given.items():
        if value != stored.get(name):
            raise ValueError(
                f"{saved.path}: resume goes on with the recipe inside; {name} is "
                f"{stored.get(name)!r} there, got {value!r}"
            )


def check_same_data(saved: Checkpoint, config: Mapping[str, Any]) -> None:
    """Raise a ValueError where the run of ``saved`` had other data or another augmentation than
    ``config``, the configuration of the one that goes on. The data may lie elsewhere now."""
    for key in ("data", "augmentation"):
        was, now = saved.config[key], config[key]
        if key == "data":
            was = {k: v for k, v in was.items() if k != "root"}
            now = {k: v for k, v in now.items() if k in was}
        if was != now:
            raise ValueError(
                f"{saved.path}: was trained with {key} {was!r}, here it would go on with {now!r}"
            )


def save_epoch(
    out: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    history: list[Record],
) -> None:
    """Checkpoints and log after an epoch; ``best`` if its test accuracy is the highest so far."""
    if history[-1]["test_top1"] > max((r["test_top1"] for r in history[:-1]), default=-1.0):
        save_checkpoint(out / BEST, model, config)
    save_checkpoint(out / LAST, model, config, optimizer)
    write_log(out, history)


def save_curves(out: Path, history: list[Record], recipe: Recipe, data: Data) -> str | None:
    """``curves.png``; None, or why there is none."""
    return draw_curves(out / "curves.png", history, f"{recipe.model} on {data.name}, T={recipe.T}")


def describe(
    recipe: Recipe,
    data: Data,
    model: nn.Module,
    model_args: Mapping[str, Any],
    augmentation: str,
    device: torch.device,
    history: list[Record],
) -> dict[str, Any]:
    """What goes into the checkpoints; :func:`stmixer_ops.train.load_checkpoint` reads it."""
    return {
        "stmixer_ops": __version__,
        "torch": torch.__version__,
        "model": {"name": recipe.model, "kwargs": dict(model_args)},
        "neuron": _neuron(model),
        "data": data.describe(),
        "recipe": recipe.to_dict(),
        "augmentation": augmentation,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "epoch": len(history),
        "history": history,
    }


def _neuron(model: nn.Module) -> dict[str, Any]:
    """The first neuron's constants, for readers of the file; the model's keywords rebuild it."""
    lif = next(m for m in model.modules() if isinstance(m, LIF))
    return {
        "threshold": lif.threshold,
        "decay": lif.decay,
        "reset": lif.reset_mode,
        "surrogate": repr(lif.surrogate),
    }
