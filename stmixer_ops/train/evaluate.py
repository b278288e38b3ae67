"""Accuracy of a model on a set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import ImageSet
from .augment import normalise
from .batches import evaluation_batches


@dataclass(frozen=True)
class Evaluation:
    """Of ``count`` images: cross-entropy, and ``confusion`` int64 ``[true class, predicted]``."""

    count: int
    loss: float
    confusion: Tensor

    @property
    def correct(self) -> int:
        return int(self.confusion.diagonal().sum())

    @property
    def top1(self) -> float:
        """Fraction of images whose class has the largest logit."""
        return self.correct / self.count


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch_size: int = 256,
    amp: bool = False,
    workers: int = 0,
) -> Evaluation:
    """Run ``model`` in eval mode over all ``images``, on the device of its parameters.

    Args:
        mean, std: per channel, of values in [0, 1]; a checkpoint holds them.
        amp: bfloat16 autocast.
        workers: processes that read image files; 0 reads them in this one.
    Raises:
        ValueError: there are no images.
    """
    if len(images) == 0:
        raise ValueError("images: expected at least one, got none")
    device = next(model.parameters()).device
    mean_t, std_t = (torch.tensor(v, device=device) for v in (mean, std))
    was_training = model.training
    model.eval()
    loss, pairs = 0.0, []
    try:
        for batch, labels in evaluation_batches(images, batch_size, workers):
            batch, labels = batch.to(device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                logits = model(normalise(batch, mean_t, std_t)).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            pairs.append(labels * logits.shape[1] + logits.argmax(1))
    finally:
        model.train(was_training)
    classes = logits.shape[1]
    confusion = torch.cat(pairs).bincount(minlength=classes**2).view(classes, classes).cpu()
    return Evaluation(len(images), loss / len(images), confusion)
