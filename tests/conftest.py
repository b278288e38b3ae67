"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

from support.paths import SHARED
import pytest
import torch

# Triton decides when it is imported whether it compiles or interprets.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from stmixer_ops.ops import backend_report
from stmixer_ops.ops._obstacles import OBSTACLES

ISAS = ("scalar", "avx2", "avx512")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _choose_isa(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from stmixer_ops import _C

    if name not in _C.cpu_isas():
        pytest.skip(f"this machine has no {name}: {backend_report()['cpu']}")
    monkeypatch.setenv("STMIXER_CPU_ISA", name)
    assert _C.cpu_isa() == name


def _require(backend: str) -> str:
    """``backend``, if it runs on the CPU, where the tests' tensors are."""
    reason = OBSTACLES[backend](torch.empty(0)) if backend in OBSTACLES else None
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    return backend


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once per instruction set of this machine."""
    _choose_isa(request.param, monkeypatch)
    return request.param


@pytest.fixture(params=("reference", "cpu", "triton"), scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """Runs a test once per backend that takes CPU tensors."""
    return _require(request.param)


@pytest.fixture(params=(*ISAS, "triton"))
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once per build of the kernels; the name of their backend."""
    if request.param in ISAS:
        _choose_isa(request.param, monkeypatch)
        return "cpu"
    return _require(request.param)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data sets, if there is one."""
    for folder in (os.environ.get("STMIXER_DATA"), SHARED / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no larger data: STMIXER_DATA names no folder")
