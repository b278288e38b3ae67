"""What ``stmixer bench engine`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..measure.table import format_table
from .peers import CONTESTANTS

Result = dict[str, Any]
Row = dict[str, Any]

# The precision of the peers -> which engine they are compared with.
OURS = {"fp32": "engine", "default": "engine", "int8": "engine-int8"}


def show(results: Sequence[Result], about: dict[str, Any]) -> str:
    """All of it."""
    parts = [_heading(about)]
    for result in results:
        parts.append(_one_case(result))
        if any("first_ms" in row for row in result["rows"]):
            parts.append(_resources(result))
    parts += [_layers(results[0], row) for row in results[0]["rows"] if "steps" in row]
    parts.append("engine against the fastest peer of each precision, ms\n\n" + _summary(results))
    return "\n\n".join(parts)


def failures(results: Sequence[Result]) -> list[str]:
    """What did not hold; a peer that is not there is none."""
    return [
        f"{result['case']}: {row['contestant']}: {row['reason']}"
        for result in results
        for row in result["rows"]
        if row["status"] in ("disagrees", "failed")
    ]


def ratio(result: Result, row: Row) -> float | None:
    """The row's time over that of the engine it is compared with; None for the engines."""
    ours = _row(result, OURS[row["precision"]])
    if row["key"] in OURS.values() or "ms" not in row or ours is None or "ms" not in ours:
        return None
    return row["ms"] / ours["ms"]


def fastest(result: Result, precision: str) -> Row | None:
    """Of the peers that were measured at a precision."""
    rows = [
        row
        for row in result["rows"]
        if row["precision"] == precision
        and "ms" in row
        and row["key"] not in OURS.values()
        and CONTESTANTS[row["key"]].compared
    ]
    return min(rows, key=lambda row: row["ms"], default=None)


def title(result: Result) -> str:
    return (
        f"{result['case']}: {result['network']}, {result['input']}, T={result['steps']}, "
        f"batch {result['batch']}"
    )


def _row(result: Result, key: str) -> Row | None:
    return next((row for row in result["rows"] if row["key"] == key), None)


def _heading(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items() if v)
    return (
        f"{about['cpu']}, {about['threads']} threads of {about['cores']} cores, engine "
        f"{about['isa']}, stmixer_ops {about['stmixer_ops']}, commit {about['commit'] or 'unknown'}"
        f"\n{versions}"
    )


def _one_case(result: Result) -> str:
    rates = result["rates"].values()
    lines = [
        title(result),
        f"{result['inputs']}; spike rate {result['rate']:.3f} "
        f"({min(rates):.3f} to {max(rates):.3f}), {result['threads']} threads, engine "
        f"{result['isa']}, peers {result['isa_limit'] or 'whatever they choose'}\n",
    ]
    rows = []
    for row in result["rows"]:
        if row["status"] != "measured" or "ms" not in row:
            rows.append([row["contestant"], "-", "-", "-", "-"])
            continue
        factor = ratio(result, row)
        agreement = row["agreement"]
        error = agreement.get("worst_rate_error")
        rows.append(
            [
                row["contestant"],
                f"{row['ms']:.2f} ±{row['iqr_ms'] / 2:.2f}",
                "" if factor is None else f"{factor:.2f}x",
                "-" if error is None else f"{error:.4f}",
                f"{agreement['logits_correlation']:.3f}",
            ]
        )
    lines.append(format_table(["", "ms", "/ engine", "rate error", "logits corr."], rows))
    for row in result["rows"]:
        if row["reason"] or row.get("note"):
            lines.append(f"{row['contestant']}: {row['reason'] or row['note']}")
        if "steps" in row:
            ceilings = ", ".join(
                f"{rate / 1e9:.0f} Gadd/s at {bits} bits" for bits, rate in row["ceilings"].items()
            )
            lines.append(
                f"{row['contestant']}: adds rows at {row['share']:.0%} of the ceiling ({ceilings})"
            )
    return "\n".join([*lines, *_restless(result)])


def _restless(result: Result) -> list[str]:
    """A line if the machine did other things meanwhile."""
    for row in result["rows"]:
        turns = row.get("turns_ms", [0.0])
        if max(turns) > 1.3 * min(turns):
            return [
                f"the machine was not quiet: the turns of {row['contestant']} took "
                f"{min(turns):.2f} to {max(turns):.2f} ms"
            ]
    return []


def _resources(result: Result) -> str:
    cells = [
        [
            row["contestant"],
            f"{row['first_ms']:.0f} ms",
            *("-" if row[k] is None else f"{row[k]:.0f} MiB" for k in ("peak_mib", "held_mib")),
            f"{row['busy_ms']:.2f} ms, {row['busy_ms'] / row['ms']:.1f}x",
        ]
        for row in result["rows"]
        if "first_ms" in row
    ]
    table = format_table(["", "first answer", "peak memory", "held", "beside a busy core"], cells)
    return (
        f"{result['case']}: from file to first answer, fresh processes, after import; "
        f"a call while another process keeps a core busy\n\n{table}"
    )


def _layers(result: Result, row: Row) -> str:
    """Where the time of an engine goes; the steps of all other cases are in the JSON file."""
    shown = [step for step in row["steps"] if step["share"] is not None]
    cells = [
        [
            step["name"], f"{step['ms']:.3f} ms", f"{step['rate']:.3f}", str(step["bits"]),
            f"{step['sops'] / step['ms'] / 1e6:.1f}", f"{step['share']:.0%}",
        ]
        for step in shown
    ]  # fmt: skip
    rest = sum(step["ms"] for step in row["steps"]) - sum(step["ms"] for step in shown)
    cells.append(["other steps", f"{rest:.3f} ms", "", "", "", ""])
    table = format_table(["", "time", "rate", "bits", "Gadd/s", "of ceiling"], cells)
    return f"{result['case']}: row additions of {row['contestant']}\n\n{table}"


def _summary(results: Sequence[Result]) -> str:
    cells = []
    for result in results:
        for precision, key in OURS.items():
            ours, peer = _row(result, key), fastest(result, precision)
            if not any(row["precision"] == precision for row in result["rows"]) or ours is None:
                continue
            if precision == "default" and peer is not None:
                precision = f"default ({peer['note'].partition(';')[0]})"
            cells.append(
                [
                    title(result),
                    f"{result['rate']:.3f}",
                    precision,
                    f"{ours['ms']:.2f}" if "ms" in ours else "-",
                    f"{peer['ms']:.2f}" if peer else "-",
                    peer["contestant"] if peer else "-",
                    f"{peer['ms'] / ours['ms']:.2f}x" if peer and "ms" in ours else "-",
                ]
            )
    return format_table(["", "rate", "peers", "engine", "peer", "fastest peer", "ratio"], cells)
