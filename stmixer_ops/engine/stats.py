"""What the layers of a network did during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from ..measure.energy import Costs, Row


@dataclass(frozen=True)
class LayerStats:
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

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)


class Stats(Costs, Sequence[LayerStats]):
    """The layers of one run in order of execution; by index or by module path.

    Attributes:
        images: batch size.
        steps: time steps.
    """

    def __init__(self, layers: Sequence[LayerStats], images: int, steps: int) -> None:
        self._layers = list(layers)
        self._by_name = {layer.name: layer for layer in layers}
        self.images = images
        self.steps = steps

    @overload
    def __getitem__(self, key: int | str) -> LayerStats: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[LayerStats]: ...
    def __getitem__(self, key: int | str | slice) -> LayerStats | Sequence[LayerStats]:
        return self._by_name[key] if isinstance(key, str) else self._layers[key]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[LayerStats]:
        return iter(self._layers)

    @property
    def spikes(self) -> int:
        return sum(layer.spikes for layer in self)

    @property
    def sops(self) -> int:
        return sum(layer.sops for layer in self)

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
