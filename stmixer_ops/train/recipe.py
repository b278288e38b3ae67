"""Training recipes: everything that decides a result, in one frozen JSON-able dataclass."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import numpy as np


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@functools.cache
def field_types() -> dict[str, Any]:
    """Field name to its type."""
    return get_type_hints(Recipe)


@dataclass(frozen=True)
class Recipe:
    """What is trained, on what, and how. Each field is an option of ``stmixer train``."""

    data: str = _option("digits", "data set, see stmixer_ops.data.list_datasets()")
    img_size: int | None = _option(None, "side of the images; the data set's own by default")
    model: str = _option("stmixer_4_384_16", "name for create_model")
    model_args: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "further keywords of create_model"}
    )
    T: int = _option(1, "time steps")
    reset: str = _option("hard", "reset of the neurons after a spike: hard or soft")
    sml: bool = _option(True, "train with surrogate modules (SML)")

    epochs: int = _option(
        300,
        "epochs in all: the recipe's warm-up and cool-down shrink or grow with it (with "
        "--cooldown-epochs: epochs of the cosine, warm-up included)",
    )
    cooldown_epochs: int = _option(0, "epochs at min_lr after the cosine")
    warmup_epochs: float = _option(0, "epochs of linear warm-up")
    batch_size: int = _option(64, "images in a step")
    lr: float = _option(5e-3, "highest learning rate of AdamW")
    warmup_lr: float = _option(1e-6, "learning rate at the start of the warm-up")
    min_lr: float = _option(1e-6, "learning rate at the end of the cosine")
    weight_decay: float = _option(0.05, "of matrices; biases and norms have none")

    label_smoothing: float = _option(0.0, "share of the target spread over all classes")
    mixup: float = _option(0.0, "alpha of mixup, 0 for none (timm)")
    cutmix: float = _option(0.0, "alpha of cutmix, 0 for none (timm)")
    mixup_off_epoch: int | None = _option(None, "epoch from which mixup and cutmix are off")
    rand_augment: str | None = _option(None, "RandAugment in timm's notation (timm)")
    random_erasing: float = _option(0.0, "probability of random erasing (timm)")
    flip: float = _option(0.0, "probability of a horizontal flip")
    crop_padding: int = _option(0, "pixels by which images are shifted at random")

    frames: str | None = _option(None, "of recordings: frames by time or by number of events")
    step_us: int | None = _option(None, "length of a frame by time, in µs")
    split: str | None = _option(None, "test set of cifar10-dvs: spikformer, tebn or mtt")
    fit: str | None = _option(None, "a smaller img_size of frames: crop, sum or nearest")
    augment: str | None = _option(None, "nda: rolls, turns or shears frames of events, and cutout")

    amp: bool = _option(True, "bfloat16 autocast on a GPU")
    seed: int = _option(0, "everything random follows from it")

    def __post_init__(self) -> None:
        for name, kind in field_types().items():
            object.__setattr__(self, name, self._plain(name, kind))
        for name in ("T", "epochs", "batch_size"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in (
            "cooldown_epochs",
            "warmup_epochs",
            "crop_padding",
            "weight_decay",
            "mixup",
            "cutmix",
            "warmup_lr",
            "min_lr",
            "seed",
        ):
            self._check(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("flip", "random_erasing", "label_smoothing"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self._check("augment", self.augment in (None, "nda"), "'nda' or None")
        self._check("lr", 0 < self.lr < math.inf, "positive")
        self._check("reset", self.reset in ("hard", "soft"), "'hard' or 'soft'")
        self._check("warmup_epochs", self.warmup_epochs <= self.epochs, f"at most {self.epochs}")

    def _plain(self, name: str, kind: Any) -> Any:
        """The field as what JSON knows: NumPy's numbers become Python's."""
        value = getattr(self, name)
        if isinstance(value, Mapping):
            return {k: v.item() if isinstance(v, np.generic) else v for k, v in value.items()}
        if value is None or kind not in (int, int | None, float, bool):
            return value
        try:
            if kind is float and not isinstance(value, str):
                return float(value)
            return bool(value) if isinstance(value, bool | np.bool_) else operator.index(value)
        except TypeError:
            expected = {float: "a number", bool: "True or False"}.get(kind, "a whole number")
            raise ValueError(f"recipe: {name} must be {expected}, got {value!r}") from None

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"recipe: {name} must be {expected}, got {getattr(self, name)!r}")

    @property
    def total_epochs(self) -> int:
        return self.epochs + self.cooldown_epochs

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed; unknown names are refused."""
        known = {f.name for f in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(
                f"recipe has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        return dataclasses.replace(self, **changes)

    def lasting(self, epochs: int) -> Recipe:
        """A copy of ``epochs`` in all: warm-up, cool-down and the end of mixup at their old shares
        of them."""
        epochs = operator.index(epochs)
        share = epochs / self.total_epochs
        if share == 1:
            return self
        cooldown = int(self.cooldown_epochs * share)
        off = self.mixup_off_epoch
        return self.replace(
            epochs=epochs - cooldown,
            cooldown_epochs=cooldown,
            warmup_epochs=self.warmup_epochs * share,
            mixup_off_epoch=None if off is None else round(off * share),
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`."""
        return cls().replace(**fields)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Of optimiser step ``step`` (from 0): linear warm-up, cosine to ``min_lr``, cool-down.

    A pure function of the step, so that a resumed run needs no scheduler state. As in timm the
    cosine is counted from step 0, not from the end of the warm-up.
    """
    epoch = step / steps_per_epoch
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr + (recipe.lr - recipe.warmup_lr) * epoch / recipe.warmup_epochs
    progress = min(1.0, epoch / recipe.epochs)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2


# The paper's recipes (see docs of the official code: AdamW, cosine, AMP, bicubic, no EMA).
_CIFAR = Recipe(
    data="cifar10", model="stmixer_4_384_16", epochs=300, cooldown_epochs=10, warmup_epochs=20,
    warmup_lr=1e-4, lr=5e-3, min_lr=1e-7, weight_decay=0.06, batch_size=64,
    rand_augment="rand-m9-n1-mstd0.4-inc1", mixup=0.5, cutmix=0.5, mixup_off_epoch=200,
    label_smoothing=0.01, random_erasing=0.25, flip=0.5,
)  # fmt: skip
_IMAGENET = _CIFAR.replace(
    data="folder", model="stmixer_8_768_16", warmup_lr=1e-6, lr=3e-4, min_lr=1e-5,
    weight_decay=0.05, batch_size=128, rand_augment="rand-m9-mstd0.5-inc1", mixup=0.8, cutmix=1.0,
    mixup_off_epoch=None, label_smoothing=0.1,
)  # fmt: skip
# Small ones for two CPU cores, this project's own: half a minute for digits, a quarter of an hour
# for the others. With so few epochs small batches matter more than anything else.
_DIGITS = Recipe(
    data="digits", model="stmixer_2_64_4", epochs=20, warmup_epochs=1, batch_size=64, lr=1e-2,
    label_smoothing=0.05, crop_padding=1,
)  # fmt: skip
_FASHION = Recipe(
    data="fashion-mnist", model="stmixer_2_64_8", epochs=5, warmup_epochs=0.3, batch_size=64,
    lr=6e-3, label_smoothing=0.05, flip=0.5,
)  # fmt: skip
_CIFAR_QUICK = _FASHION.replace(data="cifar10")
_PHOTOS = _FASHION.replace(
    data="folder", img_size=64, model_args={"downsample": 3}, epochs=30, warmup_epochs=1,
    batch_size=32, crop_padding=4,
)  # fmt: skip
# Frames of events: small networks for a CPU, and the published model on CIFAR10-DVS, for which no
# recipe is published; its augmentation is that of NDA (Li et al. 2022).
_NMNIST = Recipe(
    data="nmnist", model="stmixer_2_32_8", model_args={"downsample": 2}, T=10, epochs=30,
    warmup_epochs=1, batch_size=32, lr=1e-2, label_smoothing=0.05, crop_padding=1,
)  # fmt: skip
_DVS = Recipe(
    data="cifar10-dvs", model="stmixer_2_256_16.cifar10dvs", T=16, epochs=200, warmup_epochs=10,
    batch_size=16, lr=1e-3, weight_decay=0.06, flip=0.5, augment="nda", cutmix=1.0,
)  # fmt: skip
_GESTURE = _DVS.replace(
    data="dvs128-gesture", model="stmixer_2_256_16.dvs128gesture", flip=0.0, cutmix=0.0
)
_RECORDINGS = _NMNIST.replace(data="events")
RECIPES = {
    "digits": _DIGITS,
    "fashion-mnist": _FASHION,
    "cifar-quick": _CIFAR_QUICK,
    "photos": _PHOTOS,
    "cifar": _CIFAR,
    "imagenet": _IMAGENET,
    "nmnist": _NMNIST,
    "cifar10-dvs": _DVS,
    "dvs128-gesture": _GESTURE,
    "recordings": _RECORDINGS,
}
_FOR_DATA = {
    "digits": "digits",
    "mnist": "fashion-mnist",
    "fashion-mnist": "fashion-mnist",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "folder": "photos",
    "nmnist": "nmnist",
    "cifar10-dvs": "cifar10-dvs",
    "dvs128-gesture": "dvs128-gesture",
    "events": "recordings",
}


def get_recipe(name: str | None = None, *, data: str | None = None, **changes: Any) -> Recipe:
    """A recipe by name, or the one that belongs to the data set ``data``, with fields changed.

    ``cifar`` and ``imagenet`` are the paper's; ``digits``, ``fashion-mnist``, ``cifar-quick`` and
    ``photos`` (any folder of images) are small ones for a CPU, ``nmnist`` and ``recordings`` (any
    folder of recordings) such for event cameras.

    ``epochs`` are those of the whole run, see :meth:`Recipe.lasting`, unless ``cooldown_epochs``
    is given, too: then they are the cosine's.
    """
    if name is None:
        name = _FOR_DATA.get(data or "digits", "photos")
    if name not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    if data is not None:
        changes["data"] = data
    return changed(RECIPES[name], changes)


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """``recipe`` with ``changes``, its schedule lasting the ``epochs`` among them."""
    changes = dict(changes)
    epochs = changes.get("epochs", 0)
    # What is no number of epochs is refused by name below.
    if "cooldown_epochs" not in changes and hasattr(epochs, "__index__") and epochs >= 1:
        recipe = recipe.lasting(changes.pop("epochs"))
    return recipe.replace(**changes)


def photo_recipe(count: int, side: int) -> Recipe:
    """``photos`` for ``count`` training images whose shorter side is about ``side`` pixels.

    Small pictures are not enlarged; few of them are seen more often, many less: about 3,000 steps
    in 5 to 60 epochs.
    """
    steps = max(1, count // _PHOTOS.batch_size)
    recipe = _PHOTOS.lasting(min(60, max(5, round(3000 / steps))))
    if side <= 48:
        recipe = recipe.replace(img_size=32, model_args={"downsample": 2}, crop_padding=2)
    return recipe
