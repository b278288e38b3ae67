"""The networks as their publications write them, for the libraries that are given one to run.

The models of this package keep the channels innermost, which suits its own kernels. In a file for
another runtime every layer would bring transposes along, up to 40 % of OpenVINO's time. Here are
images ``[B, C, H, W]``, tokens ``[B, C, N]``, convolutions, and one product per token mixing.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..models import Spikformer, STMixer
from ..models.spikformer import SpikformerBlock, SpikformerMLP
from ..nn import IPSPS, LIF, SPS, SSA, STM, ChannelMLP, STMBlock, TokenMixer
from ..nn.embed import ConvBNLIF, InputConv2d
from ..nn.fused import has_hooks
from ..nn.inference import fires_at_threshold
from ..nn.layers import CountedLinear, SpikeConv2d, SpikeLinear

_LAYERS = (InputConv2d, SpikeConv2d, CountedLinear, SpikeLinear, nn.Linear, STM)
_KNOWN = {
    *_LAYERS, STMixer, Spikformer, IPSPS, SPS, ConvBNLIF, STMBlock, TokenMixer, ChannelMLP, SSA,
    SpikformerBlock, SpikformerMLP, LIF, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d,
    nn.ModuleList,
}  # fmt: skip
# Parts that are called as they are, or not at all.
_CALLED = {"head", "surrogates", "norm1", "norm2", "surrogate", "parametrizations"}


class Plain(nn.Module):
    """An STMixer or a Spikformer by its own modules, in eval mode.

    Images ``[B, C, H, W]``, repeated for the model's T steps, or sequences as the model takes them
    and of its T, to logits. With ``rates`` also to the rate of every population, in order of
    execution.

    Raises:
        ValueError: a module that this does not know, or whose call cannot be left out, by its path.
    """

    def __init__(self, model: nn.Module, rates: bool = False) -> None:
        super().__init__()
        if type(model) not in (STMixer, Spikformer):
            raise ValueError(
                f"model must be an STMixer or a Spikformer, got {type(model).__name__}"
            )
        _check(model, "")
        self.model: Any = model
        self.rates = rates
        self.eval()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        model = self.model
        run = _Run(model.T)
        if x.dim() == 5 and model.batch_first:
            x = x.transpose(0, 1)
        y = run.sps(model.patch_embed, x) if isinstance(model.patch_embed, SPS) else (
            run.ipsps(model.patch_embed, x)
        )  # fmt: skip
        y = y.flatten(3)
        for block in model.blocks:
            y = run.block(block, y)
        logits = model.forward_head(y)
        return (logits, torch.stack(run.rates)) if self.rates else logits


class _Run:
    """One pass. Tensors are ``[T, B, ...]`` from the first neurons on."""

    def __init__(self, steps: int) -> None:
        self.steps, self.rates = steps, list[Tensor]()

    def ipsps(self, embed: Any, x: Tensor) -> Tensor:
        first, *stages = embed.main
        y = self.fire(first.lif, self.input(first, x))
        for stage in stages:
            y = self.convolve(stage, y)
            if stage.lif is not None:
                y = self.fire(stage.lif, y)
        return torch.cat([self.input(embed.protect, x), y], dim=2)

    def sps(self, embed: Any, x: Tensor) -> Tensor:
        pooled = len(embed.main) - embed.downsample
        y = x
        for i, stage in enumerate(embed.main):
            y = self.fire(stage.lif, self.convolve(stage, y) if i else self.input(stage, y))
            if i >= pooled:
                y = self.steps_of(embed.pool(y.flatten(0, 1)))
        return y + self.fire(embed.position.lif, self.convolve(embed.position, y))

    def block(self, block: Any, y: Tensor) -> Tensor:
        if isinstance(block, SpikformerBlock):
            attn, mlp = block.attn, block.mlp
            y = y + self.fire(attn.proj_lif, self.attend(attn, y))
            s = self.fire(mlp.lif1, self.pointwise(mlp.fc1, mlp.bn1, y))
            return y + self.fire(mlp.lif2, self.pointwise(mlp.fc2, mlp.bn2, s))
        mixer, mlp = block.token_mixer, block.channel_mlp
        s = self.fire(mixer.lif1, y)
        s = self.fire(mixer.lif2, self.pointwise(mixer.fc1, mixer.bn1, s))
        mixed = self.mix(mixer.stm, s) if mixer.mixer == "stm" else self.attend(mixer.ssa, s)
        y = y + self.pointwise(mixer.fc2, mixer.bn2, self.fire(mixer.lif3, mixed))
        s = self.fire(mlp.lif2, self.pointwise(mlp.fc1, mlp.bn1, self.fire(mlp.lif1, y)))
        return y + self.pointwise(mlp.fc2, mlp.bn2, s)

    def mix(self, stm: Any, s: Tensor) -> Tensor:
        heads = s.unflatten(2, (stm.num_heads, -1))
        return torch.matmul(heads, stm.weight.transpose(1, 2)).flatten(2, 3)

    def attend(self, ssa: Any, s: Tensor) -> Tensor:
        """``(q k^T) v``; k^T v first, as all are integers; ``[..., C / heads, N]`` per head."""
        q, k, v = (
            self.fire(lif, self.pointwise(linear, bn, s)).unflatten(2, (ssa.num_heads, -1))
            for linear, bn, lif in (
                (ssa.q, ssa.q_bn, ssa.q_lif),
                (ssa.k, ssa.k_bn, ssa.k_lif),
                (ssa.v, ssa.v_bn, ssa.v_lif),
            )
        )
        y = torch.matmul(torch.matmul(v, k.transpose(-1, -2)), q) * ssa.scale
        return self.pointwise(ssa.proj, ssa.proj_bn, self.fire(ssa.attn_lif, y.flatten(2, 3)))

    def input(self, stage: Any, x: Tensor) -> Tensor:
        """What a still image makes is computed once."""
        if x.dim() == 5:
            return self.convolve(stage, x)
        y = stage.bn(_convolve(stage.conv, x))
        return y.unsqueeze(0).expand(self.steps, -1, -1, -1, -1)

    def convolve(self, stage: Any, s: Tensor) -> Tensor:
        return self.steps_of(stage.bn(_convolve(stage.conv, s.flatten(0, 1))))

    def pointwise(self, layer: Any, bn: nn.Module, s: Tensor) -> Tensor:
        """A linear layer over the channels of ``[T, B, C, N]``, and its batch norm."""
        y = nn.functional.conv1d(s.flatten(0, 1), layer.weight.unsqueeze(2), layer.bias)
        return self.steps_of(bn(y))

    def steps_of(self, y: Tensor) -> Tensor:
        """``[T * B, ...]`` to ``[T, B, ...]`` for any B."""
        return y.unflatten(0, (self.steps, -1))

    def fire(self, lif: LIF, x: Tensor) -> Tensor:
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
        y = torch.stack(spikes)
        self.rates.append(y.mean())
        return y


def _convolve(conv: Any, x: Tensor) -> Tensor:
    return nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)


def _check(module: nn.Module, path: str) -> None:
    """Refuse what has a forward of its own."""
    kind = type(module)
    if parametrize.is_parametrized(module):
        kind = kind.__mro__[1]
    if kind not in _KNOWN:
        _refuse(path, f"{type(module).__name__} is no part of the library's models")
    if has_hooks(module):
        _refuse(path, "it has hooks, which nobody would call")
    if isinstance(module, LIF) and not fires_at_threshold(module):
        _refuse(path, f"its surrogate {module.surrogate!r} does not fire exactly where u >= 0")
    for name, child in module.named_children():
        if name not in _CALLED:
            _check(child, f"{path}.{name}" if path else name)


def _refuse(path: str, reason: str) -> NoReturn:
    raise ValueError(f"cannot write {path or 'the model'}: {reason}")
