"""What int8 changes: spikes, population by population, and answers on the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Data, spread_images, stored_preparation
from ..engine import Engine
from ..engine.disagreement import Disagreement, disagreement
from ..measure.statistics import paired_interval
from ..measure.table import format_table
from ..train.evaluate import evaluate

COMPARED = 256  # test images whose spikes are compared; all of them are classified


@dataclass(frozen=True)
class Answers:
    """Two networks on the same ``images``.

    Attributes:
        fp32, int8: images that each gets right.
        only_fp32, only_int8: images that just this one gets right.
    """

    images: int
    fp32: int
    int8: int
    only_fp32: int
    only_int8: int

    @property
    def difference(self) -> float:
        """Of the accuracies, int8 less fp32, in percentage points."""
        return 100 * (self.only_int8 - self.only_fp32) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the difference, in percentage points."""
        return paired_interval(self.images, self.only_fp32, self.only_int8)


@dataclass(frozen=True)
class PrecisionReport:
    """An int8 engine beside the fp32 one of the same network, on test images."""

    data: str
    compared: int
    populations: dict[str, Disagreement]
    answers: Answers


def compare_precisions(
    exact: Engine, engine: Engine, data: Data, stored: Mapping[str, Any]
) -> PrecisionReport:
    """``stored``: the section ``data`` of the checkpoint."""
    images = spread_images(data.test, COMPARED)
    prepare = stored_preparation(stored)
    x = prepare(images)
    right = [evaluate(e, data.test, prepare=prepare).right for e in (exact, engine)]
    fp32, int8 = right
    return PrecisionReport(
        data.name,
        len(images),
        disagreement(exact, engine, x.numpy()),
        Answers(
            len(fp32), int(fp32.sum()), int(int8.sum()),
            int((fp32 & ~int8).sum()), int((int8 & ~fp32).sum()),
        ),
    )  # fmt: skip


def as_dict(
    calibrated: int, wide: Sequence[str], size: int, comparison: PrecisionReport | None
) -> dict[str, Any]:
    """For JSON. ``calibrated``: how many images; ``wide``: layers of 16 bits; ``size``: bytes."""
    content: dict[str, Any] = {
        "calibration_images": calibrated,
        "int16_layers": list(wide),
        "file_bytes": size,
    }
    if comparison is not None:
        answers = comparison.answers
        content |= {
            "data": comparison.data,
            "compared_images": comparison.compared,
            "disagreement": {name: vars(d) for name, d in comparison.populations.items()},
            "top1": {
                **vars(answers),
                "difference_points": answers.difference,
                "interval_points": answers.interval,
            },
        }
    return content


def as_text(comparison: PrecisionReport) -> str:
    rows = [
        [name, f"{100 * d.local:.3f} %", f"{100 * d.free:.3f} %"]
        for name, d in comparison.populations.items()
    ]
    a = comparison.answers
    low, high = a.interval
    return (
        f"spikes that differ from fp32's, {comparison.compared} test images of "
        f"{comparison.data}\n(local: for the same spikes before it; free: each network on its own)"
        f"\n\n{format_table(['population', 'local', 'free'], rows)}\n\n"
        f"top-1 on {a.images} test images: fp32 {100 * a.fp32 / a.images:.2f} %, "
        f"int8 {100 * a.int8 / a.images:.2f} %\n"
        f"difference {a.difference:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f} "
        f"(only fp32 right: {a.only_fp32}, only int8: {a.only_int8})"
    )
