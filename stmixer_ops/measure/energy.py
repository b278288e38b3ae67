"""Energy of operations by the field's convention, and the cost of a network layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

# Picojoules of one operation on 32-bit floating point numbers in 45 nm (Horowitz, ISSCC 2014).
MAC_PICOJOULE = 4.6
AC_PICOJOULE = 0.9


def picojoules(macs: float, sops: float) -> float:
    """4.6 per multiply-accumulate, 0.9 per synaptic operation; memory traffic is not in it."""
    return MAC_PICOJOULE * macs + AC_PICOJOULE * sops


@dataclass(frozen=True)
class Row:
    """One layer; all figures per image. ``rate`` is None for layers that read real numbers."""

    path: str
    rate: float | None
    spikes: float
    macs: float
    sops: float

    @property
    def energy(self) -> float:
        """Picojoules."""
        return picojoules(self.macs, self.sops)


@dataclass(frozen=True)
class Cost:
    """Of one image, on average."""

    rows: list[Row]
    rate: float

    def total(self, field: str) -> float:
        """Sum of a column: "spikes", "macs", "sops" or "energy"."""
        return sum(getattr(row, field) for row in self.rows)
