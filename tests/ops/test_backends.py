"""Choice of backend, its report, and the rules of the house: who may import whom."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import stmixer_ops as so
from stmixer_ops import functional as F
from stmixer_ops.ops import _obstacles

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


# -- A checkout without a built extension ---------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A folder with the sources of the package alone, and how to run Python there."""
    shutil.copytree(
        PACKAGE, tmp_path / "stmixer_ops", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pyc*")
    )

    def run(code: str) -> tuple[str, str]:
        path = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            check=True,
        )
        return done.stdout.strip(), done.stderr

    return run


def test_an_unbuilt_checkout_leaves_the_place_to_the_installed_package(checkout):
    code = """if True:
        import stmixer_ops, stmixer_ops.functional as F, torch, stmixer_ops._extension as e
        F.lif(torch.ones(2, 3), backend="cpu")
        import stmixer_ops._lazy as lazy
        print(stmixer_ops.__file__, F.__file__, e.__file__, lazy.__file__, sep="\\n")"""
    files, said = checkout(code)
    assert {str(Path(f).parent) for f in files.splitlines()} == {str(PACKAGE)}
    assert said.count("has no built extension; this is the installed") == 1


def test_an_unbuilt_checkout_alone_says_once_that_it_has_no_kernels(checkout):
    code = """if True:
        import os, sys
        sys.path[:1] = [os.devnull, os.getcwd()]  # found, but not because Python was started here
        import torch, stmixer_ops as so
        assert os.path.samefile(os.path.dirname(os.path.dirname(so.__file__)), os.getcwd())
        for op in (so.functional.lif, so.functional.pack_spikes, so.functional.lif):
            op(torch.ones(2, 3))
        try:
            so.functional.lif(torch.ones(2, 3), backend="cpu")
        except RuntimeError as error:
            print(error)
        from stmixer_ops.graph import Graph
        try:
            so.Engine(Graph())
        except RuntimeError as error:
            print(error)"""
    refused, said = checkout(code)
    ops, engine = refused.splitlines()
    reason = "the extension module did not load (cannot import name '_C'"
    assert reason in ops and engine.startswith(f"stmixer_ops: {reason}")
    assert said.count("all ops run in plain PyTorch") == said.count(reason) == 1


@pytest.mark.parametrize(
    ("version", "refused"),
    [("3.2.0", True), ("2.3.1", True), ("3.3.0", False), ("3.10.0+git1", False), ("4.0", False)],
)
def test_a_triton_older_than_the_oldest_tested_is_an_obstacle(version, refused, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    reason = _obstacles.triton_obstacle()
    assert (reason is not None) == refused
    assert not refused or reason.startswith(f"triton {version} is older than 3.3 (torch 2.7)")
