"""The C++ libraries as another project finds them: installed, find_package, pkg-config."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.cpp_build import built, cmake
from support.paths import ROOT

pytestmark = [pytest.mark.compiles, pytest.mark.full]

PROJECT = """cmake_minimum_required(VERSION 3.18)
project(consumer LANGUAGES CXX)
find_package(stmixer 0.1 REQUIRED)
foreach(library engine stmixer)
  add_executable(with_${library} main.cpp)
  target_link_libraries(with_${library} stmixer::${library})
endforeach()
"""

MAIN = """#include <cstdio>
#include "stmixer/engine.h"
#include "stmixer/version.h"
int main() {
  try {
    stmixer::engine::load_graph("nothing.stmx");
  } catch (const std::exception& error) {
    std::printf("%s: %s\\n", STMIXER_VERSION, error.what());
  }
}
"""


def _run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    _run(cmake(), "--install", built("stmixer"), "--prefix", folder)
    return folder


def test_another_project_finds_the_libraries(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "main.cpp").write_text(MAIN)
    build = tmp_path / "build"
    _run(cmake(), "-S", tmp_path, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}")
    _run(cmake(), "--build", build)
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    for program in ("with_engine", "with_stmixer"):
        assert _run(build / program).startswith(f"{version[1]}: cannot read nothing.stmx")


def test_pkg_config_knows_the_engine(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    (found,) = prefix.rglob("stmixer.pc")
    environment = {**os.environ, "PKG_CONFIG_PATH": str(found.parent)}
    flags = _run("pkg-config", "--cflags", "--libs", "stmixer", env=environment).split()
    (tmp_path / "main.cpp").write_text(MAIN)
    program, compiler = tmp_path / "program", os.environ.get("CXX", "c++")
    _run(compiler, "-std=c++17", tmp_path / "main.cpp", "-o", program, *flags)
    assert "cannot read nothing.stmx" in _run(program)


def test_shared_libraries_are_refused(tmp_path: Path) -> None:
    command = [cmake(), "-S", ROOT, "-B", tmp_path, "-DBUILD_SHARED_LIBS=ON"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "static only, but BUILD_SHARED_LIBS is set" in " ".join(done.stderr.split())
