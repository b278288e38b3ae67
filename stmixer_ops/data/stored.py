"""The data set that a checkpoint or an engine file was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .images import ImageData
from .registry import load_dataset


def finds_data(stored: Mapping[str, Any], name: str | None, root: str | None) -> bool:
    """Whether :func:`load_stored` has something to load: digits come with scikit-learn, all others
    lie in a folder that has to be named."""
    return name is not None or root is not None or stored["name"] == "digits"


def load_stored(
    stored: Mapping[str, Any], source: str | os.PathLike[str], name: str | None, root: str | None
) -> ImageData:
    """The data set a model belongs to, or ``name``, in the size the model takes.

    ``stored``: the section ``data`` of the checkpoint, or the labels of the engine, ``source``.
    """
    data = load_dataset(
        name or stored["name"],
        root,
        img_size=stored["img_size"],
        in_channels=len(stored["mean"]),
    )
    if len(data.classes) != len(stored["classes"]):
        raise ValueError(
            f"data: expected {len(stored['classes'])} classes as in {source}, "
            f"got {len(data.classes)}"
        )
    return data
