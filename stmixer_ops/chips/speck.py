"""Speck 2e/2f: nine cores, each one convolution with its neurons, no clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from .limits import Chip
from .matching import largest_matching
from .network import Network, Population, Synapses
from .report import BLOCKS, NOTE, Finding
from .speck_cores import Core, Kernel, bits, core_of, kernel_words, neuron_words


def speck(network: Network, chip: Chip) -> tuple[list[Finding], dict[str, int]]:
    """Findings, and population -> core for as many populations as find one."""
    check = _Speck(network, chip.limits)
    return list(check.run()), check.places


class _Speck:
    def __init__(self, network: Network, limits: Any) -> None:
        self.network, self.limits = network, limits
        self.memories = list(zip(limits["kernel_words"], limits["neuron_words"], strict=True))
        self.kernel_most, self.neuron_most = map(max, zip(*self.memories, strict=True))
        self.places: dict[str, int] = {}

    def run(self) -> Iterator[Finding]:
        yield from self.inputs()
        cores = [core_of(p, self.network) for p in self.network.populations]
        for core in cores:
            yield from self.sharing(core)
            for kernel in core.kernels:
                yield from self.kernel(kernel)
            yield from self.neurons(core)
            yield from self.threshold(core.population)
        for path in [*self.network.inputs, *(p.path for p in self.network.populations)]:
            yield from self.destinations(path)
        yield from self.cores(cores)
        if self.network.classes > self.limits["readout_classes"]:
            yield Finding(
                "", "readout", NOTE, self.network.classes, self.limits["readout_classes"],
                "classes", "the host reads the spikes and multiplies by the head's weights",
            )  # fmt: skip

    # -- one core ----------------------------------------------------------------------------------

    def sharing(self, core: Core) -> Iterator[Finding]:
        """One kernel for all that reaches the population, and pools before it."""
        p = core.population
        for s in p.synapses:
            if s.kind == "token_mix":
                yield self.mixing(s)
            if s.pool is not None and s.pool not in self.limits["pools"]:
                yield Finding(s.path, "pooling", BLOCKS, s.pool, _list(self.limits["pools"]))
        strides = {kernel.stride for kernel in core.kernels}
        if not core.shared and len(strides) > 1:
            yield Finding(
                p.path, "one kernel a core", BLOCKS, f"strides {_list(sorted(strides))}",
                "one stride", "", "one stride for all layers that reach the population",
            )  # fmt: skip

    def mixing(self, s: Synapses) -> Finding:
        tokens = s.weight.shape[1]
        words = kernel_words(tokens, tokens, 1, 1)
        return Finding(
            s.path, "token mixing", BLOCKS, "positions in the place of channels", "channels", "",
            f"no core swaps the two; {words:,} kernel words a head would fit. As one dense layer "
            f"D·N is at most {self.limits['channels']:,} (here {s.channels * tokens:,})",
        )  # fmt: skip

    def kernel(self, kernel: Kernel) -> Iterator[Finding]:
        limits = self.limits
        for rule, need, allowed in (
            ("kernel size", kernel.edge, limits["kernel_size"]),
            ("padding", kernel.padding, limits["padding"]),
            ("input channels", kernel.channels, limits["channels"]),
        ):
            if need > allowed:
                yield Finding(kernel.path, rule, BLOCKS, need, allowed, "", f"at most {allowed:,}")
        if kernel.stride not in limits["strides"]:
            yield Finding(kernel.path, "stride", BLOCKS, kernel.stride, _list(limits["strides"]))
        if kernel.words > self.kernel_most:
            yield Finding(
                kernel.path, "kernel memory", BLOCKS, kernel.words, self.kernel_most, "words",
                self.width_of_kernels(kernel),
            )  # fmt: skip

    def width_of_kernels(self, kernel: Kernel) -> str:
        """The channels of the input do not grow with the width."""
        pixels, edge, f = kernel.pixels, kernel.edge, kernel.features
        width, _ = self.network.sizes()
        if width:
            c = kernel.channels - pixels
            return _width(
                width,
                lambda d: (
                    kernel_words(pixels + c * d // width, f * d // width, edge, edge)
                    <= self.kernel_most
                ),
            )
        most = _largest(
            f, lambda out: kernel_words(kernel.channels, out, edge, edge) <= self.kernel_most
        )
        return f"at most {most} channels from these {kernel.channels}"

    def neurons(self, core: Core) -> Iterator[Finding]:
        path, shape, words = core.population.path, core.population.shape, core.neuron_words
        if shape is None:
            return
        side, channels = self.limits["output_size"], self.limits["channels"]
        if shape[0] > channels:
            yield Finding(path, "channels", BLOCKS, shape[0], channels, "", f"at most {channels:,}")
        if max(shape[1:]) > side:
            yield Finding(
                path, "map size", BLOCKS, f"{shape[1]}x{shape[2]}", f"{side}x{side}", "",
                "a larger stride",
            )  # fmt: skip
        if words > self.neuron_most:
            yield Finding(
                path, "neuron memory", BLOCKS, words, self.neuron_most, "words",
                self.size_of_maps(*shape),
            )  # fmt: skip
        one_kernel = len(core.kernels) == 1 and core.shared
        small = core.fits(self.kernel_most, self.neuron_most)
        if one_kernel and small and not any(core.fits(*memory) for memory in self.memories):
            pairs = ", ".join(f"{k:,}+{n:,}" for k, n in sorted(set(self.memories)))
            yield Finding(
                path, "memory of one core", BLOCKS, f"{core.kernel_words:,}+{words:,}", pairs,
                "kernel+neuron words", "fewer channels or positions",
            )  # fmt: skip

    def size_of_maps(self, f: int, fx: int, fy: int) -> str:
        allowed = self.neuron_most
        positions = 1 << (allowed // f).bit_length() - 1 if f <= allowed else 0
        width, tokens = self.network.sizes()
        if not width:
            channels = allowed >> bits(fx) + bits(fy)
            return f"at most {channels:,} channels, or {positions:,} positions"
        fits = _width(width, lambda d: neuron_words(f * d // width, fx, fy) <= allowed)
        if fx * fy == tokens:
            return f"{fits} or N <= {positions} (now {tokens})"
        return f"{fits} or {positions:,} positions (now {fx * fy:,})"

    def threshold(self, p: Population) -> Iterator[Finding]:
        """Integer weights of 8 bits, of one scale, and the threshold in a state of 16."""
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
            if core.shared
        }
        self.places = largest_matching(places)
        need, allowed = len(cores), len(self.memories)
        if need > allowed:
            yield Finding("", "cores", BLOCKS, need, allowed, "populations", self.depth_that_fits())
        elif len(self.places) < sum(map(bool, places.values())):
            left = [path for path, found in places.items() if found and path not in self.places]
            yield Finding(
                left[0], "cores", BLOCKS, need, len(self.places), "populations that find a core",
                f"it needs one of the cores {_list(places[left[0]])}, which others need as well",
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


def _list(values: Any) -> str:
    return ", ".join(map(str, values))


def _largest(start: int, holds: Callable[[int], bool], step: int = 1) -> int:
    """The largest number up to ``start`` for which ``holds`` holds; 0 for none."""
    return next((n for n in range(start, 0, -step) if holds(n)), 0)


def _width(width: int, holds: Callable[[int], bool]) -> str:
    """Widths are multiples of 8, where this one is."""
    return f"D <= {_largest(width, holds, math.gcd(width, 8))} (now {width})"
