"""Speck 2e/2f and its relatives: nine cores, each one convolution with its neurons, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .limits import Chip
from .matching import largest_matching
from .network import Network, Population, Synapses
from .report import BLOCKS, NOTE, Finding


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
class Core:
    """What a population asks of the core that it takes: one convolution of all its sources.

    Attributes:
        channels: of the sources together, which are told apart by their channels.
        kernel: edge of one kernel that holds those of all sources.
        problems: why it is no convolution.
    """

    population: Population
    channels: int
    kernel: int
    stride: int
    padding: int
    problems: tuple[Finding, ...]

    @property
    def features(self) -> int:
        """Channels of its neurons."""
        if self.population.shape is not None:
            return self.population.shape[0]
        return max((s.features for s in self.population.synapses), default=0)

    @property
    def kernel_words(self) -> int:
        return kernel_words(self.channels, self.features, self.kernel, self.kernel)

    @property
    def neuron_words(self) -> int | None:
        shape = self.population.shape
        return None if shape is None else neuron_words(*shape)

    def fits(self, kernel_limit: int, neuron_limit: int) -> bool:
        neurons = self.neuron_words
        return self.kernel_words <= kernel_limit and (neurons is None or neurons <= neuron_limit)


def speck(network: Network, chip: Chip) -> tuple[list[Finding], dict[str, int]]:
    """Findings, and population -> core for as many populations as find one."""
    check = _Speck(network, chip.limits)
    return list(check.run()), check.places


class _Speck:
    def __init__(self, network: Network, limits: Any) -> None:
        self.network, self.limits = network, limits
        self.memories = list(zip(limits["kernel_words"], limits["neuron_words"], strict=True))
        self.places: dict[str, int] = {}

    def run(self) -> Iterator[Finding]:
        yield from self.inputs()
        cores = [self.core(p) for p in self.network.populations]
        for core in cores:
            yield from core.problems
            yield from self.shapes(core)
            yield from self.memory(core)
            yield from self.neurons(core)
        for path in [*self.network.inputs, *(p.path for p in self.network.populations)]:
            yield from self.destinations(path)
        yield from self.cores(cores)
        if self.network.classes > self.limits["readout_classes"]:
            yield Finding(
                "", "readout", NOTE, self.network.classes, self.limits["readout_classes"],
                "classes", "the host reads the spikes and multiplies by the head's weights",
            )  # fmt: skip

    # -- one core ----------------------------------------------------------------------------------

    def core(self, p: Population) -> Core:
        problems = [self.mixing(p, s) for s in p.synapses if s.kind == "token_mix"]
        convolutions = [s for s in p.synapses if s.kind != "token_mix"]
        strides = {s.stride for s in convolutions}
        if len(strides) > 1 and not self.network.unread:
            problems.append(
                Finding(
                    p.path, "one kernel a core", BLOCKS,
                    f"strides {', '.join(map(str, sorted(strides)))}", "one stride", "",
                    "one stride for all layers that reach the population",
                )
            )  # fmt: skip
        # Kernels of several sources lie in one: aligned at the padding, zeros around the smaller.
        padding = max((s.padding for s in convolutions), default=0)
        behind = max((s.kernel - s.padding for s in convolutions), default=1)
        if self.network.unread:  # no sum over sources that nobody knows
            channels = max((s.channels for s in p.synapses), default=0)
        else:
            channels = _channels(p)
        return Core(
            p, channels, behind + padding, max(strides, default=1), padding, tuple(problems)
        )

    def mixing(self, p: Population, s: Synapses) -> Finding:
        tokens = s.weight.shape[1]
        words = kernel_words(tokens, tokens, 1, 1)
        dense = s.channels * tokens
        return Finding(
            s.path, "token mixing", BLOCKS, "positions in the place of channels", "channels", "",
            f"no core swaps the two; {words:,} kernel words a head would fit. As one dense layer "
            f"D·N is at most {self.limits['channels']:,} (here {dense:,})",
        )  # fmt: skip

    def shapes(self, core: Core) -> Iterator[Finding]:
        limits, path = self.limits, core.population.path
        for rule, need, allowed in (
            ("kernel size", core.kernel, limits["kernel_size"]),
            ("padding", core.padding, limits["padding"]),
            ("input channels", core.channels, limits["channels"]),
            ("channels", core.features, limits["channels"]),
        ):
            if need > allowed:
                yield Finding(path, rule, BLOCKS, need, allowed, "", f"at most {allowed:,}")
        if core.stride not in limits["strides"]:
            strides = ", ".join(map(str, limits["strides"]))
            yield Finding(path, "stride", BLOCKS, core.stride, strides)
        shape = core.population.shape
        if shape is not None and max(shape[1:]) > limits["output_size"]:
            most = limits["output_size"]
            yield Finding(
                path, "map size", BLOCKS, f"{shape[1]}x{shape[2]}", f"{most}x{most}", "",
                "a larger stride",
            )  # fmt: skip
        for s in core.population.synapses:
            if s.pool is not None and s.pool not in limits["pools"]:
                pools = ", ".join(map(str, limits["pools"]))
                yield Finding(s.path, "pooling", BLOCKS, s.pool, pools)

    def memory(self, core: Core) -> Iterator[Finding]:
        kernel_most, neuron_most = (max(memory) for memory in zip(*self.memories, strict=True))
        path, kernels, neurons = core.population.path, core.kernel_words, core.neuron_words
        if core.problems or self.network.unread:  # there is no one kernel: each for itself
            kernels = 0
            for s in core.population.synapses:
                if s.kind != "token_mix":
                    one = s.channels, s.features, s.kernel
                    yield from self.kernels(s.path, [s], *one, kernel_most)
        else:
            layers = core.population.synapses
            name = layers[0].path if len({s.path for s in layers}) == 1 else path
            one = core.channels, core.features, core.kernel
            yield from self.kernels(name, layers, *one, kernel_most)
        if neurons is not None and neurons > neuron_most:
            yield Finding(
                path, "neuron memory", BLOCKS, neurons, neuron_most, "words",
                self.size_of_maps(core, neuron_most),
            )  # fmt: skip
        both = any(kernels <= k and (neurons or 0) <= n for k, n in self.memories)
        if kernels <= kernel_most and (neurons or 0) <= neuron_most and not both:
            pairs = ", ".join(f"{k:,}+{n:,}" for k, n in sorted(set(self.memories)))
            yield Finding(
                path, "memory of one core", BLOCKS, f"{kernels:,}+{neurons:,}", pairs,
                "kernel+neuron words", "fewer channels or positions",
            )  # fmt: skip

    def kernels(
        self, path: str, layers: Sequence[Synapses], c: int, f: int, k: int, allowed: int
    ) -> Iterator[Finding]:
        """One kernel, of one layer or of several."""
        words = kernel_words(c, f, k, k)
        if words > allowed:
            pixels = sum(s.channels for s in layers if s.source in self.network.inputs)
            yield Finding(
                path, "kernel memory", BLOCKS, words, allowed, "words",
                self.width_of_kernels(c - pixels, pixels, f, k, allowed),
            )  # fmt: skip

    def width_of_kernels(self, c: int, pixels: int, f: int, k: int, allowed: int) -> str:
        """``pixels``: channels that do not grow with the width."""
        width, _ = self.network.sizes()
        if width:
            return _width(
                width,
                lambda d: kernel_words(pixels + c * d // width, f * d // width, k, k) <= allowed,
            )
        most = _largest(f, lambda out: kernel_words(pixels + c, out, k, k) <= allowed)
        return f"at most {most} channels from these {pixels + c}"

    def size_of_maps(self, core: Core, allowed: int) -> str:
        assert core.population.shape is not None
        f, fx, fy = core.population.shape
        positions = 1 << (allowed // f).bit_length() - 1 if f <= allowed else 0
        width, tokens = self.network.sizes()
        if not width:
            channels = allowed >> bits(fx) + bits(fy)
            return f"at most {channels:,} channels, or {positions:,} positions"
        fits = _width(width, lambda d: neuron_words(f * d // width, fx, fy) <= allowed)
        if fx * fy == tokens:
            return f"{fits} or N <= {positions} (now {tokens})"
        return f"{fits} or {positions:,} positions (now {fx * fy:,})"

    def neurons(self, core: Core) -> Iterator[Finding]:
        """Integer weights of 8 bits, of one scale, and the threshold in a state of 16."""
        p = core.population
        largest = max((s.largest_magnitude for s in p.synapses), default=0.0)
        if largest <= 0:
            return
        steps = math.ceil((2 ** (self.limits["weight_bits"] - 1) - 1) / largest)
        allowed = 2 ** (self.limits["state_bits"] - 1) - 1
        if steps > allowed:
            yield Finding(
                p.path, "threshold", BLOCKS, steps, allowed, "steps of the weights",
                "larger weights or a lower threshold",
            )  # fmt: skip

    # -- between cores -----------------------------------------------------------------------------

    def inputs(self) -> Iterator[Finding]:
        most = self.limits["input_size"]
        for path, shape in self.network.inputs.items():
            if shape is not None and max(shape[1:]) > most:
                yield Finding(
                    path, "input size", BLOCKS, f"{shape[1]}x{shape[2]}", f"{most}x{most}", "",
                    "events.crop or events.downsample",
                )  # fmt: skip

    def destinations(self, path: str) -> Iterator[Finding]:
        if self.network.unread:
            return
        need, allowed = len(self.network.targets(path)), self.limits["destinations"]
        if need > allowed:
            # A host can send its events to as many cores as it likes.
            severity = NOTE if path in self.network.inputs else BLOCKS
            fits = f"at most {allowed} populations behind it"
            if self.network.sizes()[0]:
                fits += "; the residual stream carries it to every later block"
            yield Finding(path, "fan-out of cores", severity, need, allowed, "cores", fits)

    def cores(self, cores: list[Core]) -> Iterator[Finding]:
        places = {
            core.population.path: [
                i for i, memory in enumerate(self.memories) if core.fits(*memory)
            ]
            for core in cores
            if not core.problems
        }
        self.places = largest_matching(places)
        need, allowed = len(cores), len(self.memories)
        if need > allowed:
            yield Finding("", "cores", BLOCKS, need, allowed, "populations", self.depth_that_fits())
        elif len(self.places) < sum(map(bool, places.values())):
            left = [path for path, found in places.items() if found and path not in self.places]
            yield Finding(
                left[0], "cores", BLOCKS, need, len(self.places), "populations that find a core",
                f"it needs one of the cores {', '.join(map(str, places[left[0]]))}, which others "
                "need as well",
            )  # fmt: skip

    def depth_that_fits(self) -> str:
        depth, each = self.network.depth()
        allowed = len(self.memories)
        if not depth:
            return f"at most {allowed} populations"
        stem = len(self.network.populations) - depth * each
        most = (allowed - stem) // each
        each_block = f"{each} populations a block and {stem} before"
        return f"depth <= {most} (now {depth}): {each_block}" if most > 0 else f"none: {each_block}"


def _channels(population: Population) -> int:
    """Sources of a layer share its channels; layers share them where all their sources do."""
    layers: dict[str, set[str | None]] = {}
    sizes: dict[str, int] = {}
    for s in population.synapses:
        layers.setdefault(s.path, set()).add(s.source)
        sizes[s.path] = s.channels
    return sum({frozenset(found): sizes[path] for path, found in layers.items()}.values())


def _largest(start: int, holds: Any, step: int = 1) -> int:
    """The largest number up to ``start`` for which ``holds`` holds; 0 for none."""
    return next((n for n in range(start, 0, -step) if holds(n)), 0)


def _width(width: int, holds: Any) -> str:
    """Widths are multiples of 8, where this one is."""
    return f"D <= {_largest(width, holds, math.gcd(width, 8))} (now {width})"
