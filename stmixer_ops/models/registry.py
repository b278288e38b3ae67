"""Models by name."""

from __future__ import annotations

import difflib
import re
from typing import Any

from .base import SpikingClassifier
from .keywords import input_channels
from .spikformer import Spikformer
from .stmixer import STMixer

_CIFAR = {"img_size": 32, "in_channels": 3, "downsample": 2}
_EVENTS = {"img_size": 128, "in_channels": 2, "downsample": 4}
_IMAGENET = {"img_size": 224, "in_channels": 3, "downsample": 4, "num_classes": 1000}
TAGS: dict[str, dict[str, Any]] = {
    "cifar10": {**_CIFAR, "num_classes": 10},
    "cifar100": {**_CIFAR, "num_classes": 100},
    "in1k": _IMAGENET,
    "cifar10dvs": {**_EVENTS, "num_classes": 10, "T": 16},
    "dvs128gesture": {**_EVENTS, "num_classes": 11, "T": 16},
}
# Published sizes, (depth, width, heads) of STMixer and (depth, width) of Spikformer, and the data
# sets they were published for.
_PUBLISHED: dict[tuple[int, ...], tuple[str, ...]] = {
    **{(4, 384, heads): ("cifar10", "cifar100") for heads in (8, 16, 32)},
    **{(8, 768, heads): ("in1k",) for heads in (8, 12, 16, 32)},
    **{(2, 256, heads): ("cifar10dvs", "dvs128gesture") for heads in (8, 16, 32)},
    (4, 384): ("cifar10", "cifar100"),
    (8, 768): ("in1k",),
    (2, 256): ("cifar10dvs", "dvs128gesture"),
}
_VARIANT = {"cifar10": "cifar10", "cifar100": "cifar10", "in1k": "imagenet"}


def list_models(with_tags: bool = False) -> list[str]:
    """The published names; ``with_tags`` lists each with each of its data sets instead."""
    names = {
        "_".join(["stmixer" if len(sizes) == 3 else "spikformer", *map(str, sizes)]): tags
        for sizes, tags in _PUBLISHED.items()
    }
    if not with_tags:
        return sorted(names)
    return sorted(f"{name}.{tag}" for name, tags in names.items() for tag in tags)


def create_model(name: str, **overrides: Any) -> SpikingClassifier:
    """A model by name, with random weights.

    Args:
        name: ``stmixer_<depth>_<width>_<heads>`` or ``spikformer_<depth>_<width>``, published
            (:func:`list_models`) or not, optionally with ``.<tag>``, the data set whose input
            size, channels, classes and steps are the defaults: cifar10, cifar100, in1k,
            cifar10dvs, dvs128gesture. Without a tag: that of the published model of this depth
            and width, or cifar10.
        overrides: keywords of :class:`STMixer` or :class:`Spikformer`; those of timm that ask for
            nothing (``pretrained=False``, ``drop_path_rate=0.0``, ...) are taken, too.
    Raises:
        ValueError: unknown name (with close matches) or tag, sizes that do not fit, or a keyword
            of timm that asks for what these models do not have.
        TypeError: an unknown keyword.
    """
    base, _, tag = name.partition(".")
    match = re.fullmatch(r"stmixer_(\d+)_(\d+)_(\d+)|spikformer_(\d+)_(\d+)", base)
    if match is None:
        close = difflib.get_close_matches(base, list_models(), n=3, cutoff=0.5)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise ValueError(
            f"unknown model {name!r}{hint}; names are stmixer_<depth>_<width>_<heads> and "
            "spikformer_<depth>_<width>, optionally followed by .<tag>"
        )
    if tag and tag not in TAGS:
        raise ValueError(f"unknown tag {tag!r} of {base}; tags are {', '.join(TAGS)}")
    numbers = tuple(int(n) for n in match.groups() if n is not None)
    tag = tag or _PUBLISHED.get(numbers, ("cifar10",))[0]
    sizes = {"depth": numbers[0], "embed_dim": numbers[1], **TAGS[tag]}
    given = input_channels(base, overrides.get("in_channels"), overrides.pop("in_chans", None))
    if given is not None:
        overrides["in_channels"] = given
    model: SpikingClassifier
    if match[1]:
        model = STMixer(**{**sizes, "num_heads": numbers[2], **overrides})
    else:
        model = Spikformer(**{**sizes, "variant": _VARIANT.get(tag, "dvs"), **overrides})
    model.default_cfg.update(architecture=base, tag=tag)
    return model
