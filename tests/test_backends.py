"""Choice of backend, its report, and the rules of the house: who may import whom."""

from __future__ import annotations

import ast
import importlib.metadata
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

PACKAGE = Path(so.__file__).parent
SOURCE = Path(__file__).parents[1]
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


# -- Who imports whom -----------------------------------------------------------------------------

# A room may import the rooms after it. Only the engine's export looks at nn and models, and nothing
# in the engine loads it before a model is compiled (test_import_is_lazy).
ROOMS = ["cli", "train", "data", "engine", "models", "nn", "functional", "ops", "surrogate"]
ALLOWED = {
    "cli": {"train", "data", "engine", "models", "nn", "functional", "ops"},
    "train": {"data", "models", "nn", "functional"},
    "data": set(),
    "engine": set(),
    "models": {"nn", "functional", "surrogate"},
    "nn": {"functional", "ops", "surrogate"},
    "functional": {"ops", "surrogate"},
    "ops": {"surrogate"},
    "surrogate": set(),
}


def imports(path: Path) -> set[str]:
    """Rooms of this package that a file imports, anywhere in it."""
    package = ["stmixer_ops", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            target = [*base, *(node.module or "").split(".")]
            names = [[*target, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for name in names:
            name = [part for part in name if part]
            if name[0] == "stmixer_ops" and len(name) > 1:
                found.add(name[1])
    return found & set(ROOMS)


def package_files() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE or p.stem in ROOMS]


@pytest.mark.parametrize("path", package_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[room] | {room}
    if path.parent.name == "engine" and path.stem == "export":
        allowed |= {"nn", "models"}
    assert imports(path) <= allowed


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.glob("ops/*/reference.py")), ids=lambda p: p.parent.name
)
def test_references_import_only_torch(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= {"torch"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert (node.module or "").split(".")[0] in {"torch", "__future__"}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[-1], *(alias.name for alias in node.names)}
            assert names & {"reference", "spec"}, f"{path}: {names}"


@pytest.mark.parametrize("backend", ["cpu", "triton", "cuda"])
def test_launchers_never_import_each_others_backend(backend):
    others = {"cpu", "triton", "cuda", "op"} - {backend}
    for path in PACKAGE.glob(f"ops/*/{backend}.py"):
        modules = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert modules.isdisjoint(others), path


def c_sources() -> list[Path]:
    folder = SOURCE / "csrc"
    if not folder.is_dir():
        pytest.skip("the C++ sources are not beside the tests")
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp", ".cu"})


def test_csrc_knows_neither_python_nor_torch():
    for path in c_sources():
        for line in path.read_text().splitlines():
            if line.startswith("#include"):
                assert not any(
                    word in line.lower() for word in ("python", "torch", "pybind", "aten")
                )


def test_no_file_is_too_long():
    files = [*PACKAGE.rglob("*.py"), *c_sources()]
    assert {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 420} == {}


ISA_FLAGS = [
    "-mavx2",
    "-mbmi",
    "-mbmi2",
    "-mlzcnt",
    "-mpopcnt",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
]


@pytest.mark.parametrize("kernel", ["cpu", "engine"])
def test_kernel_objects_export_one_table_and_nothing_weak(kernel, tmp_path):
    """A weak function compiled for AVX-512 could be the copy the linker keeps for everyone."""
    compiler = shutil.which("g++")
    if compiler is None or os.uname().machine != "x86_64":
        pytest.skip("needs g++ on x86-64")
    for source in [p for p in c_sources() if p.name.endswith("_kernel.cpp")]:
        if source.parent.name != kernel:
            continue
        built = tmp_path / f"{source.stem}.o"
        subprocess.run(
            [
                compiler,
                "-std=c++17",
                "-O1",
                "-fPIC",
                "-fno-exceptions",
                "-ffp-contract=off",
                *ISA_FLAGS,
                "-DSTMIXER_X86=1",
                "-DSTMIXER_ISA=avx512",
                f"-I{SOURCE}/csrc",
                f"-I{SOURCE}/csrc/include",
                "-c",
                str(source),
                "-o",
                str(built),
            ],
            check=True,
        )
        symbols = subprocess.run(
            ["nm", "--defined-only", "--extern-only", str(built)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\n")
        exported = [line.split()[1:] for line in symbols if line.strip()]
        assert len(exported) == 1, exported
        assert exported[0][0] in {"D", "R"}
