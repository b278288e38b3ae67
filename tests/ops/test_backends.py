"""Choice of backend, its report, and the rules of the house: who may import whom."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stmixer_ops as so
from stmixer_ops import functional as F

PACKAGE = Path(so.__file__).parent
X = torch.randn(2, 3)


def run_python(code: str, **environment: str) -> str:
    """Output of a fresh interpreter, away from the source folder."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=os.sep,
        env={**os.environ, **environment},
        check=False,
    )
    return done.stdout + done.stderr


def test_argument_beats_context_beats_environment(monkeypatch):
    monkeypatch.setenv("STMIXER_BACKEND", "cuda")
    with pytest.raises(RuntimeError, match="lif: STMIXER_BACKEND='cuda' cannot run this call"):
        F.lif(X)
    with so.use_backend("cuda"):
        with pytest.raises(RuntimeError, match="lif: use_backend='cuda' cannot run this call"):
            F.lif(X)
        with so.use_backend("reference"):
            F.lif(X)
        with pytest.raises(RuntimeError, match="use_backend"):
            F.lif(X)
        F.lif(X, backend="cpu")
    with pytest.raises(RuntimeError, match="STMIXER_BACKEND"):
        F.lif(X)


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="backend must be one of .* got 'gpu'"):
        so.use_backend("gpu")
    monkeypatch.setenv("STMIXER_BACKEND", "fast")
    with pytest.raises(ValueError, match="STMIXER_BACKEND must be one of .* got 'fast'"):
        F.lif(X)


def test_fall_back_says_why_once(caplog):
    def custom(u):
        return (u >= 0).to(u.dtype)

    with caplog.at_level(logging.INFO, logger="stmixer_ops"):
        F.lif(X, surrogate=custom)
        F.lif(X, surrogate=custom)
    lines = [r.getMessage() for r in caplog.records if "custom" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("lif: not on cpu: the surrogate")


def test_report_names_every_backend():
    report = so.backend_report()
    assert list(report)[:4] == ["cuda", "triton", "cpu", "reference"]
    assert report["cpu"].startswith("available")
    assert all(line.startswith(("available: ", "not available: ")) for line in report.values())
    assert all(name in str(report) for name in report)


def test_unknown_isa_is_an_error(monkeypatch):
    message = "must be scalar, avx2 or avx512, not 'avx9'"
    monkeypatch.setenv("STMIXER_CPU_ISA", "avx9")
    with pytest.raises(RuntimeError, match=message):
        F.lif(X)
    assert message in so.backend_report()["cpu"]


def test_import_is_lazy():
    code = "import sys, stmixer_ops; stmixer_ops.Engine; print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"
    code = """if True:
        import sys, torch, stmixer_ops.functional
        stmixer_ops.functional.lif(torch.ones(2, 3, requires_grad=True)).sum().backward()
        print(sorted({"triton", "cupy"} & set(sys.modules)))"""
    assert run_python(code).splitlines()[-1] == "[]"


@pytest.mark.parametrize("missing", ["triton"])
def test_a_missing_package_is_the_reason(missing):
    code = f"""if True:
        import importlib.util, torch
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "{missing}" else find(name)
        import stmixer_ops as so
        print(so.backend_report()["{missing}"])
        so.functional.lif(torch.ones(2, 3), backend="{missing}")"""
    report, *_, error = run_python(code).splitlines()
    assert report == f"not available: the {missing} package is not installed"
    assert error.endswith(f"cannot run this call: the {missing} package is not installed")


def test_version_is_that_of_the_distribution():
    assert so.__version__ == importlib.metadata.version("stmixer-ops")


def test_every_public_name_is_there():
    missing = [name for name in so.__all__ if not hasattr(so, name)]
    assert missing == []
