"""STMixer (NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

from torch import Tensor, nn

from ..nn.block import STMBlock
from ..nn.embed import IPSPS, SPS
from ..nn.fused import is_plain
from ..nn.layers import channels_first, make_head, to_tokens
from ..nn.sml import SurrogateModule, surrogate_depths
from .base import SpikingClassifier
from .keywords import input_channels, lif_options


def _plain(block: nn.Module | None) -> TypeGuard[STMBlock]:
    # A replaced or hooked block must be called, with the stream as anyone's module takes it.
    return type(block) is STMBlock and is_plain(block, STMBlock) and block.fusable


class STMixer(SpikingClassifier):
    """Spiking token mixer: patch splitting, ``depth`` blocks, mean over tokens and T, readout.

    Args:
        img_size: height = width of the input, or both.
        in_channels: channels of the input, 3 by default (``in_chans`` is taken too).
        num_classes: classes; 0 leaves the readout out.
        embed_dim: channels D of the stream, a multiple of 8.
        depth: number of :class:`~stmixer_ops.STMBlock`.
        num_heads: heads of each token mixer; must divide ``embed_dim``.
        mlp_ratio: hidden channels of each MLP per channel.
        downsample: log2 of the patch size: 2 for 32x32, 4 for 224x224 and 128x128 events.
        T: steps that an image is repeated for.
        reset: reset of all neurons, ``"hard"`` or ``"soft"``.
        sml: also build the surrogate modules (``surrogates``), for ``return_aux=True``.
        batch_first: sequences come as ``[B, T, ...]``.
        patch_embed: ``"ipsps"``, or ``"sps"`` for the ablation.
        mixer: ``"stm"``, or ``"ssa"`` for the ablation.
        lif: further keywords of :class:`~stmixer_ops.LIF` for all neurons. Keywords of timm that
            ask for nothing (``pretrained=False``, ``drop_path_rate=0.0``, ...) are taken, too.
    Input: images ``[B, C, H, W]`` or sequences ``[T, B, C, H, W]``, floating point.
    Output: logits ``[B, num_classes]``; with ``return_aux=True`` a pair of them and the list of
        the surrogate modules' logits (empty without ``sml``).
    """

    def __init__(
        self, img_size: int | tuple[int, int] = 32, in_channels: int | None = None,
        num_classes: int = 10, embed_dim: int = 384, depth: int = 4, num_heads: int = 16,
        mlp_ratio: float = 4.0, downsample: int = 2, T: int = 1, reset: str = "hard",
        sml: bool = False, batch_first: bool = False, *, in_chans: int | None = None,
        patch_embed: str = "ipsps", mixer: str = "stm", **lif: Any,
    ) -> None:  # fmt: skip
        embeddings = {"ipsps": IPSPS, "sps": SPS}
        if patch_embed not in embeddings:
            raise ValueError(f"patch_embed must be 'ipsps' or 'sps', got {patch_embed!r}")
        lif = lif_options("STMixer", {**lif, "reset": reset})
        channels = input_channels("STMixer", in_channels, in_chans)
        super().__init__(
            img_size, 3 if channels is None else channels, num_classes, embed_dim, depth,
            num_heads, downsample, T, batch_first,
        )  # fmt: skip
        self.reset_mode = reset
        self.mlp_ratio = float(mlp_ratio)
        self.patch_embed = embeddings[patch_embed](
            self.in_channels, self.embed_dim, self.downsample, **lif
        )
        sizes = self.embed_dim, self.num_tokens, self.num_heads
        self.blocks = nn.ModuleList(
            STMBlock(*sizes, self.mlp_ratio, mixer=mixer, **lif) for _ in range(self.depth)
        )
        self.surrogates = nn.ModuleList(
            SurrogateModule(*sizes, encoders, self.num_classes)
            for encoders in (surrogate_depths(self.depth) if sml else [])
        )

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        aux, stream = [], x
        for i, stream in enumerate(self.streams(x)):
            if return_aux and i % 2 == 0 and i // 2 < len(self.surrogates):
                aux.append(self.surrogates[i // 2](stream))
        logits = self.forward_head(stream)
        return (logits, aux) if return_aux else logits

    def streams(self, x: Tensor) -> Iterator[Tensor]:
        stream = self.patch_embed(self.sequence(x)).flatten(3)
        yield stream
        spikes = None
        for i, block in enumerate(self.blocks):
            if not _plain(block):
                stream, spikes = self.run_block(block, block, stream), None
                yield stream
                continue
            following = self.blocks[i + 1] if i + 1 < len(self.blocks) else None
            y, spikes = self.run_block(
                block,
                block.run,
                to_tokens(stream, block.dim, block.num_tokens),
                spikes,
                following.token_mixer.lif1 if _plain(following) else None,
            )
            stream = channels_first(y)
            yield stream

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        for surrogate in self.surrogates:
            old = next(surrogate.parameters())
            surrogate.head = make_head(self.embed_dim, self.num_classes).to(old.device, old.dtype)
