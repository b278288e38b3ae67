"""Who reads whose spikes: the wiring from which synaptic operations are counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from .lif import LIF


class Projection(Protocol):
    """Something that turns spikes into currents and can count its work.

    Shapes are logical: ``[T, B, C, N]`` or ``[T, B, C, H, W]``, T and B counted.
    """

    @property
    def operations(self) -> Callable[..., int]:
        """``operations(spikes, *others)``: additions that these (uint8) spikes cause."""

    def dense_macs(self, shape: torch.Size) -> int:
        """Multiply-accumulates if the spikes were dense numbers, by the usual convention."""


class Synapse(NamedTuple):
    """One projection of a population.

    Modules that wire neurons together list theirs in a ``synapses()`` method; several synapses
    may share a source, whose operations then add up.

    Attributes:
        source: the neurons whose spikes cause the operations.
        target: where they go.
        others: populations whose spikes ``target.operations`` also takes (products of spikes);
            they fire before ``source``.
    """

    source: LIF
    target: Projection
    others: tuple[LIF, ...] = ()
