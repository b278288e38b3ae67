"""What the layers of a network did during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from ..measure.energy import Costs, Row


class StatsRow:
    """A row whose fields are also found by name: ``row["rate"]`` is ``row.rate``."""

    name: str
    spikes: int
    sops: int

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


RowT = TypeVar("RowT", bound=StatsRow)


class StatsRows(Costs, Sequence[RowT]):
    """The rows of one run in order of execution; by index or by module path.

    Attributes:
        images: batch size.
    """

    def __init__(self, rows: Sequence[RowT], images: int) -> None:
        self._rows = list(rows)
        self._by_name = {row.name: row for row in rows}
        self.images = images

    @overload
    def __getitem__(self, key: int | str) -> RowT: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[RowT]: ...
    def __getitem__(self, key: int | str | slice) -> RowT | Sequence[RowT]:
        return self._by_name[key] if isinstance(key, str) else self._rows[key]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[RowT]:
        return iter(self._rows)

    @property
    def spikes(self) -> int:
        return sum(row.spikes for row in self)

    @property
    def sops(self) -> int:
        return sum(row.sops for row in self)


@dataclass(frozen=True)
class LayerStats(StatsRow):
    """One layer of one run, all its images and time steps together.

    A layer is a LIF population or, where ``neurons`` is 0, a projection that multiplies because
    its input is real-valued. ``stats["rate"]`` is ``stats.rate``.

    Attributes:
        name: module path.
        neurons: number of neurons.
        spikes: number of spikes.
        rate: spikes per neuron, image and step.
        sops: synaptic operations those spikes caused: weights added, the smaller fan-out at the
            borders of convolutions accounted for.
        macs: multiply-accumulates (padding counts, as is the convention); a static image is
            convolved once, whatever T.
    """

    name: str
    neurons: int = 0
    spikes: int = 0
    rate: float = 0.0
    sops: int = 0
    macs: int = 0

    synops = property(lambda self: self.sops, doc="The former name of ``sops``.")


class Stats(StatsRows[LayerStats]):
    """The layers of one run in order of execution; by index or by module path.

    Attributes:
        images: batch size.
        steps: time steps.
    """

    def __init__(self, layers: Sequence[LayerStats], images: int, steps: int) -> None:
        super().__init__(layers, images)
        self.steps = steps

    synops = property(lambda self: self.sops, doc="The former name of ``sops``.")

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self)

    def layer_totals(self) -> Iterator[Row]:
        for layer in self:
            rate = layer.rate if layer.neurons else None
            yield Row(layer.name, rate, layer.spikes, layer.macs, layer.sops, layer.neurons)

    def __repr__(self) -> str:
        return (
            f"Stats({len(self)} layers, {self.images} images, {self.steps} steps: "
            f"{self.spikes} spikes, {self.sops} SOPs, {self.macs} macs)"
        )
