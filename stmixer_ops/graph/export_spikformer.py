"""From a Spikformer to a graph: its stream sums spikes, so layers read graded populations."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..models.spikformer import Spikformer, SpikformerBlock, SpikformerMLP
from .export_parts import Exporter, check_children, require


class SpikformerExporter(Exporter):
    """Walks a Spikformer in order of execution."""

    def __init__(self, model: Spikformer) -> None:
        check_children(model, "patch_embed blocks head", "")
        super().__init__(model)
        stream = self.sps(model.patch_embed, "patch_embed", model.img_size)
        for i, module in enumerate(model.blocks):
            path = f"blocks.{i}"
            block = require(module, SpikformerBlock, path)
            # The norms are loaded and never used.
            check_children(block, "attn mlp norm1 norm2", path)
            stream = self.attn(block.attn, f"{path}.attn", stream)
            stream = self.mlp(block.mlp, f"{path}.mlp", stream)
        self.head(model.head, stream)

    def attn(self, module: Any, path: str, stream: str) -> str:
        current = self.ssa(module, "block", path, self.emit(stream, self.tokens))
        spikes = self.lif(module.proj_lif, f"{path}.proj_lif", current, self.tokens)
        return self.shortcut(path, spikes, stream)

    def mlp(self, module: nn.Module, path: str, stream: str) -> str:
        mlp = require(module, SpikformerMLP, path)
        check_children(mlp, "fc1 bn1 lif1 fc2 bn2 lif2", path)
        spikes = self.emit(stream, self.tokens)
        for fc, bn, lif in (("fc1", "bn1", "lif1"), ("fc2", "bn2", "lif2")):
            layer = getattr(mlp, fc)
            current = self.layer(layer, getattr(mlp, bn), f"{path}.{fc}", f"{path}.{bn}", spikes)
            shape = (layer.out_features, self.tokens[1])
            spikes = self.lif(getattr(mlp, lif), f"{path}.{lif}", current, shape)
        return self.shortcut(path, spikes, stream)

    def shortcut(self, path: str, source: str, stream: str) -> str:
        """The stream after a branch that ends in spikes."""
        return self.graph.add_current(path, self.tokens, [self.identity(source)], [stream])
