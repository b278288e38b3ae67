"""``python bench [ops|engine|sweep ...]``: run the benchmarks, print the ratios, keep the results.

Every speed is a ratio against a peer in the same run. ``ops`` (``bench_ops.py``) times the
training ops; ``engine`` and ``sweep`` are the commands ``stmixer bench engine`` and
``stmixer bench sweep``. Each writes ``bench/results/<name>.json`` with machine, threads and commit.
Only when named: ``floor`` prints what bytes and FLOPs predict for a GPU, ``gpu`` measures there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import floor
import gpu

from stmixer_ops import cli
from stmixer_ops._files import write_atomically
from stmixer_ops.cli.bench.machine import machine
from stmixer_ops.cli.bench.timing import KEEP_MEMORY

HERE = Path(__file__).parent


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


def table(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Median milliseconds per group and peer; the ratio is the peer's time over ours."""
    rows = [
        {
            "group": b["group"],
            "ms": b["stats"]["median"] * 1e3,
            "iqr_ms": b["stats"]["iqr"] * 1e3,
            **b["extra_info"],
        }
        for b in report["benchmarks"]
    ]
    ours = {r["group"]: r["ms"] for r in rows if r["peer"] == "stmixer_ops"}
    for row in rows:
        row["ratio"] = row["ms"] / ours[row["group"]]
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
        print(f"  {row['peer']:<22}{row['ms']:>10.3f} ms{row['ratio']:>8.2f}x  {rate}")


def bench_ops(out: Path) -> None:
    import torch

    rows, about = table(run([HERE / "bench_ops.py"])), machine(torch.get_num_threads())
    show(rows, about)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
    write_atomically(out / "ops.json", lambda partial: partial.write_text(text))
    print(f"\nwritten to {out / 'ops.json'}")


def main() -> int:
    names, when_named = ("ops", "engine", "sweep"), ("floor", "gpu")
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join((*names, *when_named))}"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for results")
    floor.add_arguments(parser)
    gpu.add_arguments(parser)
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
        else:
            status |= cli.main(["bench", name, "--out", str(arguments.out)])
    return status


if __name__ == "__main__":
    sys.exit(main())
