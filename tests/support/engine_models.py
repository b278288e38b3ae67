"""Small random models that fire."""

from __future__ import annotations

import torch
from torch import nn

import stmixer_ops as so

MODELS = {
    "small": {"embed_dim": 32, "num_heads": 4, "depth": 2},
    "odd_24": {"embed_dim": 24, "num_heads": 3, "depth": 1, "T": 3, "img_size": 24},
    "odd_40": {"embed_dim": 40, "num_heads": 8, "depth": 1, "T": 2, "num_classes": 101},
    "soft": {"embed_dim": 48, "num_heads": 2, "depth": 1, "T": 4, "reset": "soft"},
    "decay": {"embed_dim": 32, "num_heads": 4, "depth": 1, "T": 4, "decay": 0.9},
    "neuron": {"embed_dim": 32, "num_heads": 1, "depth": 1, "T": 3, "input_scale": 0.5,
               "threshold": 0.6, "v_reset": -0.2},
    "events": {"embed_dim": 32, "num_heads": 4, "depth": 1, "T": 3, "img_size": 32,
               "in_channels": 2, "downsample": 4},
    "wide": {"img_size": (16, 24), "embed_dim": 64, "num_heads": 4, "depth": 1, "mlp_ratio": 2.5},
    "no_head": {"embed_dim": 32, "num_heads": 4, "depth": 1, "num_classes": 0},
    "sml": {"embed_dim": 32, "num_heads": 4, "depth": 2, "sml": True},
}  # fmt: skip


def make_model(name: str = "small", **options) -> so.STMixer:
    """A random model whose batch norms hold statistics of random input: rates about 0.16."""
    options = {"img_size": 16, **MODELS[name], **options}
    model = so.STMixer(**options).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, 0, 0.1)
    with torch.no_grad():
        model(make_input(model, 16))
    return model.eval()


def make_input(model: so.STMixer, batch: int, steps: int | None = None) -> torch.Tensor:
    lead = (batch,) if steps is None else (steps, batch)
    return torch.randn(*lead, model.in_channels, *model.img_size)
