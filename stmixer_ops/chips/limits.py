"""What each chip allows: `chips.json`, in which every limit names its source and date."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Chip:
    """One chip, or one member of a family.

    Attributes:
        name: as :func:`~stmixer_ops.check_async` takes it.
        title: for people.
        clock_free: whether a spike is processed when it arrives. The cores of the other chips run
            asynchronously too, but only between the barriers of a time step.
        programmable: whether neurons and synapses are software, so that it can compute any
            operation.
        limits: figures by name; their sources are in the file.
    """

    name: str
    title: str
    clock_free: bool
    programmable: bool
    limits: Mapping[str, Any]


@cache
def read() -> dict[str, Any]:
    """The content of the file."""
    text = resources.files(__package__).joinpath("chips.json").read_text(encoding="utf-8")
    return json.loads(text)


def chip_names() -> list[str]:
    return list(read()["chips"])


def chips(name: str) -> list[Chip]:
    """The chip of this name, or all members of the family.

    Raises:
        ValueError: an unknown name.
    """
    if name not in read()["chips"]:
        raise ValueError(f"chip must be None or one of {', '.join(chip_names())}, got {name!r}")
    entry = read()["chips"][name]
    members = entry.get("variants", {"": entry.get("limits")})
    return [
        Chip(
            name,
            f"{entry['title']} {member}".rstrip(),
            entry["clock_free"],
            entry.get("programmable", False),
            {key: limit["value"] for key, limit in limits.items()},
        )
        for member, limits in members.items()
    ]
