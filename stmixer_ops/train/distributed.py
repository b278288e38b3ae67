"""How many processes train together, and which of them this is.

Today it is always one: the loop asks :class:`World` who saves and who shows progress, and a start
by ``torchrun`` is refused, since each of its processes would train the whole model into one folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from torch import distributed


@dataclass(frozen=True)
class World:
    """This process among all that train one model.

    ``rank`` counts from 0 to ``size - 1``; ``device`` is where this one computes. Statistics of
    batch norms are those of each process, as in timm.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_primary(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0


def join_world(device: str) -> World:
    """The world of this process, on ``device`` ("cpu", "cuda", ... or "auto").

    Raises:
        ValueError: several processes were started, or torch has no such device.
    """
    size = int(os.environ.get("WORLD_SIZE") or 1)
    if distributed.is_available() and distributed.is_initialized():
        size = distributed.get_world_size()
    if size > 1:
        raise ValueError(
            f"training runs in one process so far, got {size} (WORLD_SIZE, set by torchrun and "
            "the like): start `stmixer train` by itself"
        )
    return World(device=_device(device))


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be cpu, cuda, cuda:1, ... or auto, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a GPU that torch can use, got 'cuda' without one")
    return device
