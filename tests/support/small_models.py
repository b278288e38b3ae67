"""Small models and images for them; every norm holds statistics unlike those it starts with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import stmixer_ops as so


def settle(model: nn.Module) -> nn.Module:
    """Batch norms with statistics and parameters unlike those they start with."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.3, 0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.2, 1.0)
    return model.eval()


def replaced(path: str, module: nn.Module) -> Callable[[nn.Module], None]:
    """What puts ``module`` into the place of the module at ``path``."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)

    return change


def stmixer(**options) -> so.STMixer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "embed_dim": 40, "depth": 2, "num_heads": 4, "T": 3}
    return settle(so.STMixer(**sizes | options))


def spikformer(**options) -> so.Spikformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "embed_dim": 40, "depth": 2, "num_heads": 4, "T": 3}
    return settle(so.Spikformer(**sizes, threshold=0.3, attn_threshold=0.1, **options))


def images(batch: int = 2, **options) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(batch, 3, 16, 16, **options)
