"""``python -m bench gpu``: the cases on a GPU against their peers, beside what was predicted.

Each group of cases runs in a process of its own, with a share of the time budget; what is not
reached is said. Results go to ``bench/results/gpu-<device>.json``. ``--rehearse`` does the same at
tiny sizes on the CPU, with Triton's interpreter, and keeps nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stmixer_ops._files import write_atomically
from stmixer_ops.measure.machine import machine

from . import floor
from .cases import cases
from .gpu_measure import GROUPS, Row, measure_group
from .gpu_report import report
from .traffic import Machine

HERE = Path(__file__).parent
REHEARSAL = HERE.parent / "out" / "gpu-rehearsal"
# Seconds that a group may take at most; what one leaves over is the next one's.
_SHARES = {"lif": 90, "bn_lif": 40, "ops": 50, "block": 40, "train": 90, "infer": 90}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("gpu")
    group.add_argument("--budget", type=float, default=300, metavar="S", help="seconds in all")
    group.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU")
    group.add_argument("--tests", type=Path, help="JSON with the outcome of the GPU tests")
    group.add_argument("--groups", nargs="+", choices=GROUPS, help="only these")
    group.add_argument("--child", nargs=2, metavar=("GROUP", "FILE"), help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    if arguments.child:
        name, rows = arguments.child
        measure_group(name, Path(rows), arguments.rehearse)
        return 0
    if not arguments.rehearse and not torch.cuda.is_available():
        print("bench gpu: no GPU that PyTorch can use; --rehearse runs on the CPU", file=sys.stderr)
        return 2
    rows, notes, crashed = _measure(arguments)
    about = machine(torch.get_num_threads()) | {"gpu": gpu_facts()}
    result = assemble(rows, about, arguments.rehearse)
    result["notes"] = notes
    if arguments.tests is not None:
        result["tests"] = json.loads(arguments.tests.read_text())
    print(report(result))
    path = _path(result, arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    write_atomically(path, lambda partial: partial.write_text(text))
    print(f"\nwritten to {path}")
    failed = [row for row in rows if row.get("status") in ("failed", "disagrees") and row["ours"]]
    return 1 if failed or crashed else 0


def _path(result: dict[str, Any], arguments: argparse.Namespace) -> Path:
    if arguments.rehearse:
        return REHEARSAL / "rehearsal.json"
    device = re.sub(r"[^a-z0-9]+", "-", result["machine"]["gpu"]["name"].lower()).strip("-")
    return arguments.out / f"gpu-{device}.json"


def _measure(arguments: argparse.Namespace) -> tuple[list[Row], list[str], bool]:
    """The rows of all groups, what was cut short, and whether a group ended in an error."""
    rows: list[Row] = []
    notes, crashed = [], False
    end, spare = time.monotonic() + arguments.budget, 0.0
    flags = ["--rehearse"] if arguments.rehearse else []
    with tempfile.TemporaryDirectory(prefix="stmixer-gpu-") as folder:
        for name in arguments.groups or GROUPS:
            share = arguments.budget if arguments.rehearse else _SHARES[name] + spare
            limit = min(end - time.monotonic(), share)
            if limit < 10:
                notes.append(f"{name}: not reached within {arguments.budget:g} s")
                continue
            path, start = Path(folder) / f"{name}.jsonl", time.monotonic()
            command = [sys.executable, "-m", "bench", "gpu", "--child", name, str(path), *flags]
            try:
                done = subprocess.run(command, cwd=HERE.parent, timeout=limit, check=False)
                status = done.returncode
                if status:
                    crashed = True
                    notes.append(f"{name}: the process ended with status {status}")
            except subprocess.TimeoutExpired:
                notes.append(f"{name}: stopped after {limit:.0f} s")
            spare = limit - (time.monotonic() - start)
            if path.is_file():
                rows += map(json.loads, path.read_text().splitlines())
    return rows, notes, crashed


def gpu_facts() -> dict[str, Any]:
    """Name, memory, clocks and driver; of a rehearsal that there is none."""
    if not torch.cuda.is_available():
        return {"name": "none (rehearsal)"}
    properties = torch.cuda.get_device_properties(0)
    facts = {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
    }
    fields = "driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, check=False, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return facts
    values = [value.strip() for value in done.stdout.split(",")]
    return facts | dict(zip(fields.split(","), values, strict=False))


def assemble(rows: list[Row], about: dict[str, Any], rehearse: bool) -> dict[str, Any]:
    """Everything by case: predicted, measured, ratios against the fastest of ours."""
    bandwidths = [row["copy_bandwidth"] for row in rows if "copy_bandwidth" in row]
    machine_here = Machine(bandwidth=max(bandwidths)) if bandwidths else Machine()
    found = []
    for case in cases(tiny=rehearse):
        own = [row for row in rows if row.get("case") == case.name]
        if not own:
            continue
        measured = [row for row in own if "contestant" in row]
        best = min((r["ms"] for r in measured if r["ours"] and "ms" in r), default=None)
        for row in measured:
            row["ratio"] = row["ms"] / best if best and "ms" in row else None
        predicted = floor.predict(case, machine_here)
        if best:
            share = predicted["bytes"] / (1e-3 * best) / machine_here.bandwidth
            predicted["share_of_copy_bandwidth"] = share
        rates = next((row["rates"] for row in own if "rates" in row), {})
        found.append(
            {
                "case": case.name,
                "rate": sum(rates.values()) / len(rates) if rates else None,
                "rates": rates,
                "predicted": predicted,
                "rows": measured,
            }
        )
    return {
        "rehearsal": rehearse,
        "machine": about,
        "copy_bandwidth": machine_here.bandwidth,
        "threads_of_children": os.environ.get("OMP_NUM_THREADS"),
        "cases": found,
    }
