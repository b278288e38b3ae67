"""Where the time of an engine goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class StepProfile:
    """One step of an engine, all images and time steps of a call together.

    Attributes:
        name: module path of the layer, or of the population whose spikes are listed.
        kernel: what computes it: ``"gather int8"``, ``"gather fp32 4x16"`` (tiles of 4 vectors of
            16 output channels), ``"dense fp32 6x16"``, ``"lists"``, ``"sum"``, ...
        milliseconds: median over the calls.
        sops: synaptic operations, weights it added because of spikes.
        bytes: weights, and spike lists read or written, each counted once; currents are not in it.
    """

    name: str
    kernel: str
    milliseconds: float
    sops: int
    bytes: int

    @property
    def sops_per_second(self) -> float:
        return 1e3 * self.sops / self.milliseconds if self.milliseconds else 0.0

    synops = property(lambda self: self.sops, doc="The former name of ``sops``.")
    synops_per_second = property(
        lambda self: self.sops_per_second, doc="The former name of ``sops_per_second``."
    )


class Profile(Sequence[StepProfile]):
    """The steps of an engine in order of execution; ``print`` shows them as a table."""

    def __init__(self, steps: Sequence[StepProfile]) -> None:
        self._steps = list(steps)

    @overload
    def __getitem__(self, key: int) -> StepProfile: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[StepProfile]: ...
    def __getitem__(self, key: int | slice) -> StepProfile | Sequence[StepProfile]:
        return self._steps[key]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[StepProfile]:
        return iter(self._steps)

    @property
    def milliseconds(self) -> float:
        """The sum of the steps' medians."""
        return sum(step.milliseconds for step in self)

    def __str__(self) -> str:
        names = max(len(step.name) for step in self)
        kernels = max(len(step.kernel) for step in self)
        lines = [f"{'step':<{names}}  {'kernel':<{kernels}}        ms   GSOP/s       KiB"]
        for step in self:
            rate = f"{step.sops_per_second / 1e9:9.2f}" if step.sops else " " * 9
            size = f"{step.bytes / 1024:10.1f}" if step.bytes else ""
            row = f"{step.name:<{names}}  {step.kernel:<{kernels}}{step.milliseconds:10.3f}"
            lines.append((row + rate + size).rstrip())
        lines.append(f"{'sum':<{names}}  {'':<{kernels}}{self.milliseconds:10.3f}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Profile({len(self)} steps, {self.milliseconds:.3f} ms)"
