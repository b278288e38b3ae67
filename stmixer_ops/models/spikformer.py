"""Spikformer (ICLR 2023), the baseline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor, nn

from ..nn.attention import SSA
from ..nn.embed import SPS
from ..nn.fused import Spikes, pack_for, project_then_lif
from ..nn.layers import CountedLinear, SpikeLinear, channels_first, channels_last, to_tokens
from ..nn.lif import LIF
from ..surrogate import Sigmoid
from .base import SpikingClassifier
from .keywords import input_channels, lif_options

NEURON: dict[str, Any] = {
    "threshold": 1.0,
    "decay": 0.5,
    "input_scale": 0.5,
    "reset": "hard",
    "detach_reset": True,
    "surrogate": Sigmoid(4.0),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "cifar10": {
        "img_size": 32, "in_channels": 3, "num_classes": 10, "embed_dim": 384, "depth": 4,
        "num_heads": 12, "downsample": 2, "T": 4,
    },
    "imagenet": {
        "img_size": 224, "in_channels": 3, "num_classes": 1000, "embed_dim": 768, "depth": 8,
        "num_heads": 12, "downsample": 4, "T": 4,
    },
    "dvs": {
        "img_size": 128, "in_channels": 2, "num_classes": 10, "embed_dim": 256, "depth": 2,
        "num_heads": 16, "downsample": 4, "T": 16,
    },
}  # fmt: skip


class SpikformerMLP(nn.Module):
    """(Linear, BN, LIF) twice: ``[T, B, N, C]`` to the same."""

    normalised: ClassVar = {"fc1": "bn1", "fc2": "bn2"}

    def __init__(self, dim: int, mlp_ratio: float, **lif: Any) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.fc1 = CountedLinear(dim, hidden)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lif1 = LIF(**lif)
        self.fc2 = SpikeLinear(hidden, dim)
        self.bn2 = nn.BatchNorm1d(dim)
        self.lif2 = LIF(**lif)

    def forward(self, x: Tensor) -> Tensor:
        spikes, _ = project_then_lif(
            self.fc1, self.bn1, self.lif1, Spikes(x), pack=pack_for(self.bn2)
        )
        return project_then_lif(self.fc2, self.bn2, self.lif2, spikes)[0].dense


class SpikformerBlock(nn.Module):
    """``x + SSA(x)``, then ``x + MLP(x)``; both branches end in LIF, so x stays an integer.

    ``[T, B, N, C]`` to the same.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        attn_threshold: float,
        **lif: Any,
    ) -> None:
        super().__init__()
        self.attn = SSA(
            dim, num_heads, qkv_bias=qkv_bias, proj_bias=True, attn_threshold=attn_threshold, **lif
        )
        self.mlp = SpikformerMLP(dim, mlp_ratio, **lif)
        # The official checkpoints carry two norms that nothing uses: loaded, counted, never
        # trained (so that DDP does not wait for their gradients).
        self.norm1 = nn.LayerNorm(dim).requires_grad_(False)
        self.norm2 = nn.LayerNorm(dim).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + channels_last(self.attn(channels_first(x)))
        return x + self.mlp(x)


class Spikformer(SpikingClassifier):
    """Spikformer: spiking patch splitting, ``depth`` blocks of SSA and MLP, mean, readout.

    Sizes left out are those of ``variant``:

    ========== ======== ===== ===== ===== ========== == ========
    variant    img_size width depth heads downsample T  qkv bias
    ========== ======== ===== ===== ===== ========== == ========
    cifar10    32       384   4     12    2          4  yes
    imagenet   224      768   8     12    4          4  no
    dvs        128      256   2     16    4          16 no
    ========== ======== ===== ===== ===== ========== == ========

    Neurons: tau 2 with scaled input (decay and input_scale 0.5), threshold 1 (``attn_threshold``
    0.5 after the attention product), hard reset, detached, sigmoid surrogate of alpha 4.

    Args:
        img_size, in_channels, num_classes, embed_dim, depth, num_heads, mlp_ratio, downsample, T,
            batch_first: as for :class:`STMixer`.
        variant: ``"cifar10"``, ``"imagenet"`` or ``"dvs"``.
        attn_threshold: threshold of the LIF after the attention product.
        lif: keywords of :class:`~stmixer_ops.LIF` that replace those above.
    Input and output: as for :class:`STMixer`; there are no surrogate modules.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
        mlp_ratio: float = 4.0,
        downsample: int | None = None,
        T: int | None = None,
        batch_first: bool = False,
        *,
        variant: str = "cifar10",
        in_chans: int | None = None,
        attn_threshold: float = 0.5,
        **lif: Any,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        lif = NEURON | lif_options("Spikformer", lif)
        given = {
            "img_size": img_size,
            "in_channels": input_channels("Spikformer", in_channels, in_chans),
            "num_classes": num_classes,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "downsample": downsample,
            "T": T,
        }
        sizes = VARIANTS[variant] | {k: v for k, v in given.items() if v is not None}
        super().__init__(**sizes, batch_first=batch_first)
        self.variant = variant
        self.mlp_ratio = float(mlp_ratio)
        self.reset_mode = lif["reset"]
        self.patch_embed = SPS(self.in_channels, self.embed_dim, self.downsample, **lif)
        self.blocks = nn.ModuleList(
            SpikformerBlock(
                self.embed_dim, self.num_heads, self.mlp_ratio, variant == "cifar10",
                attn_threshold, **lif,
            )
            for _ in range(self.depth)
        )  # fmt: skip

    def forward(self, x: Tensor, return_aux: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        logits = self.forward_head(self.forward_features(x))
        return (logits, []) if return_aux else logits

    def streams(self, x: Tensor) -> Iterator[Tensor]:
        y = to_tokens(self.patch_embed(self.sequence(x)), self.embed_dim, self.num_tokens)
        yield channels_first(y)
        for block in self.blocks:
            y = self.run_block(block, block, y)
            yield channels_first(y)
