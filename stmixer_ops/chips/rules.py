"""Rules for any chip: operations, biases, leak, reset, sizes, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .limits import Chip
from .network import Network
from .report import BLOCKS, NEEDS_CLOCK, NOTE, Finding

# What an operation asks for, and what would do instead.
_OPERATIONS = {
    "spike product": (
        "spikes that meet in one step",
        'token mixing with fixed weights (mixer="stm")',
    ),
    "max pool": (
        "the first spike of a window in one step",
        'strides (patch_embed="ipsps") or sums of spikes',
    ),
    "batch norm": ("statistics of the batch", "running statistics, which fold into the weights"),
    "normalisation": ("statistics of its own input", "batch norm, which folds into the weights"),
    "real values": ("numbers between neurons", "neurons after every layer"),
    "mean over time": ("the end of the time steps", "a readout alone"),
    "cascade": ("two layers without neurons between", "neurons after every layer"),
}


def any_chip(network: Network, chip: Chip | None) -> Iterator[Finding]:
    """Findings that need no figures of a chip; ``chip`` None: of one without any clock."""
    clock_free = chip is None or chip.clock_free
    yield from _unread(network)
    yield from _inputs(network)
    yield from _operations(network, chip)
    if clock_free:
        yield from _time(network, chip)
        yield from _order(network)
    yield from _bits(network, chip)
    yield from _totals(network)


def _unread(network: Network) -> Iterator[Finding]:
    if network.unread:
        yield Finding(
            "", "reading", NOTE, "the order of the modules", None, "",
            f"layers are taken to drive the next neurons: {network.unread}",
        )  # fmt: skip
    if not network.populations:
        yield Finding("", "neurons", BLOCKS, 0, None, "", "neurons that are so.LIF")


def _inputs(network: Network) -> Iterator[Finding]:
    for path, shape in network.inputs.items():
        if shape is not None and shape[0] > 2:
            yield Finding(
                path, "input", NOTE, shape[0], 2, "channels",
                "events have two polarities; a picture is a constant current and needs steps",
            )  # fmt: skip


def _operations(network: Network, chip: Chip | None) -> Iterator[Finding]:
    for operation in network.operations:
        need, fits = _OPERATIONS.get(operation.name, ("an operation that is not known here", ""))
        yield Finding(
            operation.path,
            operation.name,
            _severity(operation.name, chip),
            operation.detail or need,
            "sums of weighted spikes",
            "",
            fits,
        )


def _severity(operation: str, chip: Chip | None) -> str:
    """A spike product and a maximum are defined where time has steps; the rest nowhere."""
    if operation not in ("spike product", "max pool"):
        return BLOCKS
    if chip is None or chip.programmable:
        return NEEDS_CLOCK
    # In a time step the maximum of spikes is an OR: neurons that forget at each step.
    return NEEDS_CLOCK if operation == "max pool" and not chip.clock_free else BLOCKS


def _time(network: Network, chip: Chip | None) -> Iterator[Finding]:
    """What happens at given times."""
    clock = "" if chip is None else f"; a slow clock {chip.limits['slow_clock']}"
    largest: dict[str, float] = {}
    for bias in (b for p in network.populations for b in p.biases):
        largest[bias.path] = max(bias.largest, largest.get(bias.path, 0.0))
    for path, value in largest.items():
        yield Finding(
            path, "bias", NEEDS_CLOCK, value, 0, "thresholds a step",
            f'no biases, or all at once at the start (EventSimulator: bias="initial"){clock}',
        )  # fmt: skip
    for p in network.populations:
        if p.decay != 1:
            yield Finding(
                p.path, "leak", NEEDS_CLOCK, p.decay, 1, "kept a step",
                f"integrate and fire (decay=1){clock}",
            )  # fmt: skip
    for bias in network.readout_biases:
        yield Finding(
            bias.path, "bias", NOTE, "read out only", None, "", "the readout adds it as a constant"
        )


def _order(network: Network) -> Iterator[Finding]:
    """Where the result depends on the order in which spikes arrive."""
    for p in network.populations:
        if not p.soft_reset:
            yield Finding(
                p.path, "reset", NOTE, "hard", None, "",
                'reset="soft" keeps what is above the threshold',
            )  # fmt: skip
        if p.max_spikes > 1:
            yield Finding(
                p.path, "spikes a visit", NOTE, p.max_spikes, 1, "",
                "one spike a visit; the rest waits for the next",
            )  # fmt: skip
        if p.lowest_threshold <= 0:
            yield Finding(p.path, "threshold", BLOCKS, p.lowest_threshold, None, "", "above 0")
    for p, s in network.synapses():
        if p.lowest_threshold > 0 and s.largest >= 1:
            at_once, always = s.reaching(1), s.reaching(2)
            rest = (
                "from there on a neuron fires on every later input"
                if p.soft_reset
                else "the reset discards the rest"
            )
            yield Finding(
                s.path, "weights", NOTE, s.largest, 1, "thresholds",
                f"smaller weights: of {s.weight.size:,} each of {at_once:,} makes {p.path} fire "
                f"alone, and {always:,} reach 2 thresholds ({rest})",
            )  # fmt: skip


def _bits(network: Network, chip: Chip | None) -> Iterator[Finding]:
    allowed = 8 if chip is None else chip.limits.get("weight_bits")
    if allowed is None:
        return
    if network.bits == 32:
        yield Finding(
            "", "weight bits", NOTE, 32, allowed, "", 'Engine.compile(model, precision="int8")'
        )
        return
    wide = {s.path: s.bits for _, s in network.synapses() if s.bits > allowed}
    for path, bits in wide.items():
        severity = NOTE if chip is None else BLOCKS
        yield Finding(path, "weight bits", severity, bits, allowed, "", "8-bit weights")


def _totals(network: Network) -> Iterator[Finding]:
    """The figures by which a chip is chosen, and where they are largest."""
    layers = network.layers()
    if not layers:
        return

    def most(figure: Callable[[Any], int | None]) -> tuple[str, int]:
        """An unknown figure is left out."""
        return max(
            ((row.path, value) for row in layers if (value := figure(row)) is not None),
            key=lambda found: found[1],
            default=("", 0),
        )

    def total(figure: Callable[[Any], int | None]) -> int | None:
        values = [figure(row) for row in layers]
        return None if None in values else sum(v for v in values if v is not None)

    for rule, value in (
        ("neurons", total(lambda row: row.neurons)),
        ("synapses", total(lambda row: row.synapses)),
        ("stored weights", network.weights()),
    ):
        yield Finding("", rule, NOTE, value)
    for rule, (path, value) in (
        ("largest fan-in", most(lambda row: row.fan_in)),
        ("largest fan-out", most(lambda row: row.fan_out)),
        ("largest kernel", most(lambda row: row.kernel)),
    ):
        if path:
            yield Finding(path, rule, NOTE, value)
