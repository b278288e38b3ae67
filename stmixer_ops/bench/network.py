"""The network of a case, its inputs, and the files that contestants read it from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import first_images, load_stored, stored_preparation
from ..exchange.onnx import to_onnx
from ..measure.rates import fit_rates
from ..models import create_model
from ..models.base import SpikingClassifier
from ..train.checkpoint import load_checkpoint
from .cases import Case


@dataclass
class Network:
    """A model in eval mode and images for it, all float32 ``[n, C, H, W]``.

    Attributes:
        images: what is timed; the first ones of ``check``.
        check: what the contestants must agree on.
        calibration: what int8 quantisation sees, other images than the rest.
        inputs: says in words what the images are.
        folder: for the files.
    """

    model: nn.Module
    images: Tensor
    check: Tensor
    calibration: Tensor
    inputs: str
    folder: Path
    files: dict[str, Path] = field(default_factory=dict)

    def onnx(self, rates: bool = False) -> Path:
        """The model for batches like ``images``, with a second output for the rates if wanted."""
        name = "rates.onnx" if rates else "model.onnx"
        if name not in self.files:
            self.files[name] = self.folder / name
            to_onnx(self.model, self.files[name], batch_size=len(self.images), rates=rates)
        return self.files[name]


def verify(case: Case) -> None:
    """Raise now what :func:`build` would after the minutes that other cases take."""
    if case.checkpoint is None:
        with torch.device("meta"):
            _create(case)
    else:
        saved = load_checkpoint(case.checkpoint)
        load_stored(saved.config["data"], saved.path, case.data, case.root)


def _create(case: Case) -> SpikingClassifier:
    options: dict[str, Any] = {} if case.img_size is None else {"img_size": case.img_size}
    return create_model(case.model, T=case.steps, **options)


def build(case: Case, folder: Path) -> Network:
    """The network that ``case`` describes, and where its images come from."""
    count = max(case.batch, case.checked)
    if case.checkpoint is not None:
        return _trained(case, count, folder)
    torch.manual_seed(0)
    model = _create(case)

    def images(seed: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, model.in_channels, *model.img_size, generator=generator)

    calibration = images(1, 2 * count)
    fit_rates(model, calibration, case.rate)
    check = images(0, count)
    inputs = "random weights and images, batch norms calibrated"
    if case.rate is not None:
        inputs += f", thresholds moved to rates of {case.rate:g}"
    return Network(model, check[: case.batch], check, calibration, inputs, folder)


def _trained(case: Case, count: int, folder: Path) -> Network:
    saved = load_checkpoint(str(case.checkpoint))
    data = load_stored(saved.config["data"], saved.path, case.data, case.root)
    prepare = stored_preparation(saved.config["data"])
    if len(data.input_shape) == 4:
        raise ValueError(f"{saved.path}: expected a network for images, got one for sequences")
    check = prepare(first_images(data.test, count))
    calibration = prepare(first_images(data.train, 2 * count))
    if len(check) < count or len(calibration) < 2 * count:
        raise ValueError(f"{data.name}: expected {count} test and {2 * count} training images")
    inputs = f"trained weights, test images of {data.name}"
    return Network(saved.build_model(), check[: case.batch], check, calibration, inputs, folder)


def batches(images: Tensor, size: int) -> list[np.ndarray]:
    """``images`` in batches of ``size``, as the contestants take them."""
    return [part.numpy() for part in images.split(size)]
