"""What populations ask of the cores of a Speck: kernels, and words of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .network import Network, Population, Synapses


def bits(n: int) -> int:
    """Bits of an address of ``n`` places."""
    return (n - 1).bit_length()


def kernel_words(c: int, f: int, kx: int, ky: int) -> int:
    """8-bit words that ``f`` kernels of ``c`` channels take."""
    return c << bits(kx * ky) + bits(f)


def neuron_words(f: int, fx: int, fy: int) -> int:
    """16-bit words that ``f`` maps of neurons take."""
    return f << bits(fx) + bits(fy)


@dataclass(frozen=True)
class Kernel:
    """One convolution.

    Attributes:
        path: the layer; or the population, if the kernel holds several.
        channels: of all sources together.
        pixels: those of them that are the input's.
        features: channels of the neurons.
        edge: kx and ky.
    """

    path: str
    channels: int
    pixels: int
    features: int
    edge: int
    stride: int
    padding: int

    @property
    def words(self) -> int:
        return kernel_words(self.channels, self.features, self.edge, self.edge)


@dataclass(frozen=True)
class Core:
    """The core that a population takes.

    Attributes:
        kernels: one that holds all layers of the population; or one a layer, where none does, and
            in unread networks, of which nobody knows which layers meet.
        shared: False where no kernel can hold them all: token mixing is no convolution, and layers
            of several strides have none in common.
    """

    population: Population
    kernels: tuple[Kernel, ...]
    shared: bool

    @property
    def kernel_words(self) -> int:
        return max((kernel.words for kernel in self.kernels), default=0)

    @property
    def neuron_words(self) -> int:
        """0 where nobody could tell."""
        shape = self.population.shape
        return 0 if shape is None else neuron_words(*shape)

    def fits(self, kernel_limit: int, neuron_limit: int) -> bool:
        return self.kernel_words <= kernel_limit and self.neuron_words <= neuron_limit


def core_of(population: Population, network: Network) -> Core:
    layers = [s for s in population.synapses if s.kind != "token_mix"]
    alone = len(layers) < len(population.synapses) or len({s.stride for s in layers}) > 1
    if alone or network.unread:
        each = {s.path: _kernel(s.path, [s], network) for s in layers}
        return Core(population, tuple(each.values()), not alone)
    if not layers:
        return Core(population, (), True)
    paths = {s.path for s in layers}
    name = layers[0].path if len(paths) == 1 else population.path
    return Core(population, (_kernel(name, layers, network),), True)


def _kernel(path: str, layers: Sequence[Synapses], network: Network) -> Kernel:
    """Kernels of several layers lie in one: aligned at the padding, zeros around the smaller."""
    padding = max(s.padding for s in layers)
    return Kernel(
        path,
        _channels(layers),
        _channels([s for s in layers if s.source in network.inputs]),
        max(s.features for s in layers),
        padding + max(s.kernel - s.padding for s in layers),
        layers[0].stride,
        padding,
    )


def _channels(layers: Sequence[Synapses]) -> int:
    """Sources of a layer share its channels; layers share them where all their sources do."""
    sources: dict[str, set[str | None]] = {}
    sizes: dict[str, int] = {}
    for s in layers:
        sources.setdefault(s.path, set()).add(s.source)
        sizes[s.path] = s.channels
    return sum({frozenset(found): sizes[path] for path, found in sources.items()}.values())
