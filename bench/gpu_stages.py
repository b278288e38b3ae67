"""``make gpu``: build without network, test on the GPU, measure, within eight minutes.

Runs on any Python that has torch; whatever else is missing is said and left out. Only the standard
library is needed here. ``--rehearse`` goes through every stage on the CPU, at tiny sizes and with
Triton's interpreter, so that no typo waits for a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "gpu-site"
FIRST = ROOT / "build" / "gpu-first"
# Seconds: of everything, the most that building and testing may take of it, and what predictions
# and the table take. Measuring gets the rest; a rehearsal is in no hurry.
TOTAL, BUILD, TESTS, REPORT = 470, 120, 150, 25
REHEARSAL = 3600
Running = subprocess.Popen[bytes]
_NO_GPU = "this Python's torch sees no GPU"


def say(text: str) -> None:
    print(f"\n== gpu: {text}", flush=True)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own, so that nothing here loads torch or touches the GPU."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )


def obstacle(rehearse: bool) -> str | None:
    """Why nothing can be run, or None."""
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch; name one that has: make gpu PYTHON_GPU=..."
    if rehearse:
        return None
    done = python("import torch; print(torch.__version__, torch.cuda.is_available())")
    words = done.stdout.split()
    if done.returncode != 0 or len(words) != 2:
        return f"torch does not load: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    if words[1] != "True":
        return (
            f"{_NO_GPU} (torch {words[0]} of {sys.executable}); name another Python with "
            "PYTHON_GPU=..., or rehearse on the CPU: make gpu GPU=--rehearse"
        )
    return None


def missing_tools() -> list[str]:
    """What building needs and nobody may download now."""
    modules = [name for name in ("pip", "scikit_build_core", "pybind11") if not _has(name)]
    programs = [n for n in ("cmake", "ninja") if shutil.which(n) is None and not _has(n)]
    return modules + programs


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def build(limit: float) -> dict[str, str]:
    """The environment in which ``stmixer_ops`` of this checkout can be imported.

    It is built into a folder of its own, so the Python's packages stay as they are. Where building
    is impossible the sources serve: the references, and all kernels that need no extension.
    """
    missing = missing_tools()
    if missing:
        say(f"not built, {', '.join(missing)} missing: running from the sources, no extension")
        return importing_from(ROOT)
    cuda = "ON" if shutil.which("nvcc") else "OFF"
    say(f"building with STMIXER_CUDA={cuda}")
    shutil.rmtree(SITE, ignore_errors=True)
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--target", str(SITE), f"-Ccmake.define.STMIXER_CUDA={cuda}",
        str(ROOT),
    ]  # fmt: skip
    process = start(command, ROOT, dict(os.environ))
    try:
        status: int | None = process.wait(limit)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        stop(process)
    if status != 0:
        how = f"was stopped after {limit:.0f} s" if status is None else "failed"
        say(f"the build {how}: running from the sources, no extension")
        return importing_from(ROOT)
    return importing_from(SITE)


_SITECUSTOMIZE = """# Written by make gpu: stmixer_ops is the one in {folder}.
import sys
from importlib.machinery import PathFinder


class First:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "stmixer_ops":
            return PathFinder.find_spec(name, path or [{folder!r}])
        return None


sys.meta_path.insert(0, First)
"""


def importing_from(folder: Path) -> dict[str, str]:
    """The environment in which ``stmixer_ops`` is the one in ``folder``.

    A path does that, unless there is an editable installation, whose finder goes before any path:
    then Python is given a finder at its start that goes before that one.
    """
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if Path(location(environment)).parent != folder:
        FIRST.mkdir(parents=True, exist_ok=True)
        (FIRST / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(folder=str(folder)))
        environment["PYTHONPATH"] = os.pathsep.join([str(FIRST), *paths])
    return environment


def location(environment: dict[str, str]) -> str:
    """Where the package is taken from, or why it is not."""
    code = "import stmixer_ops; print(stmixer_ops.__path__[0])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120,
        cwd=ROOT / "tests", env=environment,
    )  # fmt: skip
    return done.stdout.strip() or f"not importable: {done.stderr.strip().splitlines()[-1]}"


def test(environment: dict[str, str], limit: float, rehearse: bool) -> dict[str, Any]:
    """Outcome of ``tests/gpu``: a status, a summary, and the tests that failed."""
    if not _has("pytest"):
        say("not tested: pytest is missing")
        return {"status": "not run", "summary": "pytest is missing"}
    # Compiling kernels takes longest: several processes share the GPU and the tests.
    shards = 1 if rehearse else max(1, min(8, (os.cpu_count() or 1) // 2))
    say(f"testing in {shards} processes, at most {limit:.0f} s")
    end = time.monotonic() + limit
    with tempfile.TemporaryDirectory(prefix="stmixer-gpu-tests-") as folder:
        running = []
        for shard in range(shards):
            log = Path(folder) / f"{shard}.jsonl"
            own = environment | {
                "STMIXER_GPU_SHARD": f"{shard}/{shards}",
                "STMIXER_GPU_TEST_LOG": str(log),
            }
            command = [sys.executable, "-m", "pytest", "-q", "gpu"]
            running.append((log, start(command, ROOT / "tests", own)))
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer and not rehearse:
            log = Path(folder) / "racecheck.jsonl"
            own = environment | {"STMIXER_GPU_TEST_LOG": str(log)}
            command = [sanitizer, "--tool", "racecheck", "--error-exitcode", "9", *command]
            command += ["-k", "small_shapes"]
            running.append((log, start(command, ROOT / "tests", own)))
        stopped = False
        try:
            for _, process in running:
                try:
                    process.wait(max(0.0, end - time.monotonic()))
                except subprocess.TimeoutExpired:
                    stopped = True
                    break
        finally:
            for _, process in running:
                stop(process)
        outcomes = [
            json.loads(line)
            for log, _ in running
            if log.is_file()
            for line in log.read_text().splitlines()
        ]
        clean = all(process.returncode in (0, 5) for _, process in running)  # 5: an empty shard
    return outcome(outcomes, stopped, clean)


def start(command: list[str], folder: Path, environment: dict[str, str]) -> Running:
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def stop(process: Running) -> None:
    """With all that it started (pip runs compilers, compute-sanitizer Python), so that nobody is
    left on the processor or on the GPU that is measured next."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outcome(outcomes: list[dict[str, str]], stopped: bool, clean: bool) -> dict[str, Any]:
    """Green only if something passed, nothing failed, and nothing was cut short."""
    counts = Counter(row["outcome"] for row in outcomes)
    summary = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "no tests"
    summary += ", stopped at the time limit" if stopped else ""
    green = clean and not stopped and counts["passed"] > 0 and not counts["failed"]
    failed = [row["test"] for row in outcomes if row["outcome"] == "failed"]
    return {"status": "passed" if green else "failed", "summary": summary, "failed": failed}


def measure(environment: dict[str, str], budget: float, tests: Path, rehearse: bool) -> int:
    say(f"measuring, at most {budget:.0f} s")
    command = [sys.executable, "-m", "bench", "gpu", "--budget", f"{budget:.0f}"]
    command += ["--tests", str(tests), *(["--rehearse"] if rehearse else [])]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="every stage on the CPU")
    arguments = parser.parse_args()
    reason = obstacle(arguments.rehearse)
    if reason is not None:
        print(f"gpu: {reason}", file=sys.stderr)
        return 2
    total = REHEARSAL if arguments.rehearse else TOTAL
    end = time.monotonic() + total
    environment = build(total if arguments.rehearse else BUILD)
    found = location(environment)
    say(f"stmixer_ops is {found}")
    if Path(found).parent not in (SITE, ROOT):
        print("gpu: that is not the one of this checkout", file=sys.stderr)
        return 2
    if arguments.rehearse:
        environment |= {"TRITON_INTERPRET": "1", "STMIXER_GPU_TESTS": "rehearse"}
    left = end - time.monotonic()
    tested = test(environment, left if arguments.rehearse else min(TESTS, left), arguments.rehearse)
    say(f"tests: {tested['summary']}")
    with tempfile.TemporaryDirectory(prefix="stmixer-gpu-") as folder:
        tests = Path(folder) / "tests.json"
        tests.write_text(json.dumps(tested))
        budget = end - time.monotonic() - REPORT
        status = measure(environment, budget, tests, arguments.rehearse)
    return status or (0 if tested["status"] == "passed" else 1)


if __name__ == "__main__":
    sys.exit(main())
