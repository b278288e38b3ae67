"""Fixtures every test may use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from support import pairs
from support.paths import SHARED

# A test has one thread, unless it is about threads and sets another number: several run at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

# Triton decides when it is imported whether it compiles or interprets.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from stmixer_ops.ops import backend_report
from stmixer_ops.ops._obstacles import OBSTACLES

ISAS = ("scalar", "avx2", "avx512")
INDIRECT = {"isa", "backend", "kernels", "device"}
"""Fixtures that take their parameter from an axis of ``@pairwise``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="whole products instead of pairs, and what is marked `full`",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes ``@pairwise`` a ``parametrize``, as which it goes before the fixtures' own values."""
    for mark in metafunc.definition.iter_markers("pairwise"):
        axes, allowed = mark.args
        rows = pairs.product(axes, allowed)
        if not metafunc.config.getoption("--full"):
            rows = pairs.covering(rows)
        ids = ["-".join(map(pairs.label, row)) for row in rows]
        indirect = [name for name in axes if name in INDIRECT]
        parametrize = pytest.mark.parametrize(list(axes), rows, ids=ids, indirect=indirect)
        metafunc.definition.add_marker(parametrize)


def together(item: pytest.Item) -> str | None:
    """The file of a test, if it has a fixture that is made once per file: one worker makes it."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    scopes = {definition[-1].scope for definition in definitions if definition}
    return item.nodeid.split("::")[0] if "module" in scopes else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        left_out = [item for item in items if item.get_closest_marker("full")]
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        values = getattr(getattr(item, "callspec", None), "params", {}).values()
        if any(isinstance(value, str) and value == "triton" for value in values):
            item.add_marker(pytest.mark.interprets)
        group = together(item)
        if group and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _alike() -> Iterator[None]:
    """Every test begins with the same seed and the same number of threads."""
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


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


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether everything is asked for."""
    return request.config.getoption("--full")


@pytest.fixture
def same_bits_everywhere(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A call whose tensors must not depend on the instruction set or the number of threads."""

    def check(
        call: Callable[[], Iterable[torch.Tensor]], isas: Iterable[str] | None = None
    ) -> None:
        from stmixer_ops import _C

        expected: list[torch.Tensor] = []
        for isa, threads in itertools.product(isas or _C.cpu_isas(), (1, 2, 3)):
            monkeypatch.setenv("STMIXER_CPU_ISA", isa)
            torch.set_num_threads(threads)
            results = list(call())
            expected = expected or results
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))

    return check


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
