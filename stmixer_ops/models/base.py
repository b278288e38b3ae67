"""What STMixer and Spikformer share: input, readout, and the surface that timm's tools expect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._numbers import integer
from ..nn.layers import STM, check_floating, check_heads, make_head
from ..nn.recompute import checkpointed
from .resample import resample_token_matrices

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def image_size(img_size: Any) -> tuple[int, int]:
    """Height and width, from one number for both or a pair."""
    try:
        height, width = img_size
    except TypeError:  # one number
        height = width = img_size
    except ValueError:
        raise ValueError(f"img_size must be an integer or two, got {img_size!r}") from None
    return integer("img_size", height), integer("img_size", width)


class SpikingClassifier(nn.Module):
    """Base of the models: subclasses set ``patch_embed`` and ``blocks`` and run them.

    Attributes:
        T: steps that a static image is repeated for, which may be set; a sequence's own T counts.
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
        self.in_channels = self.in_chans = integer("in_channels", in_channels)
        self.num_classes = integer("num_classes", num_classes, least=0)
        embed_dim, self.num_heads = check_heads(
            integer("embed_dim", embed_dim), integer("num_heads", num_heads)
        )
        self.embed_dim = self.num_features = self.head_hidden_size = embed_dim
        self.depth = integer("depth", depth)
        self.downsample = integer("downsample", downsample, 0, 4)
        self._set_size(img_size)
        self.T = T
        self.batch_first = batch_first
        self.grad_checkpointing = False
        self.head = make_head(embed_dim, self.num_classes)
        self.default_cfg = self.pretrained_cfg = self._config()

    @property
    def T(self) -> int:
        """Steps that a static image is repeated for; a sequence's own T counts."""
        return self._steps

    @T.setter
    def T(self, steps: int) -> None:
        self._steps = integer("T", steps)

    def _set_size(self, img_size: int | tuple[int, int]) -> None:
        height, width = image_size(img_size)
        patch = 2**self.downsample
        if height % patch or width % patch:
            raise ValueError(
                f"img_size must be a multiple of {patch} (2^downsample), got {(height, width)}"
            )
        self.img_size = (height, width)
        self.grid_size = (height // patch, width // patch)
        self.num_tokens = self.grid_size[0] * self.grid_size[1]

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
        steps = x.shape[1 if self.batch_first else 0] if x.dim() == 5 else self.T
        if x.dim() not in (4, 5) or x.shape[-3:] != image or steps == 0:
            lead = "B, T" if self.batch_first else "T, B"
            sizes = ", ".join(map(str, image))
            raise ValueError(
                f"x must be images [B, {sizes}] or sequences [{lead}, {sizes}], "
                f"got shape {tuple(x.shape)}"
            )
        if x.dim() == 4:
            return x.expand(self.T, *x.shape)
        return x.transpose(0, 1) if self.batch_first else x

    def streams(self, x: Tensor) -> Iterator[Tensor]:
        """The stream ``[T, B, C, N]``, N = H/p * W/p tokens row by row: as the patch embedding
        leaves it, then as each block does."""
        raise NotImplementedError

    def run_block(self, block: nn.Module, call: Callable[..., Any], *args: Any) -> Any:
        """``call(*args)``, which runs ``block``, with or without keeping its activations."""
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpointed(block, call, *args)
        return call(*args)

    def forward_features(self, x: Tensor) -> Tensor:
        """The stream after the last block, ``[T, B, C, N]``."""
        stream = x
        for stream in self.streams(x):  # noqa: B007  the last one is it
            pass
        return stream

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The mean over steps of the stream after some blocks, as timm's models give features.

        Args:
            indices: numbers of blocks, negative ones from the end; an integer for the last so
                many; None for all.
            norm: taken for timm's sake; there is no norm after the blocks.
            stop_early: leave out the blocks after the last of ``indices``.
            output_fmt: ``"NCHW"`` or ``"NLC"``.
            intermediates_only: leave out the stream.
        Returns:
            the stream ``[T, B, C, N]`` of the last block that ran, for :meth:`forward_head`, and
            a list of features ``[B, C, H, W]`` or ``[B, N, C]`` in order of the blocks.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC', got {output_fmt!r}")
        wanted = self._block_indices(indices)
        features, stream = [], x
        for i, stream in enumerate(self.streams(x), start=-1):
            if i in wanted:
                y = stream.mean(0)
                image = output_fmt == "NCHW"
                features.append(y.unflatten(2, self.grid_size) if image else y.transpose(1, 2))
            if stop_early and i == max(wanted, default=-1):
                break
        return features if intermediates_only else (stream, features)

    def _block_indices(self, indices: int | Sequence[int] | None) -> set[int]:
        if indices is None:
            return set(range(self.depth))
        if not isinstance(indices, Sequence):
            return set(range(self.depth)[-integer("indices", indices, 1, self.depth) :])
        return {integer("indices", i, -self.depth, self.depth - 1) % self.depth for i in indices}

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """What :meth:`forward_intermediates` gives, as timm's feature extractors ask for it."""
        return [
            {"num_chs": self.embed_dim, "reduction": 2**self.downsample, "module": f"blocks.{i}"}
            for i in range(self.depth)
        ]

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
        num_classes = integer("num_classes", num_classes, least=0)
        weight = next(self.blocks.parameters())
        self.num_classes = num_classes
        self.head = make_head(self.embed_dim, num_classes).to(weight.device, weight.dtype)
        self.default_cfg = self.pretrained_cfg = {**self.default_cfg, "num_classes": num_classes}

    def no_weight_decay(self) -> set[str]:
        """Names to exempt from weight decay beside biases and BN, which timm finds itself."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters by depth, as timm's layer-wise learning rates need them."""
        return {"stem": r"^patch_embed", "blocks": r"^blocks\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks compute their activations again in backward instead of keeping them.

        Results, gradients and running statistics stay the same, to the bit on a CPU.
        """
        self.grad_checkpointing = bool(enable)

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Take another size of images from now on; token matrices are resampled to its grid.

        See :func:`~stmixer_ops.models.resample.resample_token_matrices`. They become new
        parameters: make the optimiser afterwards.

        Raises:
            ValueError: not a multiple of the patch size, or a token matrix that is computed from
                something else (a parametrisation), by path. Nothing is changed then.
        """
        mixers = {path: m for path, m in self.named_modules() if isinstance(m, STM)}
        for path, mixer in mixers.items():
            if "weight" not in mixer._parameters:
                raise ValueError(f"cannot resample {path}.weight: it is no plain parameter")
        old = self.grid_size
        self._set_size(img_size)
        for mixer in mixers.values():
            weight = resample_token_matrices(mixer.weight.detach(), old, self.grid_size)
            mixer.weight = nn.Parameter(weight, requires_grad=mixer.weight.requires_grad)
        for module in self.modules():
            if hasattr(module, "num_tokens"):
                module.num_tokens = self.num_tokens
        cfg = {**self.default_cfg, "input_size": (self.in_channels, *self.img_size)}
        self.default_cfg = self.pretrained_cfg = cfg
