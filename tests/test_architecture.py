"""What the code may not do: import upwards, grow too long, export more than a table."""

from __future__ import annotations

import ast
import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.cpp_build import built
from support.paths import ROOT

import stmixer_ops as so

PACKAGE = Path(so.__file__).parent

# -- Who imports whom -----------------------------------------------------------------------------

# A room may import those named here; nothing in the graph loads nn or models before a model is
# compiled (test_import_is_lazy).
ALLOWED = {
    "cli": {
        "bench",
        "chips",
        "measure",
        "train",
        "data",
        "engine",
        "events",
        "graph",
        "models",
        "nn",
        "ops",
    },
    "bench": {
        "measure",
        "exchange",
        "train",
        "data",
        "engine",
        "events",
        "graph",
        "models",
        "nn",
    },
    "exchange": {"graph", "models", "nn"},
    "chips": {"graph", "train", "models", "nn"},
    "measure": {"engine", "nn", "ops"},
    "train": {"data", "models", "nn", "functional"},
    "data": {"events"},
    "engine": {"graph"},
    "events": {"engine", "graph"},
    "graph": set(),
    "models": {"nn", "functional", "surrogate"},
    "nn": {"functional", "ops", "surrogate"},
    "functional": {"ops", "surrogate"},
    "ops": {"surrogate"},
    "surrogate": set(),
}
ROOMS = list(ALLOWED)
# Files that import nothing of this package: every room may.
LEAVES = {"measure.energy", "measure.table", "measure.statistics"}
# Files that look further up than their room.
EXCEPTIONS = {f"graph/export{part}.py": {"nn", "models"} for part in ("", "_parts", "_spikformer")}


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
            if name[0] == "stmixer_ops" and ".".join(name[1:3]) not in LEAVES:
                found.update(name[1:2])
    return found & set(ROOMS)


def package_files() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE or p.stem in ROOMS]


@pytest.mark.parametrize("path", package_files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ALLOWED[room] | {room} | EXCEPTIONS.get(str(path.relative_to(PACKAGE)), set())
    assert imports(path) <= allowed


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_nothing(leaf):
    assert imports(PACKAGE / f"{leaf.replace('.', '/')}.py") == set()


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
    folder = ROOT / "csrc"
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


# The same of csrc: a room includes its own headers and those of these rooms.
INCLUDED = {
    "include": set(),
    "common": set(),
    "graph": {"common"},
    "cpu": {"common"},
    "cuda": {"common"},
    "engine": {"common", "graph"},
    "events": {"common", "graph"},
}


def test_includes_point_one_way():
    for path in c_sources():
        room = path.relative_to(ROOT / "csrc").parts[0]
        includes = re.findall(r'#include "(\w+)/(\w+)', path.read_text())
        rooms = {folder for folder, _ in includes} - {"stmixer"}
        assert rooms <= INCLUDED[room] | {room}, path
        assert ("stmixer", "engine") not in includes or room in {"engine", "include"}, path


def test_no_file_is_too_long():
    files = [*PACKAGE.rglob("*.py"), *c_sources()]
    assert {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 420} == {}


# -- What objects offer to the linker -------------------------------------------------------------


@pytest.mark.compiles
@pytest.mark.parametrize("folder", ["cpu", "engine"])
def test_kernel_objects_export_one_table_and_nothing_weak(folder):
    """Read from the objects of the build, so that flags are the build's own.

    A weak symbol (an inline function, say) of an AVX-512 object could be the copy that the linker
    keeps for everyone, and run where the instructions do not exist.
    """
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    kernels = {p.stem for p in c_sources() if p.match(f"{folder}/*_kernel.cpp")}
    objects = [
        (path, path.parts[path.parts.index("CMakeFiles") + 1].removesuffix(".dir").split("_")[-1])
        for path in built("stmixer").rglob(f"csrc/{folder}/*_kernel.cpp.o")
    ]
    isas = {isa for _, isa in objects}
    assert "scalar" in isas
    assert {(path.name.split(".")[0], isa) for path, isa in objects} == set(
        itertools.product(kernels, isas)
    )
    for path, isa in objects:
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", path], capture_output=True, text=True, check=True
        ).stdout
        symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
        exported = [(kind, name) for kind, name in symbols if kind.isupper()]
        assert len(exported) == 1, (path, exported)
        assert exported[0][1].endswith(f"_kernels_{isa}"), (path, exported)
        assert exported[0][0] in "DRB", (path, exported)
        assert not [name for kind, name in symbols if kind in "vwVWu"], path
