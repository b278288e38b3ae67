"""Whole networks: every case in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..measure.machine import machine
from ..measure.timing import KEEP_MEMORY, Pace
from .cases import Case
from .network import verify

ENVIRONMENT = {
    **KEEP_MEMORY,
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # its worker processes would live on beside the timing
}


def measure_cases(
    cases: Sequence[Case], threads: int, pace: Pace
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The machine, and the results of all ``cases`` whose instruction set it has.

    Says on stderr how far it is. Raises ValueError if no case is left, and what :func:`verify` and
    :func:`measure_apart` raise.
    """
    for case in cases:
        verify(case)  # now rather than after minutes
    about = machine(threads)
    results = []
    for case in cases:
        if case.isa is not None and case.isa not in about["isas"]:
            print(f"{case.name}: left out, this machine has no {case.isa}", file=sys.stderr)
            continue
        start = time.perf_counter()
        results.append(measure_apart(case, threads, pace))
        print(f"{case.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if not results:
        raise ValueError("nothing was left to measure")
    return about, results


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
                sys.executable, "-m", "stmixer_ops.bench.run",
                str(specification), str(result),
            ],
            cwd=folder, env={**os.environ, **ENVIRONMENT, **cache, **case.environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0 or not result.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise RuntimeError(f"case {case.name}: {lines[-1]}")
        return json.loads(result.read_text())
