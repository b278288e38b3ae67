"""What a recipe and a data set make: the model, its optimiser and its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..data import Data
from ..models import create_model
from ..models.base import SpikingClassifier
from ..nn import SMLLoss
from .recipe import Recipe


def check_data(data: Data, mixes: bool) -> None:
    """Refuse what nothing can be learnt from.

    Raises:
        ValueError: fewer than two classes, an empty set, or one image where pairs are mixed.
    """
    if len(data.classes) < 2:
        raise ValueError(f"{data.name}: expected at least 2 classes, got {list(data.classes)}")
    for name, samples in (("training", data.train), ("test", data.test)):
        if len(samples) == 0:
            raise ValueError(f"{data.name}: expected images in the {name} set, got none")
    if mixes and len(data.train) < 2:
        raise ValueError(f"{data.name}: mixup and cutmix mix pairs, got one training image")


def model_arguments(recipe: Recipe, data: Data) -> dict[str, Any]:
    """Keywords of ``create_model``; a sequence's own steps count before the recipe's ``T``."""
    *steps, channels, height, width = data.input_shape
    return {
        "num_classes": len(data.classes),
        "img_size": height if height == width else (height, width),
        "in_channels": channels,
        "T": steps[0] if steps else recipe.T,
        "reset": recipe.reset,
        **({"sml": True} if recipe.sml else {}),
        **recipe.model_args,
    }


def make_model(recipe: Recipe, arguments: dict[str, Any]) -> SpikingClassifier:
    """The untrained model on the CPU.

    Raises:
        ValueError: the model does not take these arguments.
    """
    try:
        return create_model(recipe.model, **arguments)
    except TypeError as error:
        sml = " (sml is for STMixer)" if recipe.sml else ""
        raise ValueError(
            f"recipe: model {recipe.model!r} does not take these arguments: {error}{sml}"
        ) from error


def make_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW; biases, norms and other vectors are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim > 1]
    rest = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr)


def make_loss(recipe: Recipe, soft_targets: bool) -> nn.Module:
    """Cross-entropy of the model's output, within SML's loss where the recipe has it.

    ``soft_targets``: mixup has smoothed the labels already.
    """
    smoothing = 0.0 if soft_targets else recipe.label_smoothing
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
    return SMLLoss(criterion=criterion) if recipe.sml else criterion
