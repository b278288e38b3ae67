"""Spikes, operations and energy of a model on images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn import record
from .energy import Cost


@torch.inference_mode()
def measure_cost(model: nn.Module, images: Tensor, batch_size: int = 64) -> Cost:
    """Run ``model`` over normalised ``images [B, C, H, W]`` and count."""
    model.eval()
    with record(model, keep_spikes=False) as counter:
        for batch in images.split(batch_size):
            model(batch)
    rows = [row.per(counter.images) for row in counter.layer_totals()]
    rate = sum(counter.counts.values()) / sum(counter.neuron_steps.values())
    return Cost(rows, rate)
