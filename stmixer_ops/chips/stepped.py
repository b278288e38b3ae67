"""Chips whose cores run asynchronously between the barriers of a time step: figure by figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from .limits import Chip
from .network import Network
from .report import BLOCKS, NOTE, Finding


def stepped(network: Network, chip: Chip) -> list[Finding]:
    """Findings by the limits that the chip has."""
    found: list[Finding] = []
    for name, rule in _RULES.items():
        if name in chip.limits:
            found += rule(network, chip)
    return found


Rule = Callable[[Network, Chip], Iterator[Finding]]


def _cores(network: Network, chip: Chip) -> Iterator[Finding]:
    """A lower bound: neurons packed without gaps, each weight stored once, in 8 bits."""
    layers, allowed = network.layers(), chip.limits["cores"]
    for what, amount, each in (
        ("neurons", sum(row.neurons or 0 for row in layers), chip.limits.get("core_neurons")),
        ("weights", network.weights(), chip.limits.get("core_weight_bytes")),
    ):
        if each is None:
            continue
        need = math.ceil(amount / each)
        if need > allowed:
            yield Finding(
                "", f"cores for {what}", BLOCKS, need, allowed, "cores at least",
                f"at most {allowed * each:,} {what} (now {amount:,}){_scaled(network)}",
            )  # fmt: skip


def _scaled(network: Network) -> str:
    width, tokens = network.sizes()
    return f": a smaller D (now {width}), N (now {tokens}) or depth" if width else ""


def _fan_in(network: Network, chip: Chip) -> Iterator[Finding]:
    allowed = chip.limits["fan_in"]
    for p in network.populations:
        if p.fan_in > allowed:
            grows = sum(
                s.fan_in
                for s in p.synapses
                if s.kind != "token_mix" and s.source not in network.inputs
            )
            yield Finding(
                p.path, "fan-in", BLOCKS, p.fan_in, allowed, "synapses of a neuron",
                _width(network, grows, p.fan_in - grows, allowed),
            )  # fmt: skip


def _fan_out(network: Network, chip: Chip) -> Iterator[Finding]:
    allowed = chip.limits["fan_out"]
    for path in [*network.inputs, *(p.path for p in network.populations)]:
        need = network.fan_out(path)
        if need is not None and need > allowed:
            mixed = sum(
                s.weight.shape[1]
                for _, s in network.synapses()
                if s.source == path and s.kind == "token_mix"
            )
            yield Finding(
                path, "fan-out", BLOCKS, need, allowed, "synapses of a neuron",
                _width(network, need - mixed, mixed, allowed),
            )  # fmt: skip


def _width(network: Network, grows: int, stays: int, allowed: int) -> str:
    """The largest width: ``grows`` is proportional to it, ``stays`` is not."""
    width, tokens = network.sizes()
    if not width or (not grows and not tokens):
        return f"at most {allowed:,}"
    if stays > allowed or not grows:
        return f"at most {allowed:,}, whatever the width: N is {tokens}"
    return f"D <= {width * (allowed - stays) // grows} (now {width})"


def _weight_values(network: Network, chip: Chip) -> Iterator[Finding]:
    allowed = chip.limits["weight_values"]
    for s in {s.path: s for _, s in network.synapses()}.values():
        if s.weight_values > allowed:
            yield Finding(
                s.path, "weight values", BLOCKS, s.weight_values, allowed, "of one neuron",
                f"{allowed} different weights a neuron: each axon has one of {allowed} types",
            )  # fmt: skip


def _routes(network: Network, chip: Chip) -> Iterator[Finding]:
    need, allowed = len(network.populations) + len(network.inputs), chip.limits["routes"]
    if need > allowed:
        yield Finding("", "routing entries", BLOCKS, need, allowed, "at least")


def _inputs(network: Network, chip: Chip) -> Iterator[Finding]:
    allowed = chip.limits["inputs"]
    for path, shape in network.inputs.items():
        if shape is not None and (need := math.prod(shape)) > allowed:
            yield Finding(path, "input channels", BLOCKS, need, allowed, "", f"at most {allowed}")


def _hidden(network: Network, chip: Chip) -> Iterator[Finding]:
    need, allowed = sum(row.neurons or 0 for row in network.layers()), chip.limits["hidden"]
    if need > allowed:
        yield Finding(
            "", "hidden neurons", BLOCKS, need, allowed, "",
            f"at most {allowed}{_scaled(network)}",
        )  # fmt: skip


def _outputs(network: Network, chip: Chip) -> Iterator[Finding]:
    need, allowed = network.classes, chip.limits["outputs"]
    if need > allowed:
        yield Finding("", "outputs", BLOCKS, need, allowed, "classes", f"at most {allowed}")


def _resets(network: Network, chip: Chip) -> Iterator[Finding]:
    for p in network.populations:
        reset = "soft" if p.soft_reset else "hard"
        if reset not in chip.limits["resets"]:
            allowed = ", ".join(chip.limits["resets"])
            yield Finding(p.path, "reset", BLOCKS, reset, allowed, "", f'reset="{allowed}"')


def _steps(network: Network, chip: Chip) -> Iterator[Finding]:
    """A chip of integer activations: its neurons keep nothing from one step to the next."""
    severity = BLOCKS if network.steps > chip.limits["steps"] else NOTE
    yield Finding(
        "", "membranes", severity, network.steps, chip.limits["steps"], "time steps",
        "the chip computes integer activations: it does not spike in time",
    )  # fmt: skip


def _kernels(network: Network, chip: Chip) -> Iterator[Finding]:
    limits = chip.limits
    for _, s in network.synapses():
        from_input = s.source in network.inputs
        allowed = limits["input_kernel_sizes" if from_input else "kernel_sizes"]
        if s.kind == "token_mix":
            yield Finding(
                s.path, "token mixing", BLOCKS, "positions in the place of channels", "channels",
                "", "no layer of the chip swaps the two",
            )  # fmt: skip
        elif s.kernel not in allowed:
            yield Finding(s.path, "kernel size", BLOCKS, s.kernel, ", ".join(map(str, allowed)))
        elif not from_input and s.stride not in limits["strides"]:
            strides = ", ".join(map(str, limits["strides"]))
            yield Finding(s.path, "stride", BLOCKS, s.stride, strides)
        if s.channels > limits["channels"]:
            yield Finding(s.path, "input channels", BLOCKS, s.channels, limits["channels"])


_RULES: dict[str, Rule] = {
    "cores": _cores,
    "fan_in": _fan_in,
    "fan_out": _fan_out,
    "weight_values": _weight_values,
    "routes": _routes,
    "inputs": _inputs,
    "hidden": _hidden,
    "outputs": _outputs,
    "resets": _resets,
    "steps": _steps,
    "kernel_sizes": _kernels,
}
