"""Models as the benchmarks need them: random, but firing as trained ones do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import stmixer_ops as so


def calibrated_model(name: str, batch: int = 16, **options: object) -> nn.Module:
    """A random model in eval mode whose batch norms hold the statistics of random input.

    What a LIF integrates is then a standard normal, so about 16 % of the neurons fire
    (``P(x >= 1)``); those that read the residual stream fire more often.
    """
    torch.manual_seed(0)
    model = so.create_model(name, **options).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # cumulative average: one batch decides
    with torch.no_grad():
        model(random_images(model, batch, seed=1))
    return model.eval()


def random_images(model: nn.Module, batch: int, seed: int = 0) -> Tensor:
    """Standard normal images ``[B, C, H, W]`` of the model's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, model.in_channels, *model.img_size, generator=generator)
