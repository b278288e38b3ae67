"""From a module tree to a graph: what is read, what is folded, what is refused."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..models import Spikformer, STMixer
from ..nn import IPSPS, SPS, STM, STMBlock
from ..nn.block import ChannelMLP, TokenMixer
from ..nn.effective import with_plain_weights
from ..nn.embed import ConvBNLIF
from ..nn.wrappers import inner
from .export_parts import (
    Exporter,
    check_children,
    float64,
    output_size,
    refuse_hooks,
    require,
)
from .export_spikformer import SpikformerExporter
from .graph import Graph

_Branch = TokenMixer | ChannelMLP


def export(model: nn.Module) -> Graph:
    """The graph of a :class:`~stmixer_ops.STMixer` or :class:`~stmixer_ops.Spikformer` in eval
    mode.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a module that cannot be expressed, or a value that is not finite, by path.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    outer = model
    while (inside := inner(outer)) is not None:
        refuse_hooks(outer, "")
        outer = inside
    plain = with_plain_weights(outer)
    for path, module in plain.named_modules():
        if not path.startswith("surrogates"):
            refuse_hooks(module, path)
    with torch.no_grad():
        if type(plain) is Spikformer:
            return SpikformerExporter(plain).graph
        if type(plain) is STMixer:
            return _STMixerExporter(plain).graph
    raise ValueError(
        f"the engine cannot express the model ({type(plain).__name__}); it knows STMixer and "
        "Spikformer there"
    )


class _STMixerExporter(Exporter):
    """Walks an STMixer in order of execution."""

    def __init__(self, model: STMixer) -> None:
        check_children(model, "patch_embed blocks head surrogates", "")
        super().__init__(model)
        embed = self.sps if type(model.patch_embed) is SPS else self.ipsps
        stream = embed(model.patch_embed, "patch_embed", model.img_size)
        for i, module in enumerate(model.blocks):
            path = f"blocks.{i}"
            block = require(module, STMBlock, path)
            check_children(block, "token_mixer channel_mlp", path)
            stream = self.token_mixer(block.token_mixer, f"{path}.token_mixer", stream)
            stream = self.channel_mlp(block.channel_mlp, f"{path}.channel_mlp", stream)
        self.head(model.head, stream)

    def ipsps(self, module: nn.Module, path: str, size: tuple[int, int]) -> str:
        embed = require(module, IPSPS, path)
        check_children(embed, "main protect", path)
        protect = require(embed.protect, ConvBNLIF, f"{path}.protect")
        paths = [f"{path}.main.{i}" for i in range(len(embed.main))]
        stages = [require(m, ConvBNLIF, p) for m, p in zip(embed.main, paths, strict=True)]
        source = self.image
        for stage, stage_path in zip(stages[:-1], paths[:-1], strict=True):
            source, size = self.stage(stage, stage_path, source, size)
        # The stream: the protect path's channels first, then the main path's; no neurons.
        direct, direct_bias = self.conv(protect, f"{path}.protect", self.image)
        offset = protect.conv.out_channels
        projection, bias = self.conv(stages[-1], paths[-1], source, offset)
        for stage, stage_path in ((protect, f"{path}.protect"), (stages[-1], paths[-1])):
            if stage.lif is not None:
                raise ValueError(
                    f"the engine cannot express {stage_path}.lif ({type(stage.lif).__name__}): "
                    "the stream is real-valued there"
                )
        size = output_size(size, stages[-1].conv)
        bias = np.concatenate([direct_bias, bias])
        return self.graph.add_current(
            path, (self.tokens[0], *size), [direct, projection], bias=bias
        )

    def token_mixer(self, module: nn.Module, path: str, stream: str) -> str:
        mixer = require(module, TokenMixer, path)
        check_children(mixer, f"lif1 fc1 bn1 lif2 {mixer.mixer} lif3 fc2 bn2", path)
        spikes = self.lif(mixer.lif1, f"{path}.lif1", stream, self.tokens)
        spikes = self.hidden(mixer, path, spikes)
        if mixer.mixer == "ssa":
            mixed = self.ssa(mixer.ssa, "mixer", f"{path}.ssa", spikes)
        else:
            mixed = self.stm(mixer.stm, f"{path}.stm", spikes)
        spikes = self.lif(mixer.lif3, f"{path}.lif3", mixed, self.tokens)
        return self.shortcut(mixer, path, spikes, stream)

    def stm(self, module: nn.Module, path: str, spikes: str) -> str:
        stm = require(module, STM, path)
        weight = float64(stm.weight, f"{path}.weight")
        mixing = self.graph.projection(path, "token_mix", spikes, weight)
        return self.graph.add_current(path, self.tokens, [mixing])

    def channel_mlp(self, module: nn.Module, path: str, stream: str) -> str:
        mlp = require(module, ChannelMLP, path)
        check_children(mlp, "lif1 fc1 bn1 lif2 fc2 bn2", path)
        spikes = self.lif(mlp.lif1, f"{path}.lif1", stream, self.tokens)
        spikes = self.hidden(mlp, path, spikes)
        return self.shortcut(mlp, path, spikes, stream)

    def hidden(self, branch: _Branch, path: str, source: str) -> str:
        """fc1, bn1, lif2 of either branch."""
        current = self.layer(branch.fc1, branch.bn1, f"{path}.fc1", f"{path}.bn1", source)
        return self.lif(
            branch.lif2, f"{path}.lif2", current, (branch.fc1.out_features, self.tokens[1])
        )

    def shortcut(self, branch: _Branch, path: str, source: str, stream: str) -> str:
        """The stream after the branch: fc2 and bn2 added to the stream before it."""
        projection, bias = self.linear(branch.fc2, branch.bn2, f"{path}.fc2", f"{path}.bn2", source)
        return self.graph.add_current(path, self.tokens, [projection], [stream], bias)
