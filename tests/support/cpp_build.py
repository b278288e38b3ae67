"""The C++ library and the tests' own programs, built once for all tests under ``build/tests``.

Configured like a release without Python. Builds are incremental; workers wait for each other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock
from support.paths import ROOT

FOLDER = ROOT / "build" / "tests"
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "STMIXER_PYTHON": "OFF",
    "STMIXER_CUDA": "OFF",
    "STMIXER_EXAMPLES": "ON",
    "STMIXER_TESTS": "ON",
}


def cmake() -> str:
    """The program, of the environment or of the machine."""
    found = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None or not (ROOT / "CMakeLists.txt").is_file():
        pytest.skip("needs cmake and the sources")
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


@cache
def built(target: str) -> Path:
    """Builds one target; the folder of the build."""
    program, compiler = cmake(), os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"needs a C++ compiler: there is no {compiler}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / "lock"):
        options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
        _run(program, "-S", str(ROOT), "-B", str(FOLDER), *options)
        jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        _run(program, "--build", str(FOLDER), "--target", target, "-j", jobs)
    return FOLDER
