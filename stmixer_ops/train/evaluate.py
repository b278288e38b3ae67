"""Accuracy of a model on a set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Prepare, PrepareImages, SampleSet
from ..nn.wrappers import kept_modes
from .batches import evaluation_batches


@dataclass(frozen=True)
class Evaluation:
    """Of ``count`` images: cross-entropy, ``confusion`` int64 ``[true class, predicted]``, and
    ``right``, of each image whether its class has the largest logit."""

    count: int
    loss: float
    confusion: Tensor
    right: Tensor

    @property
    def correct(self) -> int:
        return int(self.confusion.diagonal().sum())

    @property
    def top1(self) -> float:
        """Fraction of images whose class has the largest logit."""
        return self.correct / self.count


@torch.inference_mode()
def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: SampleSet,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    prepare: Prepare | None = None,
    batch_size: int = 256,
    amp: bool = False,
    workers: int = 0,
) -> Evaluation:
    """Run ``model`` over all ``images``: a module in eval mode, on the device of its parameters, or
    whatever else takes images to logits on the CPU, as an engine does.

    Args:
        mean, std: per channel, of values in [0, 1]; a checkpoint holds them.
        prepare: makes of a batch what the model takes, in place of ``mean`` and ``std``; a data set
            has it, :func:`stmixer_ops.data.stored_preparation` makes it of a checkpoint.
        amp: bfloat16 autocast.
        workers: processes that read image files; 0 reads them in this one.
    Raises:
        ValueError: there are no images, or nothing says how to prepare them.
    """
    if len(images) == 0:
        raise ValueError("images: expected at least one, got none")
    if prepare is None:
        if mean is None or std is None:
            raise ValueError("expected mean and std, or prepare")
        prepare = PrepareImages(mean, std)
    loss, pairs = 0.0, []
    with _ready(model) as device:
        for batch, labels in evaluation_batches(images, batch_size, workers):
            batch, labels = prepare(batch, device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                logits = model(batch).float()
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            pairs.append(labels * logits.shape[1] + logits.argmax(1))
    classes = logits.shape[1]
    pair = torch.cat(pairs).cpu()
    confusion = pair.bincount(minlength=classes**2).view(classes, classes)
    return Evaluation(len(images), loss / len(images), confusion, pair // classes == pair % classes)


@contextmanager
def _ready(model: nn.Module | Callable[[Tensor], Tensor]) -> Iterator[torch.device]:
    """A module in eval mode for as long as this is open; the device that its input belongs on."""
    if not isinstance(model, nn.Module):
        yield torch.device("cpu")
        return
    with kept_modes(model):
        model.eval()
        yield next(model.parameters()).device
