"""Thousands of damaged engine files: an error each, never a crash or a huge allocation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.paths import TESTS

pytestmark = pytest.mark.slow

CASES = int(os.environ.get("STMIXER_FUZZ_CASES", "4000"))
SECONDS = CASES / 150  # more than enough, unless the machine is very busy


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_damaged_files_are_refused_or_run(precision: str) -> None:
    seed = os.environ.get("STMIXER_FUZZ_SEED", "0")
    command = [sys.executable, "-W", "ignore", "-m", "support.engine_fuzz"]
    command += [precision, seed, str(SECONDS), str(CASES)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=TESTS)
    assert run.returncode == 0, run.stderr[-4000:]
    summary = json.loads(run.stdout)
    assert summary["cases"] >= min(CASES, 500)
    # Both must happen for this to be a test of either.
    assert 0.01 * summary["cases"] < summary["taken"] < 0.5 * summary["cases"]
    assert 0.01 * summary["cases"] < summary["strained"] < 0.12 * summary["cases"]
