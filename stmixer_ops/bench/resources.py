"""Memory and time from a file to the first answer, each contestant in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..measure.timing import KEEP_MEMORY

_STATUS = Path("/proc/self/status")


def measure(key: str, path: Path, image: Path, threads: int, repeats: int = 3) -> dict[str, Any]:
    """Medians over fresh processes.

    ``first_ms``: from opening the file to the first logits. ``peak_mib``: the most memory resident
    meanwhile, ``held_mib``: resident afterwards, both over what the process had once its library
    was imported; None where there is no /proc.
    """
    environment = {k: v for k, v in os.environ.items() if k not in KEEP_MEMORY}
    # What torch.compile would find in its caches another machine would have to compile.
    environment["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-m", __name__, key, str(path), str(image), str(threads)],
            capture_output=True, text=True, cwd=path.parent, check=False, env=environment,
        )  # fmt: skip
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise RuntimeError(f"measuring memory failed: {lines[-1]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: None if runs[0][name] is None else statistics.median(run[name] for run in runs)
        for name in runs[0]
    }


def _resident() -> tuple[float, float] | None:
    """MiB now, and the most there was."""
    if not _STATUS.is_file():
        return None
    text = _STATUS.read_text()
    now, most = (
        int(re.findall(rf"^{name}:\s+(\d+) kB", text, re.M)[0]) / 1024
        for name in ("VmRSS", "VmHWM")
    )
    return now, most


def _forget_peak() -> None:
    """What importing needed is not counted."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(key: str, path: Path, image: Path, threads: int) -> None:
    from .peers import CONTESTANTS

    contestant = CONTESTANTS[key]
    x = np.load(image)
    for module in contestant.imports:
        importlib.import_module(module)
    _forget_peak()
    before = _resident()
    start = time.perf_counter()
    session = contestant.open(path, threads)
    session.call(x)
    seconds = time.perf_counter() - start
    after = _resident()
    found: dict[str, Any] = {"first_ms": 1e3 * seconds, "peak_mib": None, "held_mib": None}
    if before is not None and after is not None:
        found["peak_mib"], found["held_mib"] = after[1] - before[0], after[0] - before[0]
    if key.startswith("engine") and "torch" in sys.modules:
        raise RuntimeError("the engine loaded torch")
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
