"""What STMixer and Spikformer share: input, readout, and the surface that timm's tools expect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..nn.layers import check_floating, check_heads, make_head

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def check_sizes(**sizes: int) -> None:
    """Refuse anything but positive integers, by name."""
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


class SpikingClassifier(nn.Module):
    """Base of the models: subclasses set ``patch_embed`` and ``blocks`` and run them.

    Attributes:
        T: steps that a static image is repeated for; a sequence's own T counts.
        num_features, head_hidden_size: channels of the stream.
        head: linear readout of the stream's mean (Identity for ``num_classes=0``).
    """

    blocks: nn.ModuleList

    def __init__(
        self,
        img_size: int | tuple[int, int],
        in_channels: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        downsample: int,
        T: int,
        batch_first: bool,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        check_sizes(img_size=height, in_channels=in_channels, embed_dim=embed_dim, depth=depth)
        check_sizes(img_size=width, num_heads=num_heads, T=T)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise ValueError(f"num_classes must be an integer of at least 0, got {num_classes!r}")
        check_heads(embed_dim, num_heads)
        patch = 2**downsample
        if height % patch or width % patch:
            raise ValueError(
                f"img_size must be a multiple of {patch} (2^downsample), got {(height, width)}"
            )
        self.img_size = (height, width)
        self.grid_size = (height // patch, width // patch)
        self.num_tokens = self.grid_size[0] * self.grid_size[1]
        self.in_channels = self.in_chans = in_channels
        self.num_classes = num_classes
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.depth = depth
        self.num_heads = num_heads
        self.downsample = downsample
        self.T = T
        self.batch_first = batch_first
        self.head = make_head(embed_dim, num_classes)
        self.default_cfg = self.pretrained_cfg = self._config()

    def _config(self) -> dict[str, Any]:
        small = self.img_size[0] < 64
        mean: tuple[float, ...]
        std: tuple[float, ...]
        mean, std = (CIFAR_MEAN, CIFAR_STD) if small else (IMAGENET_MEAN, IMAGENET_STD)
        if self.in_channels != 3:
            mean, std = (0.0,) * self.in_channels, (1.0,) * self.in_channels
        return {
            "url": "",
            "num_classes": self.num_classes,
            "input_size": (self.in_channels, *self.img_size),
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 1.0 if small else 0.9,
            "interpolation": "bicubic",
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.main.0.conv",
            "classifier": "head",
        }

    def sequence(self, x: Tensor) -> Tensor:
        """Images ``[B,C,H,W]`` repeated T times by a view, or sequences, as ``[T,B,C,H,W]``."""
        check_floating(x)
        image = (self.in_channels, *self.img_size)
        if x.dim() not in (4, 5) or x.shape[-3:] != image or 0 in x.shape:
            lead = "B, T" if self.batch_first else "T, B"
            sizes = ", ".join(map(str, image))
            raise ValueError(
                f"x must be images [B, {sizes}] or sequences [{lead}, {sizes}], "
                f"got shape {tuple(x.shape)}"
            )
        if x.dim() == 4:
            return x.expand(self.T, *x.shape)
        return x.transpose(0, 1) if self.batch_first else x

    def forward_features(self, x: Tensor) -> Tensor:
        """The stream after the last block, ``[T, B, C, N]``, N = H/p * W/p tokens row by row."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """``[T, B, C, N]`` to logits ``[B, classes]``, or to the mean ``[B, C]`` they are from.

        The mean over tokens and steps comes first: the readout is linear.
        """
        x = x.mean((0, 3))
        return x if pre_logits else self.head(x)

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh readout for ``num_classes`` (0: none)."""
        if global_pool not in (None, "", "avg"):
            raise ValueError(f"global_pool must be 'avg', got {global_pool!r}")
        weight = next(self.blocks.parameters())
        self.num_classes = num_classes
        self.head = make_head(self.embed_dim, num_classes).to(weight.device, weight.dtype)
        self.default_cfg = self.pretrained_cfg = {**self.default_cfg, "num_classes": num_classes}

    def no_weight_decay(self) -> set[str]:
        """Names to exempt from weight decay beside biases and BN, which timm finds itself."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise NotImplementedError(
                "gradient checkpointing would update the BN statistics twice per step"
            )

    def real_valued(self) -> Iterator[nn.Module]:
        """The readout sees a real-valued mean (the patch embedding lists its own layers)."""
        if self.num_classes:
            yield self.head
