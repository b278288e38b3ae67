"""``stmixer bench engine``: every case in a process of its own, then one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..._files import write_atomically
from .cases import CASES, TRAINED, Case, choose
from .machine import machine
from .network import verify
from .plot import draw_engine, require_matplotlib
from .report import failures, show
from .timing import FULL, KEEP_MEMORY, QUICK, Pace

ENVIRONMENT = {
    **KEEP_MEMORY,
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its worker processes would live on beside the timing
}


def run(args: argparse.Namespace) -> int:
    if args.list:
        for case in (*CASES, *TRAINED):
            print(f"{case.name:<12} {_describe(case)}")
        return 0
    cases = choose(
        args.cases,
        quick=args.quick,
        model=args.model,
        img_size=args.img_size,
        checkpoint=None if args.checkpoint is None else str(Path(args.checkpoint).resolve()),
        data=args.data,
        root=None if args.root is None else str(Path(args.root).resolve()),
    )
    require_matplotlib()  # now rather than after minutes
    for case in cases:
        verify(case)
    about = machine(args.threads)
    results = []
    for case in cases:
        if case.isa is not None and case.isa not in about["isas"]:
            print(f"{case.name}: left out, this machine has no {case.isa}", file=sys.stderr)
            continue
        start = time.perf_counter()
        results.append(measure_apart(case, args.threads, QUICK if args.quick else FULL))
        print(f"{case.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if not results:
        raise ValueError("nothing was left to measure")
    print(show(results, about))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "cases": results}, indent=1) + "\n"
    write_atomically(out / "engine.json", lambda p: p.write_text(text))
    draw_engine(out / "engine.png", results, about)
    print(f"\nwritten to {out / 'engine.json'} and {out / 'engine.png'}")
    wrong = failures(results)
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


def _describe(case: Case) -> str:
    if case.checkpoint is not None:
        return f"--checkpoint on its test images, batch {case.batch}"
    text = f"{case.model}, T={case.steps}, batch {case.batch}"
    if case.rate is not None:
        text += f", every rate moved to {case.rate:g}"
    if case.isa is not None:
        text += f", {case.isa} at most"
    if case.resources:
        text += ", with memory and first answers"
    return text


def measure_apart(case: Case, threads: int, pace: Pace) -> dict[str, Any]:
    """One case in a fresh process, in its environment.

    Raises:
        RuntimeError: the case failed; says how.
    """
    with tempfile.TemporaryDirectory(prefix="stmixer-bench-") as name:
        folder = Path(name)
        specification, result = folder / "case.json", folder / "result.json"
        # With one cache for all, torch.compile takes AVX-512 kernels for AVX2's and gets NaN.
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled")}
        told = {"case": asdict(case), "threads": threads, "pace": asdict(pace)}
        specification.write_text(json.dumps(told))
        # In a folder of its own, so that nothing in the current one is imported by its name.
        done = subprocess.run(
            [
                sys.executable, "-m", "stmixer_ops.cli.bench.measure",
                str(specification), str(result),
            ],
            cwd=folder, env={**os.environ, **ENVIRONMENT, **cache, **case.environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 or not result.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(f"case {case.name}: {lines[-1]}")
        return json.loads(result.read_text())
