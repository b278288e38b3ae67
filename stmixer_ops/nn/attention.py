"""Spiking self-attention, of Spikformer and of STMixer's ablation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .fused import Spikes, batch_norm, fire, pack_for, project, project_then_lif
from .layers import CountedLinear, SpikeLinear, check_heads, from_tokens, to_tokens
from .lif import LIF, check_lif_options
from .products import attention
from .recorder import counted_as


class SSA(nn.Module):
    """Spiking self-attention: ``LIF((q k^T * scale) v)``, then a linear map and BN.

    q, k and v are each linear, BN, LIF of the input. There is no softmax; q, k and v are spikes.

    Args:
        dim: channels C.
        num_heads: must divide ``dim``.
        stage: ``"block"``, Spikformer's: a stream of small integers comes in and a LIF ends it.
            ``"mixer"``, where it stands in STM's place in STMixer's token mixer: spikes come in
            and currents leave, because a LIF of the token mixer follows.
        scale: factor on the scores.
        qkv_bias, proj_bias: biases of the linear maps (redundant before BN, but Spikformer's).
        attn_threshold: threshold of the LIF after the product; by default that of the others.
        lif: keywords of :class:`LIF`.
    Shape: ``[T, B, C, N]`` or ``[T, B, C, H, W]`` to the same.
    """

    normalised: ClassVar = {"q": "q_bn", "k": "k_bn", "v": "v_bn", "proj": "proj_bn"}
    q: CountedLinear
    k: CountedLinear
    v: CountedLinear
    q_lif: LIF
    k_lif: LIF
    v_lif: LIF

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        stage: str = "block",
        scale: float = 0.125,
        qkv_bias: bool = False,
        proj_bias: bool = False,
        attn_threshold: float | None = None,
        **lif: Any,
    ) -> None:
        super().__init__()
        if stage not in ("block", "mixer"):
            raise ValueError(f"stage must be 'block' or 'mixer', got {stage!r}")
        check_lif_options(type(self).__name__, lif)
        self.dim, self.num_heads = dim, num_heads = check_heads(dim, num_heads)
        self.stage = stage
        self.scale = scale
        # In a block the input is a sum of spikes, not binary: it has no one-bit form.
        linear = CountedLinear if stage == "block" else SpikeLinear
        for name in ("q", "k", "v"):
            self.add_module(name, linear(dim, dim, bias=qkv_bias))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(dim))
            self.add_module(f"{name}_lif", LIF(**lif))
        attn = dict(lif) if attn_threshold is None else {**lif, "threshold": attn_threshold}
        self.attn_lif = LIF(**attn)
        self.proj = SpikeLinear(dim, dim, bias=proj_bias)
        self.proj_bn = nn.BatchNorm1d(dim)
        if stage == "block":
            self.proj_lif = LIF(**lif)

    def spikes(self, spikes: Spikes) -> Spikes:
        """What ``proj`` reads, from the input with channels innermost."""
        q, k, v = (self._heads(name, spikes) for name in ("q", "k", "v"))
        # Integers, so the order does not matter: k^T v first costs N d^2, not N^2 d.
        with counted_as(lambda: attention(q, k, v)):
            y = (q @ (k.transpose(-1, -2) @ v)) * self.scale
        return fire(self.attn_lif, y.transpose(2, 3).flatten(3), pack=pack_for(self.proj_bn))

    def _heads(self, name: str, spikes: Spikes) -> Tensor:
        """Spikes of q, k or v: ``[T, B, heads, N, C / heads]``."""
        linear, bn, lif = (getattr(self, name + part) for part in ("", "_bn", "_lif"))
        fired, _ = project_then_lif(linear, bn, lif, spikes)
        return fired.dense.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.spikes(Spikes(to_tokens(x, self.dim)))
        if self.stage == "mixer":
            y = batch_norm(self.proj_bn, project(self.proj, spikes))
        else:
            y = project_then_lif(self.proj, self.proj_bn, self.proj_lif, spikes)[0].dense
        return from_tokens(y, x.shape)
