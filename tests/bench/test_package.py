"""``python -m bench`` in a checkout."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.paths import ROOT

import stmixer_ops as so

if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)


def test_the_sources_do_not_hide_the_installed_package():
    code = "import bench, stmixer_ops; print(stmixer_ops.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == so.__file__


def test_an_unknown_benchmark_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "speed"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "unknown speed; there are ops, engine, sweep, floor, gpu" in done.stderr
