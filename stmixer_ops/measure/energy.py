"""Energy of operations by the field's convention, and the cost of a network layer by layer."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .._files import write_atomically
from .table import energy, format_table, quantity

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
    neurons: int = 0

    @property
    def energy(self) -> float:
        """Picojoules."""
        return picojoules(self.macs, self.sops)

    def per(self, images: int) -> Row:
        """Of one image, where these are the figures of ``images`` together."""
        n = max(images, 1)
        return replace(self, spikes=self.spikes / n, macs=self.macs / n, sops=self.sops / n)


@dataclass(frozen=True)
class Cost:
    """Of one image, on average."""

    rows: list[Row]
    rate: float

    def total(self, field: str) -> float:
        """Sum of a column: "spikes", "macs", "sops" or "energy"."""
        return sum(getattr(row, field) for row in self.rows)

    def table(self) -> str:
        """As :meth:`Costs.table`, with the rate over all neurons."""
        return _table(self.rows, self.rate)


def _table(rows: Sequence[Row], rate: float | None = None) -> str:
    """Figures per image, the layers one a line and their sums below, with the ``rate`` of all."""
    lines = [
        [
            row.path or "(model)",
            quantity(row.neurons) if row.neurons else "-",
            "-" if row.rate is None else quantity(row.spikes),
            "-" if row.rate is None else f"{row.rate:.3f}",
            quantity(row.sops) if row.sops else "-",
            quantity(row.macs) if row.macs else "-",
            energy(row.energy),
        ]
        for row in rows
    ]
    neurons, spikes, sops, macs = (
        quantity(sum(getattr(row, field) for row in rows))
        for field in ("neurons", "spikes", "sops", "macs")
    )
    overall = "" if rate is None else f"{rate:.3f}"
    total = energy(sum(row.energy for row in rows))
    lines.append(["total", neurons, spikes, overall, sops, macs, total])
    return format_table(["per image", "neurons", "spikes", "rate", "SOPs", "MACs", "energy"], lines)


class Costs:
    """Energy, table and CSV of something that counted operations layer by layer.

    Attributes:
        images: how many images the counters are of.
    """

    images: int

    def layer_totals(self) -> Iterable[Row]:
        """The layers in order; spikes and operations of all images together."""
        raise NotImplementedError

    def energy(self) -> float:
        """Picojoules per image by the field's convention: 4.6 per MAC, 0.9 per SOP."""
        rows = list(self.layer_totals())
        total = picojoules(sum(row.macs for row in rows), sum(row.sops for row in rows))
        return total / max(self.images, 1)

    @property
    def energies(self) -> dict[str, float]:
        """Layer -> picojoules per image, by the same convention."""
        found: dict[str, float] = {}
        for row in self.layer_totals():
            found[row.path] = found.get(row.path, 0.0) + row.energy / max(self.images, 1)
        return found

    def table(self) -> str:
        """The layers as text, one a line: all figures per image, but for the rate."""
        return _table([row.per(self.images) for row in self.layer_totals()])

    def to_csv(self, path: str | Path) -> None:
        """Write the table to ``path``, which appears whole or not at all; energy in picojoules."""
        header = ["layer", "neurons", "spikes", "rate", "sops", "macs", "energy_pj"]

        def write(file_path: Path) -> None:
            with open(file_path, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(header)
                for row in (row.per(self.images) for row in self.layer_totals()):
                    rate = "" if row.rate is None else row.rate
                    figures = row.neurons, row.spikes, rate, row.sops, row.macs, row.energy
                    writer.writerow([row.path, *figures])

        write_atomically(Path(path), write)
