"""Random weights that fire as trained ones do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn import LIF


@torch.no_grad()
def fit_rates(model: nn.Module, images: Tensor, rate: float | None = None) -> None:
    """Replace the statistics of every batch norm by those of ``images``, so that an untrained model
    fires as a trained one does. Do not call it on a trained model. Leaves ``model`` in eval mode.

    What a LIF integrates is then about a standard normal, so that 16 % of the neurons fire in the
    first step (``P(x >= 1)``), and more where they read the residual stream. Untrained batch norms
    let hardly a spike pass.

    Args:
        model: a model with batch norms and :class:`~stmixer_ops.LIF` neurons.
        images: what ``model`` takes, float ``[B, C, H, W]`` or ``[T, B, C, H, W]``.
        rate: move the threshold of every LIF until this share of its neurons fires, in (0, 1).
    """
    if rate is not None and not 0 < rate < 1:
        raise ValueError(f"rate must be between 0 and 1, got {rate!r}")
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # plain average over all batches, here one
    hooks = []
    if rate is not None:
        # A hooked LIF is called on its own, with its current, before anything reads its spikes:
        # one pass settles all thresholds, each on what the populations before it now do.
        hooks = [
            module.register_forward_pre_hook(lambda lif, args: _set_rate(lif, args[0], rate))
            for module in model.modules()
            if isinstance(module, LIF)
        ]
    model.train()
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.eval()


def _set_rate(lif: LIF, x: Tensor, rate: float) -> None:
    """Find the threshold by halving: the rate falls as it rises."""
    low, high = 0.0, 2 * lif.input_scale * float(x.abs().max()) / (1 - min(lif.decay, 0.9))
    for _ in range(24):
        middle = (low + high) / 2
        lif.threshold = lif.v_reset + middle
        spikes = lif.forward(x)
        assert isinstance(spikes, Tensor)
        if float(spikes.mean()) > rate:
            low = middle
        else:
            high = middle
