"""Random numbers that depend on (seed, epoch, step) alone, so that a resumed run repeats them."""

from __future__ import annotations

import random

import numpy as np
import torch


def derive(*parts: int) -> int:
    """A 32-bit seed from whole numbers such as (seed, epoch, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_all(*parts: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (timm uses all three)."""
    value = derive(*parts)
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def generator(*parts: int) -> torch.Generator:
    """A torch generator of its own."""
    return torch.Generator().manual_seed(derive(*parts))
