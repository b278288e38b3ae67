"""ONNX files, for ONNX Runtime, OpenVINO and whatever else reads them."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .._files import write_atomically
from .._optional import require
from ..nn.wrappers import kept_modes, unwrap
from .plain import Plain

OPSET = 17


def to_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    sequences: bool = False,
    rates: bool = False,
    opset: int = OPSET,
) -> None:
    """Write a model as an ONNX file of standard operators, as it computes in eval mode.

    The input is ``images``, float ``[B, C, H, W]`` and normalised as in training (mean and std are
    not in the file); a still image is repeated for the model's T steps inside. The output is
    ``logits [B, classes]``. All T steps are written out: the file has one T, the model's. Numbers
    have the dtype of the weights; spikes are what PyTorch computes but for rounding.

    Args:
        model: an :class:`~stmixer_ops.STMixer` or :class:`~stmixer_ops.Spikformer`, also one
            wrapped by ``torch.compile`` or for data-parallel training. It is left as it is.
        path: the file; it appears whole or not at all.
        batch_size: B of the file; by default it is left open (one dynamic axis, ``batch``).
        sequences: the input is ``sequences``, ``[T, B, C, H, W]`` (``[B, T, ...]`` for a
            ``batch_first`` model), instead of images.
        rates: add an output ``rates [populations]``: spikes per neuron and step of each LIF, in the
            order in which :class:`~stmixer_ops.record` names them.
        opset: version of the ONNX operators, 17 by default; 13 to 20 were tried.
    Raises:
        ImportError: the package onnx is missing.
        ValueError: another kind of model, or one with a part that is not the library's own (a
            replaced layer, hooks, a surrogate that is no step); names it by its path.
        OSError: the file cannot be written.
    """
    require("onnx", "onnx", "an ONNX file")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    model = unwrap(model)
    with kept_modes(model):
        plain = Plain(model, rates)
        example, name, axis = _example(plain.model, batch_size or 2, sequences)
        outputs = ["logits", "rates"] if rates else ["logits"]
        dynamic = {name: {axis: "batch"}, "logits": {0: "batch"}}
        export(
            plain, example, path, opset_version=opset, input_names=[name], output_names=outputs,
            dynamic_axes=dynamic if batch_size is None else None,
        )  # fmt: skip


def _example(model: Any, batch_size: int, sequences: bool) -> tuple[Tensor, str, int]:
    """An input, its name, and which of its axes is the batch."""
    weight = next(model.parameters())
    shape = [batch_size, model.in_channels, *model.img_size]
    axis = 0
    if sequences:
        axis = 0 if model.batch_first else 1
        shape.insert(1 - axis, model.T)
    example = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
    return example, "sequences" if sequences else "images", axis


def export(
    module: nn.Module, example: Tensor, path: str | os.PathLike[str], **options: Any
) -> None:
    """Write a module of PyTorch's own operators for inputs like ``example``, whole or not at all.

    ``options`` are those of ``torch.onnx.export``.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on itself and on tracing
        write_atomically(
            path,
            lambda file: torch.onnx.export(
                module, (example,), str(file), dynamo=False, **{"opset_version": OPSET, **options}
            ),
        )
