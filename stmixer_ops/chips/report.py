"""What a check found: findings with figures, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..measure.table import format_table

BLOCKS, NEEDS_CLOCK, NOTE = "blocks", "needs a clock", "note"
SEVERITIES = (BLOCKS, NEEDS_CLOCK, NOTE)

Figure = int | float | str | None


@dataclass(frozen=True)
class Finding:
    """One rule that one layer meets or breaks.

    Attributes:
        layer: module path; empty for the whole network.
        rule: name of the rule, such as ``"kernel memory"``.
        severity: ``"blocks"``; ``"needs a clock"``: something has to happen at given times and not
            when a spike arrives; ``"note"``: good to know.
        need: the figure that the layer needs, in the unit of ``unit``.
        allowed: the figure that is allowed, None where there is no limit.
        unit: of both figures.
        fits: what would make it fit.
    """

    layer: str
    rule: str
    severity: str
    need: Figure
    allowed: Figure = None
    unit: str = ""
    fits: str = ""

    def __str__(self) -> str:
        allowed = "" if self.allowed is None else f" of {_text(self.allowed)}"
        line = f"{self.layer or 'network'}: {self.rule}: {_text(self.need)}{allowed} {self.unit}"
        return f"{line.rstrip()}; {self.fits}" if self.fits else line.rstrip()


@dataclass(frozen=True)
class Layer:
    """What one population and the synapses that reach it take; None where nobody could tell.

    Attributes:
        neurons: their number.
        weights: numbers stored, each shared weight once.
        synapses: pairs of a source and a target neuron.
        fan_in, fan_out: largest number of synapses of one neuron.
        kernel: largest extent of a kernel.
        largest_weight: in units of the threshold.
    """

    path: str
    neurons: int | None
    weights: int
    synapses: int | None
    fan_in: int
    fan_out: int | None
    kernel: int
    largest_weight: float


@dataclass(frozen=True)
class Report:
    """Result of :func:`~stmixer_ops.check_async`.

    Attributes:
        chip: name of the chip, None for the rules of every chip.
        title: the chip for people.
        clock_free: whether nothing on it happens but when a spike arrives.
        findings: all of them, the gravest first.
        layers: what each population takes, in order of execution.
        cores: population -> core, for chips on which each layer takes a core: as many populations
            as find one.
    """

    chip: str | None
    title: str
    clock_free: bool
    findings: list[Finding]
    layers: list[Layer] = field(default_factory=list)
    cores: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing blocks, and where nothing gives a clock nothing needs one."""
        return not self.of(BLOCKS) and not (self.clock_free and self.of(NEEDS_CLOCK))

    def of(self, severity: str) -> list[Finding]:
        return [f for f in self.findings if f.severity == severity]

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}

    def to_json(self) -> str:
        """A JSON object with ``ok``, ``chip``, ``findings``, ``layers`` and ``cores``."""
        return json.dumps(self.to_dict(), indent=1)

    def __str__(self) -> str:
        names = "blocking", "in need of a clock", "notes"
        counts = [f"{len(self.of(s))} {n}" for s, n in zip(SEVERITIES, names, strict=True)]
        kind = "clock-free" if self.clock_free else "in time steps"
        verdict = "breaks no rule that is known" if self.ok else "does not fit"
        parts = [f"{self.title} ({kind}): {verdict}; {', '.join(counts)}"]
        parts += [f"{s}\n{_table(found)}" for s in SEVERITIES if (found := self.of(s))]
        if self.layers:
            parts.append(_layers(self.layers))
        if self.ok and self.cores:
            places = ", ".join(f"{path}: {core}" for path, core in self.cores.items())
            parts.append(f"cores: {places}")
        return "\n\n".join(parts)


def _table(findings: Iterable[Finding]) -> str:
    """One line for findings that differ in their layer only."""
    alike: dict[Finding, list[str]] = {}
    for f in findings:
        alike.setdefault(Finding("", *list(asdict(f).values())[1:]), []).append(f.layer)
    rows = []
    for f, layers in alike.items():
        more = f" (+{len(layers) - 1})" if len(layers) > 1 else ""
        need = f"{_text(f.need)} {f.unit}".rstrip()
        rows.append([(layers[0] or "network") + more, f.rule, need, _text(f.allowed)])
    lines = format_table(["layer", "rule", "needs", "allowed"], rows).splitlines()
    width = max(map(len, lines))
    ends = ["what would fit", "─" * 14, *[f.fits for f in alike]]
    return "\n".join(
        f"{line.ljust(width)}  {end}".rstrip() for line, end in zip(lines, ends, strict=True)
    )


def _layers(layers: list[Layer]) -> str:
    rows = [
        [
            layer.path,
            *(
                _text(value)
                for value in (
                    layer.neurons, layer.weights, layer.synapses, layer.fan_in, layer.fan_out,
                    layer.kernel,
                )
            ),
            f"{layer.largest_weight:.3g}",
        ]
        for layer in layers
    ]  # fmt: skip
    return format_table(
        ["population", "neurons", "weights", "synapses", "fan-in", "fan-out", "kernel", "w/θ"],
        rows,
    )


def _text(figure: Figure) -> str:
    if figure is None:
        return "-"
    if isinstance(figure, int):
        return f"{figure:,}"
    return f"{figure:.3g}" if isinstance(figure, float) else figure
