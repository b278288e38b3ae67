"""Synapses as modules, and the layouts they read.

Inside the library activations have channels innermost: ``[T, B, N, C]`` for tokens and
``[T, B, H, W, C]`` for images. A 1x1 convolution is then one matrix product, and spikes packed
along C serve it directly. Public modules take and give the logical ``[T, B, C, ...]``, as a view.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import functional as F
from .._numbers import integer
from .lif import autocast_input


def channels_last(x: Tensor) -> Tensor:
    """``[T, B, C, ...]`` to ``[T, B, ..., C]`` (a view)."""
    # permute: torch.onnx.export mistranslates movedim where it does not know the rank.
    return x.permute(0, 1, *range(3, x.dim()), 2)


def channels_first(x: Tensor) -> Tensor:
    """``[T, B, ..., C]`` to ``[T, B, C, ...]`` (a view)."""
    return x.permute(0, 1, x.dim() - 1, *range(2, x.dim() - 1))


def check_floating(x: Tensor) -> None:
    """Refuse anything but a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        if isinstance(x, torch.fx.Proxy):
            raise TypeError(
                "torch.fx's symbolic tracing (torchvision's create_feature_extractor) cannot "
                "follow these modules; torch.export can, and a model's "
                "forward_intermediates(x, indices) gives features"
            )
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a floating-point tensor, got {got}")


def has_numbers(x: Tensor) -> bool:
    """Whether ``x [T, B, ...]`` has no extent of 0 but perhaps that of the batch."""
    return 0 not in (x.shape[0], *x.shape[2:])


def to_tokens(x: Tensor, dim: int, num_tokens: int | None = None) -> Tensor:
    """``[T, B, C, N]`` or ``[T, B, C, H, W]`` to ``[T, B, N, C]``, contiguous; checks the sizes."""
    check_floating(x)
    if x.dim() not in (4, 5) or x.shape[2] != dim or not has_numbers(x):
        raise ValueError(
            f"x must be [T, B, {dim}, N] or [T, B, {dim}, H, W], got shape {tuple(x.shape)}"
        )
    tokens = x.shape[3:].numel()
    if num_tokens is not None and tokens != num_tokens:
        raise ValueError(
            f"x must have {num_tokens} tokens (N or H*W), got {tokens} in shape {tuple(x.shape)}"
        )
    return channels_last(autocast_input(x).flatten(3)).contiguous()


def from_tokens(y: Tensor, shape: torch.Size) -> Tensor:
    """``[T, B, N, C]`` as a view of the logical ``shape`` that :func:`to_tokens` was given."""
    return channels_first(y).unflatten(3, shape[3:])


def check_heads(dim: int, num_heads: int) -> tuple[int, int]:
    """Both as ``int``; heads that do not divide the channels are refused."""
    dim, num_heads = integer("dim", dim), integer("num_heads", num_heads)
    if dim % num_heads:
        raise ValueError(f"num_heads must divide the {dim} channels, got {num_heads}")
    return dim, num_heads


def make_head(features: int, num_classes: int) -> nn.Module:
    """Linear readout, truncated normal of 0.02 and zero bias (as timm); Identity for 0 classes."""
    num_classes = integer("num_classes", num_classes, least=0)
    if num_classes == 0:
        return nn.Identity()
    head = nn.Linear(features, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def kaiming_fan_out_(weight: Tensor, fan_out: int) -> Tensor:
    """Kaiming-normal initialisation for ``fan_out``, in place."""
    return nn.init.normal_(weight, std=math.sqrt(2 / fan_out))


class CountedLinear(nn.Linear):
    """``nn.Linear`` whose input is a sum of spikes (small integers): ``[..., C]``."""

    def reset_parameters(self) -> None:
        kaiming_fan_out_(self.weight, self.out_features)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SpikeLinear(CountedLinear):
    """``nn.Linear`` of spikes ``[..., C]``, 0 or 1: in training it keeps one bit of each."""

    def forward(self, s: Tensor, bits: Tensor | None = None) -> Tensor:
        y = F.spike_linear(s, self.weight, bits)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class SpikeConv2d(nn.Conv2d):
    """``nn.Conv2d`` of spikes ``[T, B, C, H, W]``; it gets a bias when a BN is folded into it."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=False)

    def reset_parameters(self) -> None:
        kaiming_fan_out_(self.weight, self.out_channels * math.prod(self.kernel_size))

    def forward(self, s: Tensor) -> Tensor:
        y = F.spike_conv2d(s, self.weight, self.stride[0], int(self.padding[0]))
        if self.bias is not None:
            y = y + self.bias.to(y.dtype)[:, None, None]
        return channels_first(channels_last(y).contiguous())


class STM(nn.Module):
    """Spiking token mixing: one learnt matrix over the tokens per head (STMixer).

    Shape: spikes ``[T, B, C, N]`` to currents ``[T, B, C, N]``, N = ``num_tokens``.

    Attributes:
        weight: ``[num_heads, N, N]`` (output token, input token); head h mixes the h-th group of
            C / num_heads channels. No bias, no scale.
    """

    def __init__(self, num_tokens: int, num_heads: int) -> None:
        super().__init__()
        self.num_tokens = integer("num_tokens", num_tokens)
        self.num_heads = integer("num_heads", num_heads)
        shape = (self.num_heads, self.num_tokens, self.num_tokens)
        self.weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal with fan-out N, the number of tokens a spike reaches in its head."""
        kaiming_fan_out_(self.weight, self.num_tokens)

    def forward(self, s: Tensor) -> Tensor:
        s = autocast_input(s)
        return F.token_mix(s, autocast_input(self.weight))

    def extra_repr(self) -> str:
        return f"num_tokens={self.num_tokens}, num_heads={self.num_heads}"
