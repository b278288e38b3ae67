"""The STMixer encoder block: token mixing, channel mixing, membrane shortcut."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .._numbers import integer
from .attention import SSA
from .fused import (
    Pack,
    Spikes,
    backward_reads_bits,
    batch_norm,
    fire,
    is_plain,
    mix_then_lif,
    pack_for,
    pack_for_mixing,
    project,
    project_then_lif,
)
from .layers import STM, SpikeLinear, check_heads, from_tokens, to_tokens
from .lif import LIF, check_lif_options


class TokenMixer(nn.Module):
    """LIF, 1x1, BN, LIF, **mixer**, LIF, 1x1, BN: the first branch of a block.

    Args:
        dim: channels C.
        num_tokens: tokens N.
        num_heads: heads of the mixer; must divide ``dim``.
        mixer: ``"stm"`` (attribute ``stm``), or ``"ssa"`` for the ablation in which spiking
            self-attention stands in its place (attribute ``ssa``).
        lif: keywords of :class:`LIF`.
    Shape: the stream ``[T, B, C, N]`` or ``[T, B, C, H, W]`` to the branch, same shape; the
        caller adds the two.
    """

    normalised: ClassVar = {"fc1": "bn1", "fc2": "bn2"}

    def __init__(
        self, dim: int, num_tokens: int, num_heads: int, *, mixer: str = "stm", **lif: Any
    ) -> None:
        super().__init__()
        check_lif_options(type(self).__name__, lif)
        self.dim, self.num_heads = dim, num_heads = check_heads(dim, num_heads)
        self.num_tokens = integer("num_tokens", num_tokens)
        self.lif1 = LIF(**lif)
        self.fc1 = SpikeLinear(dim, dim, bias=False)
        self.bn1 = nn.BatchNorm1d(dim)
        self.lif2 = LIF(**lif)
        if mixer == "stm":
            self.stm = STM(num_tokens, num_heads)
        elif mixer == "ssa":
            self.ssa = SSA(dim, num_heads, stage="mixer", **lif)
        else:
            raise ValueError(f"mixer must be 'stm' or 'ssa', got {mixer!r}")
        self.mixer = mixer
        self.lif3 = LIF(**lif)
        self.fc2 = SpikeLinear(dim, dim, bias=False)
        self.bn2 = nn.BatchNorm1d(dim)

    def spikes(self, spikes: Spikes) -> Spikes:
        """What ``fc2`` reads, from the spikes of ``lif1``."""
        first = self.fc1, self.bn1, self.lif2, spikes
        if self.mixer == "stm":
            pack = pack_for_mixing(self.stm, self.lif3, self.bn2)
            spikes, _ = project_then_lif(*first, pack=pack)
            return mix_then_lif(self.stm, self.lif3, spikes, self.dim, pack=pack)
        ssa: Any = self.ssa
        spikes, _ = project_then_lif(*first, pack=pack_for(ssa.q_bn))
        return project_then_lif(ssa.proj, ssa.proj_bn, self.lif3, ssa.spikes(spikes))[0]

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x, self.dim, self.num_tokens)
        spikes = self.spikes(fire(self.lif1, tokens, pack=pack_for(self.bn1)))
        return from_tokens(batch_norm(self.bn2, project(self.fc2, spikes)), x.shape)


class ChannelMLP(nn.Module):
    """LIF, 1x1 (C to rC), BN, LIF, 1x1 (rC to C), BN: the second branch of a block.

    Args:
        dim: channels C.
        mlp_ratio: r; ``int(dim * mlp_ratio)`` hidden channels.
        lif: keywords of :class:`LIF`.
    Shape: ``[T, B, C, N]`` or ``[T, B, C, H, W]`` to the same.
    """

    normalised: ClassVar = {"fc1": "bn1", "fc2": "bn2"}

    def __init__(self, dim: int, mlp_ratio: float = 4.0, **lif: Any) -> None:
        super().__init__()
        check_lif_options(type(self).__name__, lif)
        self.dim = dim = integer("dim", dim)
        hidden = int(dim * mlp_ratio)
        if hidden < 1:
            raise ValueError(f"mlp_ratio must leave at least one channel, got {mlp_ratio}")
        self.lif1 = LIF(**lif)
        self.fc1 = SpikeLinear(dim, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        self.lif2 = LIF(**lif)
        self.fc2 = SpikeLinear(hidden, dim, bias=False)
        self.bn2 = nn.BatchNorm1d(dim)

    def spikes(self, spikes: Spikes, pack: Pack) -> Spikes:
        """What ``fc2`` reads, from the spikes of ``lif1``."""
        return project_then_lif(self.fc1, self.bn1, self.lif2, spikes, pack=pack)[0]

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x, self.dim)
        spikes = self.spikes(
            fire(self.lif1, tokens, pack=pack_for(self.bn1)), backward_reads_bits()
        )
        return from_tokens(batch_norm(self.bn2, project(self.fc2, spikes)), x.shape)


class STMBlock(nn.Module):
    """STMixer encoder block: ``x + TokenMixer(x)``, then ``x + ChannelMLP(x)``.

    The stream x is real-valued (membrane shortcut); everything after a LIF is spikes.

    Args:
        dim: channels C.
        num_tokens: tokens N = H*W.
        num_heads: heads of the token mixer; must divide ``dim``.
        mlp_ratio: hidden channels of the MLP per channel.
        mixer: ``"stm"``, or ``"ssa"`` for the ablation (see :class:`TokenMixer`).
        lif: keywords of :class:`LIF` for all neurons (``reset``, ``decay``, ``surrogate``, ...).
    Shape: ``[T, B, C, N]`` or ``[T, B, C, H, W]`` to the same, any T; nothing is kept between
        calls. The result is a view with the channels innermost; an input laid out so is not
        copied. Under autocast the stream is in autocast's dtype.
    Memory: training in bfloat16 at ratio 4 holds 19 bytes per (token, channel, step): two sums of
        the stream, the four BN inputs, and spikes as bits.
    """

    def __init__(
        self,
        dim: int,
        num_tokens: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        mixer: str = "stm",
        **lif: Any,
    ) -> None:
        super().__init__()
        check_lif_options(type(self).__name__, lif)
        self.dim = integer("dim", dim)
        self.num_tokens = integer("num_tokens", num_tokens)
        self.token_mixer = TokenMixer(dim, num_tokens, num_heads, mixer=mixer, **lif)
        self.channel_mlp = ChannelMLP(dim, mlp_ratio, **lif)

    @property
    def fusable(self) -> bool:
        """Whether :meth:`run` may stand in for calling the two branches."""
        return is_plain(self.token_mixer, TokenMixer) and is_plain(self.channel_mlp, ChannelMLP)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x, self.dim, self.num_tokens)
        if self.fusable:
            y, _ = self.run(tokens)
            return from_tokens(y, x.shape)
        y = from_tokens(tokens, x.shape)
        y = y + self.token_mixer(y)
        return y + self.channel_mlp(y)

    def run(
        self, x: Tensor, spikes: Spikes | None = None, next_lif: nn.Module | None = None
    ) -> tuple[Tensor, Spikes | None]:
        """The hand-over between blocks, which lets the last BN fuse into the next block's LIF.

        Args:
            x: stream ``[T, B, N, C]``.
            spikes: those of this block's first LIF, if the block before computed them.
            next_lif: the neurons that read the stream next.
        Returns:
            the stream, and the spikes of ``next_lif`` (None without).
        """
        mixer, mlp = self.token_mixer, self.channel_mlp
        if spikes is None:
            spikes = fire(mixer.lif1, x, pack=pack_for(mixer.bn1))
        spikes, total = project_then_lif(
            mixer.fc2,
            mixer.bn2,
            mlp.lif1,
            mixer.spikes(spikes),
            residual=x,
            pack=pack_for(mlp.bn1),
        )
        if next_lif is None:
            y = batch_norm(mlp.bn2, project(mlp.fc2, mlp.spikes(spikes, backward_reads_bits())))
            return total + y.to(x.dtype), None
        # The next block is one of these, so its first layer reads what this one's does.
        spikes, total = project_then_lif(
            mlp.fc2,
            mlp.bn2,
            next_lif,
            mlp.spikes(spikes, pack_for(mlp.bn2)),
            residual=total,
            pack=pack_for(mixer.bn1),
        )
        return total, spikes
