"""One table of a GPU's results, and how they stand to the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stmixer_ops.measure.table import format_table

from . import floor

Result = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """``case`` must be so many times as fast as the faster of ``peers``, or hold so much less."""

    case: str
    peers: str
    ratio: float
    what: str = "speed"


TARGETS = (
    *(Target(f"lif T={steps}", "SpikingJelly", 1.4) for steps in (2, 4)),
    *(Target(f"lif T={steps}", "SpikingJelly", 1.2) for steps in (8, 16, 32)),
    *(Target(f"lif T={steps}", "copy", 0.8, "bandwidth") for steps in (4, 8, 16, 32)),
    Target("bn_lif C=384", "SpikingJelly", 2.0),
    Target("bn_lif C=1536", "SpikingJelly", 2.0),
    Target("train batch=256", "eager", 2.5),
    Target("train batch=256", "torch.compile", 1.5),
    Target("train batch=256", "eager", 0.4, "memory"),
    Target("infer batch=1", "torch.compile", 1.5),
    Target("infer batch=256", "torch.compile", 1.5),
)


def predicted_for(contestant: str, ratios: dict[str, float], versions: dict[str, Any]) -> Any:
    """The predicted ratio against a contestant, where it has been counted."""
    if contestant.startswith("SpikingJelly"):
        version = versions.get("spikingjelly") or "2"
        old = int(version.split(".")[0]) < 2
        return ratios.get(floor.SPIKINGJELLY if old else floor.SPIKINGJELLY2)
    for peer in (floor.EAGER, floor.COMPILE):
        if contestant.startswith(peer):
            return ratios.get(peer)
    return None


def report(result: Result) -> str:
    about = result["machine"]
    lines = [
        f"{about['gpu']['name']}, torch {about['versions']['torch']}, commit {about['commit']}, "
        f"copies at {result['copy_bandwidth'] / 1e12:.2f} TB/s",
        main_table(result),
        targets_table(result),
    ]
    if result["rehearsal"]:
        lines.insert(0, "REHEARSAL on the CPU at tiny sizes: no figure here means anything.")
    tests = result.get("tests")
    if tests is not None and tests.get("status") != "passed":
        lines.insert(0, f"THE GPU TESTS ARE NOT GREEN ({tests.get('summary')}).")
    return "\n\n".join([*lines, *result["notes"]])


def main_table(result: Result) -> str:
    table, reasons = [], []
    for case in result["cases"]:
        predicted = case["predicted"]
        for row in case["rows"]:
            if "ms" not in row:
                reasons.append(f"{case['case']}, {row['contestant']}: {row['reason']}")
                continue
            expected = predicted_for(
                row["contestant"], predicted["predicted_ratio"], result["machine"]["versions"]
            )
            share = predicted["bytes"] / (1e-3 * row["ms"]) / result["copy_bandwidth"]
            peak = row.get("peak_bytes")
            table.append(
                [
                    case["case"],
                    row["contestant"],
                    f"{1e3 * row['ms']:.1f}",
                    f"{1e3 * predicted['floor_ms']:.1f}" if row["ours"] else "",
                    f"{row['ratio']:.2f}x" if row["ratio"] else "-",
                    f"{expected:.2f}x" if expected else "",
                    f"{share:.0%}" if row["ours"] else "",
                    f"{peak / 2**20:.0f}" if peak else "",
                    "" if case["rate"] is None else f"{case['rate']:.3f}",
                    row["how"],
                ]
            )
    header = [
        "case", "who", "µs", "floor", "of ours", "predicted", "bandwidth", "peak MiB", "rate",
        "timed by",
    ]  # fmt: skip
    return "\n\n".join([format_table(header, table), "\n".join(reasons)]).rstrip()


def _reached(target: Target, case: dict[str, Any]) -> float | None:
    """The figure that ``target`` is about, or None where somebody is missing."""
    if target.what == "bandwidth":
        return case["predicted"].get("share_of_copy_bandwidth")
    key = "peak_bytes" if target.what == "memory" else "ms"
    ours = [row[key] for row in case["rows"] if row["ours"] and row.get(key)]
    theirs = [
        row[key]
        for row in case["rows"]
        if not row["ours"] and row["contestant"].startswith(target.peers) and row.get(key)
    ]
    if not ours or not theirs:
        return None
    if target.what == "memory":
        return min(ours) / min(theirs)
    return min(theirs) / min(ours)


def targets_table(result: Result, targets: Sequence[Target] = TARGETS) -> str:
    by_name = {case["case"]: case for case in result["cases"]}
    rows = []
    for target in targets:
        case = by_name.get(target.case)
        reached = None if case is None else _reached(target, case)
        less = target.what == "memory"
        sign = "≤" if less else "≥"
        verdict = "not measured"
        if reached is not None:
            met = reached <= target.ratio if less else reached >= target.ratio
            verdict = "met" if met else "missed"
        rows.append(
            [
                f"{target.case}, {target.what} against {target.peers}",
                f"{sign} {target.ratio:g}",
                "-" if reached is None else f"{reached:.2f}",
                verdict,
            ]
        )
    return format_table(["target", "aim", "reached", ""], rows)
