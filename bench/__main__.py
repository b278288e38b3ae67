"""``python -m bench [ops|engine|sweep ...]``: run benchmarks, print ratios, keep results.

Every speed is a ratio against a peer in the same run. ``ops`` (``bench_ops.py``) times the
training ops; ``engine`` and ``sweep`` are the commands ``stmixer bench engine`` and
``stmixer bench sweep``. Each writes ``bench/results/<name>.json`` with machine, threads and commit.
Only when named: ``floor`` prints what bytes and FLOPs predict for a GPU, ``gpu`` measures there,
``nmnist`` finds the accuracy on recordings of an event camera.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stmixer_ops import cli
from stmixer_ops._files import write_atomically
from stmixer_ops.measure.machine import machine
from stmixer_ops.measure.timing import KEEP_MEMORY

from . import floor, gpu, nmnist

HERE = Path(__file__).parent
_RUNS = 7


def run(files: list[Path]) -> dict[str, Any]:
    """pytest-benchmark's report; its own table is left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["-q", "--benchmark-only", "--benchmark-quiet", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, f"--benchmark-json={report}"]
        done = subprocess.run(
            [*command, *map(str, files)], cwd=HERE, env=os.environ | KEEP_MEMORY, check=False
        )
        if not report.is_file() or done.returncode != 0:
            # A speed of something that failed is no speed.
            raise SystemExit("bench: the benchmarks failed; no results were written")
        return json.loads(report.read_text())


def medians(report: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Milliseconds of each group and peer in one run."""
    return {
        (b["group"], b["extra_info"]["peer"]): b["stats"]["median"] * 1e3
        for b in report["benchmarks"]
    }


def table(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each group and peer the median of all runs, and of its ratios to ours in the same run.

    A machine that others share changes its speed in less than the time a peer takes: one run's
    ratio may be half or twice the next one's, which ``ratios`` shows (smallest, largest).
    """
    runs = [medians(report) for report in reports]
    rows = []
    for b in reports[0]["benchmarks"]:
        group, peer = b["group"], b["extra_info"]["peer"]
        ratios = [run[group, peer] / run[group, "stmixer_ops"] for run in runs]
        row = {
            "group": group,
            "ms": statistics.median(run[group, peer] for run in runs),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "runs": len(runs),
        }
        rows.append(row | b["extra_info"])
    return rows


def show(rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    print(f"\n{about['cpu']}, {about['threads']} threads, torch {about['versions']['torch']}, "
          f"commit {about['commit']}")  # fmt: skip
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"\n{group}")
        rate = f"rate {row['rate']:.3f}" if "rate" in row else ""
        low, high = row["ratios"]
        spread = f"({low:.2f}-{high:.2f})" if row["peer"] != "stmixer_ops" else ""
        print(f"  {row['peer']:<22}{row['ms']:>10.3f} ms{row['ratio']:>8.2f}x {spread:<13} {rate}")


def bench_ops(out: Path) -> None:
    import torch

    rows = table([run([HERE / "bench_ops.py"]) for _ in range(_RUNS)])
    about = machine(torch.get_num_threads())
    show(rows, about)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    write_atomically(out / "ops.json", lambda partial: partial.write_text(text))
    print(f"\nwritten to {out / 'ops.json'}")


def main() -> int:
    names, when_named = ("ops", "engine", "sweep"), ("floor", "gpu", "nmnist")
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join((*names, *when_named))}"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for results")
    floor.add_arguments(parser)
    gpu.add_arguments(parser)
    nmnist.add_arguments(parser)
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {*names, *when_named}
    if unknown:
        known = ", ".join((*names, *when_named))
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {known}")
    status = 0
    for name in arguments.names or names:
        if name == "ops":
            bench_ops(arguments.out)
        elif name == "floor":
            status |= floor.run(arguments)
        elif name == "gpu":
            status |= gpu.run(arguments)
        elif name == "nmnist":
            status |= nmnist.run(arguments)
        else:
            status |= cli.main(["bench", name, "--out", str(arguments.out)])
    return status


if __name__ == "__main__":
    sys.exit(main())
