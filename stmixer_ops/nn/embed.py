"""From images to the stream of tokens: STMixer's and Spikformer's patch splitting."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .._numbers import integer
from .fused import Folded, Pack, Spikes, batch_norm, project, project_then_lif
from .layers import (
    SpikeConv2d,
    channels_first,
    channels_last,
    check_floating,
    has_numbers,
    kaiming_fan_out_,
)
from .lif import LIF, autocast_input, check_lif_options


class InputConv2d(nn.Conv2d):
    """``nn.Conv2d`` (no bias) of real-valued ``[T, B, C, H, W]``.

    An image repeated by ``expand`` (T-stride 0) is convolved once.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def reset_parameters(self) -> None:
        kaiming_fan_out_(self.weight, self.out_channels * self.weight.shape[2:].numel())

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[0]
        static = steps > 1 and x.stride(0) == 0
        y = super().forward((x[:1] if static else x).flatten(0, 1))
        y = y.contiguous(memory_format=torch.channels_last)
        y = y.unflatten(0, (1 if static else steps, x.shape[1]))
        return y.expand(steps, *y.shape[1:]) if static else y


class ConvBNLIF(nn.Module):
    """Convolution, BN and, unless ``lif`` is None, neurons: ``[T, B, C, H, W]`` time-first.

    Attributes: ``conv``, ``bn``, ``lif``.
    """

    def __init__(self, conv: InputConv2d | SpikeConv2d, lif: LIF | None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(conv.out_channels)
        self.lif = lif

    normalised: ClassVar = {"conv": "bn"}

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.run(Spikes(channels_last(x)))
        return channels_first(spikes.unpacked(self.conv.out_channels, x.dtype))

    def run(self, spikes: Spikes, pack: Pack = False) -> Spikes:
        """Channels innermost in and out; what comes out is real-valued without neurons."""
        if self.lif is None:
            return Spikes(batch_norm(self.bn, project(self.conv, spikes)))
        return project_then_lif(self.conv, self.bn, self.lif, spikes, pack=pack)[0]


class _PatchSplitting(nn.Module):
    """What the two kinds have in common: sizes, and images ``[T, B, C, H, W]`` in.

    Attributes:
        widths: channels D/8, D/4, D/2, D of the first four convolutions.
    """

    def __init__(
        self, in_channels: int, embed_dim: int, downsample: int, lif: dict[str, Any]
    ) -> None:
        super().__init__()
        check_lif_options(type(self).__name__, lif)
        self.in_channels = integer("in_channels", in_channels)
        self.embed_dim = integer("embed_dim", embed_dim)
        self.downsample = integer("downsample", downsample, 0, 4)
        if self.embed_dim % 8:
            raise ValueError(f"embed_dim must be a multiple of 8, got {embed_dim}")
        self.widths = [self.embed_dim // part for part in (8, 4, 2, 1)]

    def _images(self, x: Tensor) -> Tensor:
        """``x`` as ``[T, B, C, H, W]`` with the channels innermost; clear errors otherwise."""
        check_floating(x)
        if x.dim() != 5 or x.shape[2] != self.in_channels or not has_numbers(x):
            raise ValueError(
                f"x must be [T, B, {self.in_channels}, H, W], got shape {tuple(x.shape)}"
            )
        divisor = 2**self.downsample
        if x.shape[3] % divisor or x.shape[4] % divisor:
            raise ValueError(
                f"height and width of x must be multiples of {divisor}, got {tuple(x.shape[3:])}"
            )
        x = autocast_input(x)
        if x.shape[0] > 1 and x.stride(0) == 0:
            image = x[0].contiguous(memory_format=torch.channels_last)
            return image.expand(x.shape[0], *image.shape)
        return channels_first(channels_last(x).contiguous())


class IPSPS(_PatchSplitting):
    """Information-protect spiking patch splitting (STMixer).

    ``main``: five 3x3 convolutions with BN, LIF after the first four. ``protect``: one convolution
    of the input with BN and no LIF, kernel = stride = 2^downsample, so that the stream gets some
    of the image unspiked. Their outputs are concatenated, protect first. No pooling.

    Args:
        in_channels: channels of the input.
        embed_dim: channels D of the stream, a multiple of 8 (D/8 of them protected).
        downsample: 2 (strides 1,1,1,2,2) or 4 (1,2,2,2,2).
        lif: keywords of :class:`LIF`.
    Shape: real-valued ``[T, B, in_channels, H, W]`` to the stream
        ``[T, B, D, H / 2^downsample, W / 2^downsample]``.
    """

    def __init__(self, in_channels: int, embed_dim: int, downsample: int = 2, **lif: Any) -> None:
        super().__init__(in_channels, embed_dim, downsample, lif)
        widths = [*self.widths, self.embed_dim - self.widths[0]]
        strides = [1] * (5 - self.downsample) + [2] * self.downsample
        self.main = nn.ModuleList(
            ConvBNLIF(
                (SpikeConv2d if i else InputConv2d)(source, width, 3, stride, 1),
                LIF(**lif) if i < 4 else None,
            )
            for i, (source, width, stride) in enumerate(
                zip([self.in_channels, *widths], widths, strides, strict=False)
            )
        )
        patch = 2**self.downsample
        self.protect = ConvBNLIF(InputConv2d(self.in_channels, widths[0], patch, patch, 0), None)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(self._images(x))
        stages: list[Any] = list(self.main)
        y = Spikes(x)
        for stage, reader in pairwise([*stages, None]):
            reads_bits = reader is not None and reader.lif and isinstance(reader.bn, Folded)
            y = stage.run(y, pack="only" if reads_bits else False)
        return channels_first(torch.cat([self.protect.run(Spikes(x)).dense, y.dense], dim=-1))


class SPS(_PatchSplitting):
    """Spiking patch splitting (Spikformer): convolutions with LIF, max-pooled after the LIF.

    ``main``: four 3x3 convolutions (D/8, D/4, D/2, D), each with BN and LIF; the last
    ``downsample`` of them followed by a 3x3 max-pool of stride 2. ``position``: one more 3x3
    convolution with BN and LIF, added to its input.

    Args:
        in_channels: channels of the input.
        embed_dim: channels D, a multiple of 8.
        downsample: number of pools, 0 to 4.
        lif: keywords of :class:`LIF`.
    Shape: real-valued ``[T, B, in_channels, H, W]`` to integers
        ``[T, B, D, H / 2^downsample, W / 2^downsample]``.
    """

    def __init__(self, in_channels: int, embed_dim: int, downsample: int = 2, **lif: Any) -> None:
        super().__init__(in_channels, embed_dim, downsample, lif)
        self.main = nn.ModuleList(
            ConvBNLIF((SpikeConv2d if i else InputConv2d)(source, width, 3, 1, 1), LIF(**lif))
            for i, (source, width) in enumerate(
                zip([self.in_channels, *self.widths], self.widths, strict=False)
            )
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        last = self.embed_dim
        self.position = ConvBNLIF(SpikeConv2d(last, last, 3, 1, 1), LIF(**lif))

    def _pooled(self, stage: int, spikes: Tensor) -> Tensor:
        """What the layer after ``main[stage]`` sees of its spikes."""
        if stage < len(self.main) - self.downsample:
            return spikes
        return self.pool(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])

    def forward(self, x: Tensor) -> Tensor:
        y = self._images(x)
        for i, stage in enumerate(self.main):
            y = self._pooled(i, stage(y))
        return y + self.position(y)
