"""Augmentation: flips and shifts on tensors; RandAugment, erasing, mixup, cutmix from timm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import Data, ImageData
from .frames import FrameCutMix, distort_frames
from .recipe import Recipe

Mix: TypeAlias = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Augmentation:
    """What a recipe does to its images.

    ``source`` is "timm", "tensor" or "events"; ``transform``: PIL image to normalised float
    ``[C, H, W]``, or None; ``mix(images, labels, off)``: mixed images (unless ``off``) and soft
    targets, or None; ``notes`` are lines for the log; ``distort(frames, generator)``: a batch
    ``[T, B, C, H, W]`` to another, or None.
    """

    source: str
    transform: Callable[[Any], Tensor] | None
    mix: Mix | None
    notes: tuple[str, ...]
    distort: Callable[[Tensor, torch.Generator], Tensor] | None = None


def timm_obstacle() -> str | None:
    """Why timm's augmentation cannot be used here, or None if it can."""
    try:
        import timm.data  # noqa: F401
    except Exception as error:  # torchvision beside another torch raises RuntimeError
        return f"timm cannot be imported ({str(error).splitlines()[0]})"
    return None


def build_augmentation(recipe: Recipe, data: Data) -> Augmentation:
    """timm's transforms where the recipe asks for them and they can run, else tensors alone."""
    if len(data.input_shape) == 4:
        return _event_augmentation(recipe, data)
    if recipe.augment is not None:
        raise ValueError(f"recipe: augment={recipe.augment!r} is for frames of events")
    asked = [
        name
        for name in ("rand_augment", "random_erasing", "mixup", "cutmix")
        if getattr(recipe, name)
    ]
    plain = f"augmentation on tensors: flip {recipe.flip:g}, shift {recipe.crop_padding} px"
    if not asked:
        return Augmentation("tensor", None, None, (plain,))
    if not isinstance(data, ImageData) or data.in_channels != 3:
        obstacle = "timm's transforms need colour images"
    elif (reason := timm_obstacle()) is not None:
        obstacle = f"{reason}; pip install stmixer-ops[augment]"
    else:
        notes = (f"augmentation by timm: {', '.join(asked)}; flip and shift on tensors",)
        return Augmentation("timm", _timm_transform(recipe, data), _timm_mix(recipe, data), notes)
    return Augmentation("tensor", None, None, (plain, f"without {', '.join(asked)}: {obstacle}"))


def _event_augmentation(recipe: Recipe, data: Data) -> Augmentation:
    """Of frames: flips and shifts, NDA's distortions, cutmix; the rest is for images."""
    parts = [f"flip {recipe.flip:g}", f"shift {recipe.crop_padding} px"]
    mix: Mix | None = None
    if recipe.cutmix:
        mix = FrameCutMix(recipe.cutmix, recipe.label_smoothing, len(data.classes))
        parts.append(f"cutmix {recipe.cutmix:g}")
    if recipe.augment == "nda":
        parts.append("NDA (roll, rotation or shear; cutout)")
    notes = [f"augmentation of frames: {', '.join(parts)}"]
    others = [n for n in ("rand_augment", "random_erasing", "mixup") if getattr(recipe, n)]
    if others:
        notes.append(f"without {', '.join(others)}: these are for images")
    distort = distort_frames if recipe.augment == "nda" else None
    return Augmentation("events" if distort or mix else "tensor", None, mix, tuple(notes), distort)


def _timm_transform(recipe: Recipe, data: ImageData) -> Callable[[Any], Tensor] | None:
    if not (recipe.rand_augment or recipe.random_erasing):
        return None
    from timm.data import create_transform

    transform = create_transform(
        data.img_size,
        is_training=True,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.0,  # flips are made on the batch, with or without timm
        color_jitter=None,  # type: ignore[arg-type]  # timm takes it, its annotation does not
        auto_augment=recipe.rand_augment,
        interpolation="bicubic",
        mean=data.mean,
        std=data.std,
        re_prob=recipe.random_erasing,
    )
    _allow_zero_bits(transform)
    return transform


def _allow_zero_bits(transform: Any) -> None:
    """timm's RandAugment may ask to posterize to 0 bits, which Pillow refuses since version 13.

    Before, that gave a black image; so it does here.
    """
    from timm.data.auto_augment import posterize

    for step in transform.transforms:
        for op in getattr(step, "ops", ()):
            if op.aug_fn is posterize:
                op.aug_fn = _posterize


def _posterize(image: Any, bits: int, **options: Any) -> Any:
    from timm.data.auto_augment import posterize

    return image.point(lambda value: 0) if bits < 1 else posterize(image, bits, **options)


def _timm_mix(recipe: Recipe, data: ImageData) -> Mix | None:
    if not (recipe.mixup or recipe.cutmix):
        return None
    from timm.data import Mixup

    pairs = min(recipe.batch_size, len(data.train)) // 2
    if not pairs:
        raise ValueError(
            "batch_size must be at least 2 for mixup and cutmix, which mix pairs of images, "
            f"got {recipe.batch_size} and {len(data.train)} training images"
        )
    mixup = Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=data.num_classes,
    )

    def mix(images: Tensor, labels: Tensor, off: bool) -> tuple[Tensor, Tensor]:
        mixup.mixup_enabled = not off
        even = len(images) - len(images) % 2  # timm mixes pairs
        return mixup(images[:even], labels[:even])

    return mix


def flip_and_shift(images: Tensor, flip: float, padding: int, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability ``flip``, shift it by up to ``padding`` pixels.

    What is shifted in from outside is the reflected border. ``images [B, C, H, W]``, or sequences
    ``[T, B, C, H, W]``, of which all steps are moved alike.
    """
    if images.ndim == 5:
        steps, _, channels = images.shape[:3]
        merged = images.transpose(0, 1).flatten(1, 2)  # steps are further channels
        moved = flip_and_shift(merged, flip, padding, generator)
        return moved.unflatten(1, (steps, channels)).transpose(0, 1)
    batch, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(batch, generator=generator).to(images.device) < flip
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    if padding:
        offsets = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator)
        rows, columns = (
            (offsets[i] + torch.arange(size)).to(images.device)
            for i, size in enumerate((height, width))
        )
        padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
        index = torch.arange(batch, device=images.device)[:, None, None]
        images = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        images = images.permute(0, 3, 1, 2).contiguous()
    return images
