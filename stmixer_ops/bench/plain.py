"""The network as its publication writes it, for the libraries that are given one to run.

The models of this package keep the channels innermost, which suits its own kernels. In a file for
another runtime every layer would bring transposes along, up to 40 % of OpenVINO's time. Here are
images ``[B, C, H, W]``, tokens ``[B, C, N]``, convolutions, and one product per token mixing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..nn import LIF


class Plain(nn.Module):
    """An STMixer that the engine can compile, by its own modules, in eval mode.

    Images ``[B, C, H, W]``, repeated for the model's T steps, to logits. With ``rates`` also to
    the rate of every population, in order of execution.
    """

    def __init__(self, model: Any, rates: bool = False) -> None:
        super().__init__()
        self.model = model
        self.rates = rates
        self.eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        model, fired = self.model, []

        def fire(lif: LIF, x: Tensor) -> Tensor:
            spikes = _fire(lif, x)
            fired.append(spikes.mean())
            return spikes

        def repeat(y: Tensor) -> Tensor:
            """What a still image makes is computed once."""
            return y.unsqueeze(0).expand(model.T, *y.shape)

        embed = model.patch_embed
        first, *stages = embed.main
        y = fire(first.lif, repeat(first.bn(_convolve(first.conv, x))))
        for stage in stages:
            y = stage.bn(_convolve(stage.conv, y.flatten(0, 1))).unflatten(0, y.shape[:2])
            if stage.lif is not None:
                y = fire(stage.lif, y)
        direct = repeat(embed.protect.bn(_convolve(embed.protect.conv, x)))
        y = torch.cat([direct, y], dim=2).flatten(3)
        for block in model.blocks:
            mixer, mlp = block.token_mixer, block.channel_mlp
            s = fire(mixer.lif2, _pointwise(mixer.fc1, mixer.bn1, fire(mixer.lif1, y)))
            heads = s.unflatten(2, (mixer.stm.num_heads, -1))
            mixed = torch.matmul(heads, mixer.stm.weight.transpose(1, 2)).flatten(2, 3)
            y = y + _pointwise(mixer.fc2, mixer.bn2, fire(mixer.lif3, mixed))
            s = fire(mlp.lif2, _pointwise(mlp.fc1, mlp.bn1, fire(mlp.lif1, y)))
            y = y + _pointwise(mlp.fc2, mlp.bn2, s)
        logits = model.forward_head(y)
        return (logits, torch.stack(fired)) if self.rates else logits


def _convolve(conv: Any, x: Tensor) -> Tensor:
    return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)


def _pointwise(layer: Any, bn: nn.Module, s: Tensor) -> Tensor:
    """A linear layer over the channels of ``[T, B, C, N]``, and its batch norm."""
    y = nn.functional.conv1d(s.flatten(0, 1), layer.weight.unsqueeze(2), layer.bias)
    return bn(y).unflatten(0, s.shape[:2])


def _fire(lif: LIF, x: Tensor) -> Tensor:
    """Spikes for currents ``x [T, ...]``; the membrane v is counted from v_reset."""
    threshold, spikes = lif.threshold - lif.v_reset, []
    v = None
    for current in x.unbind(0):
        if lif.input_scale != 1:
            current = lif.input_scale * current
        v = current if v is None else lif.decay * v + current
        s = (v >= threshold).to(x.dtype)
        v = v - threshold * s if lif.reset_mode == "soft" else v * (1 - s)
        spikes.append(s)
    return torch.stack(spikes)
