"""What an image has to become before an engine can read it, and what its classes are called.

An engine file is a network and nothing else; this JSON file lies beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import user_path, write_atomically


def labels_path(engine: Path) -> Path:
    """``m.stmx`` to ``m.labels.json``."""
    return user_path(engine).with_suffix(".labels.json")


def write_labels(engine: Path, data: Mapping[str, Any]) -> None:
    """``data``: the section of this name in a checkpoint."""
    path = labels_path(engine)
    text = json.dumps(dict(data), indent=1) + "\n"
    write_atomically(path, lambda p: p.write_text(text))


def read_labels(engine: Path) -> dict[str, Any]:
    """What :func:`write_labels` wrote."""
    path = labels_path(engine)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected beside {engine} (stmixer compile writes both)")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    expected = ("classes", "mean", "std", "img_size", "name")
    if not isinstance(content, dict) or any(key not in content for key in expected):
        raise ValueError(f"{path}: expected {', '.join(expected)}")
    return content


def labels_beside(engine: Path) -> dict[str, Any] | None:
    """What :func:`write_labels` wrote, if it did."""
    return read_labels(engine) if labels_path(engine).is_file() else None


def class_names(labels: Mapping[str, Any] | None, count: int) -> list[str]:
    """What the ``count`` classes of a network are called; without labels, their numbers.

    Raises:
        ValueError: the labels are of another network.
    """
    if labels is None:
        return [str(i) for i in range(count)]
    names = [str(name) for name in labels["classes"]]
    if len(names) != count:
        raise ValueError(f"labels: expected {count} classes, as the network has, got {len(names)}")
    return names
