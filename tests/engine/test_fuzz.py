"""Thousands of damaged engine files: an error each, never a crash or a huge allocation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.paths import TESTS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["fp32", "int8", "clocked"])
def test_damaged_files_are_refused_or_run(kind: str, full: bool) -> None:
    cases = int(os.environ.get("STMIXER_FUZZ_CASES", 4000 if full else 800))
    seed = os.environ.get("STMIXER_FUZZ_SEED", "0")
    seconds = cases / 50  # more than enough, unless the machine is very busy
    command = [sys.executable, "-W", "ignore", "-m", "support.engine_fuzz"]
    command += [kind, seed, str(seconds), str(cases)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert run.returncode == 0, run.stderr[-4000:]
    summary = json.loads(run.stdout)
    assert summary["cases"] >= min(cases, 500)
    # Both must happen for this to be a test of either.
    assert 0.01 * summary["cases"] < summary["taken"] < 0.5 * summary["cases"]
    assert 0.01 * summary["cases"] < summary["strained"] < 0.12 * summary["cases"]
