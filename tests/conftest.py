"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from stmixer_ops.ops import backend_report

ISAS = ("scalar", "avx2", "avx512")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once per instruction set of this machine."""
    from stmixer_ops import _C

    if request.param not in _C.cpu_isas():
        pytest.skip(f"this machine has no {request.param}: {backend_report()['cpu']}")
    monkeypatch.setenv("STMIXER_CPU_ISA", request.param)
    assert _C.cpu_isa() == request.param
    return request.param


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of larger data sets, if there is one."""
    for folder in (os.environ.get("STMIXER_DATA"), Path(__file__).parents[2] / "shared" / "data"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    pytest.skip("no larger data: STMIXER_DATA names no folder")
