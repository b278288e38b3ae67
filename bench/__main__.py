"""``python -m bench [ops|engine ...]``: run the benchmarks, print the ratios, keep the results.

Writes ``bench/results/<name>.json`` with the machine, threads and commit beside every median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from stmixer_ops._files import write_atomically

HERE = Path(__file__).parent

# Whether glibc hands freed tensors back to the kernel at every step is luck of addresses, and the
# page faults that follow cost more than any op here. All peers keep their memory.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}


def run(files: list[Path]) -> dict[str, Any]:
    """pytest-benchmark's report; its own table is left out."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = ["-q", "--benchmark-only", "--benchmark-quiet", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, f"--benchmark-json={report}"]
        done = subprocess.run(
            [*command, *map(str, files)], cwd=HERE.parent, env=os.environ | KEEP_MEMORY, check=False
        )
        if not report.is_file() or done.returncode != 0:
            # A speed of something that failed is no speed.
            raise SystemExit("bench: the benchmarks failed; no results were written")
        return json.loads(report.read_text())


def machine() -> dict[str, Any]:
    """What a figure needs beside it."""
    import numpy
    import torch

    from stmixer_ops.ops import backend_report

    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True,
        check=False,
    ).stdout.strip()  # fmt: skip
    return {
        "cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "backend": backend_report()["cpu"], "python": platform.python_version(),
        "torch": torch.__version__, "numpy": numpy.__version__, "commit": commit,
    }  # fmt: skip


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
    print(f"\n{about['cpu']}, {about['threads']} threads, torch {about['torch']}, "
          f"commit {about['commit']}")  # fmt: skip
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            print(f"\n{group}")
        rate = f"rate {row['rate']:.3f}" if "rate" in row else ""
        print(f"  {row['peer']:<22}{row['ms']:>10.3f} ms{row['ratio']:>8.2f}x  {rate}")


def main() -> None:
    names = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for results")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    about = machine()
    for name in arguments.names or names:
        rows = table(run([HERE / f"bench_{name}.py"]))
        show(rows, about)
        arguments.out.mkdir(parents=True, exist_ok=True)
        target = arguments.out / f"{name}.json"
        text = json.dumps({"machine": about, "rows": rows}, indent=1) + "\n"
        write_atomically(target, lambda partial, text=text: partial.write_text(text))
        print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
