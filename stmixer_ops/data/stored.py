"""The data set that a checkpoint or an engine file was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .load_events import EVENT_SETS
from .recordings import Progress
from .registry import load_dataset
from .sets import FrameData, ImageData


def finds_data(stored: Mapping[str, Any], name: str | None, root: str | None) -> bool:
    """Whether :func:`load_stored` has something to load: digits come with scikit-learn, all others
    lie in a folder, which is named or is where it was."""
    if name is not None or root is not None or stored["name"] == "digits":
        return True
    return stored.get("root") is not None and Path(stored["root"]).is_dir()


def load_stored(
    stored: Mapping[str, Any],
    source: str | os.PathLike[str],
    name: str | None,
    root: str | None,
    progress: Progress | None = None,
) -> ImageData | FrameData:
    """The data set a model belongs to, or ``name``, in the size the model takes.

    ``stored``: the section ``data`` of the checkpoint, or the labels of the engine, ``source``.
    Without ``name`` and ``root`` it is looked for where it was in training.

    Raises:
        FileNotFoundError: it is not there any more.
        ValueError: its classes are not the model's.
    """
    if root is None and name in (None, stored["name"]):
        root = stored_root(stored, source)
    name = name or stored["name"]
    made = dict(stored.get("made", {})) if name in EVENT_SETS else {}
    if name != stored["name"]:
        made.pop("split", None)
    data = load_dataset(
        name,
        root,
        img_size=stored["img_size"],
        in_channels=len(stored["mean"]),
        skip_damaged=bool(stored.get("skipped")),
        progress=progress,
        **made,
    )
    _check_classes(stored["classes"], data.classes, source)
    return data


def with_steps(stored: Mapping[str, Any], T: int | None) -> dict[str, Any]:
    """``stored`` for a model of another ``T``: frames of recordings become so many. Images are
    repeated by the model and stay as they are."""
    changed = dict(stored)
    if T is not None and "made" in stored:
        changed["made"] = {**stored["made"], "T": T}
        changed["input_shape"] = [T, *stored["input_shape"][1:]]
    return changed


def _check_classes(
    expected: Sequence[str], found: Sequence[str], source: str | os.PathLike[str]
) -> None:
    if list(expected) == list(found):
        return
    alone = [
        ", ".join(sorted(set(a) - set(b))[:5]) or "none" for a, b in
        ((expected, found), (found, expected))
    ]  # fmt: skip
    raise ValueError(
        f"data: expected {len(expected)} classes as in {source}, got {len(found)}; only in the "
        f"model: {alone[0]}; only in the data: {alone[1]}"
        + ("; they are in another order" if set(expected) == set(found) else "")
    )


def stored_root(stored: Mapping[str, Any], source: str | os.PathLike[str]) -> str | None:
    """Folder of the data set that ``stored`` describes (the section ``data`` of the checkpoint
    ``source``), as it was when it was trained; None if it needs none or is not known.

    Raises:
        FileNotFoundError: it is not there any more.
    """
    root = stored.get("root")
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(
            f"{source}: its data set {stored['name']!r} was in {root}, which is not there any "
            "more; --root (root=) says where it is now"
        )
    return root
