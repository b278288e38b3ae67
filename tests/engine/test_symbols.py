"""What the per-ISA objects of the engine offer to the linker: one table each, and nothing weak.

A weak symbol (an inline function, say) of an AVX-512 object could replace that of another object
and run where the instructions do not exist.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from support.paths import ROOT
import pytest

KERNELS = sorted((ROOT / "csrc" / "engine").glob("*_kernel.cpp"))


def flags(isa: str) -> list[str]:
    """The compiler flags of the build for one instruction set, read from its recipe."""
    text = (ROOT / "cmake" / "isa.cmake").read_text()
    variables: dict[str, str] = {}
    for name, value in re.findall(r"set\((flags_\w+)\s+([^)]*)\)", text):
        variables[name] = re.sub(r"\$\{(\w+)\}", lambda m: variables[m[1]], value.strip('"'))
    common = re.search(r"(-O3 [^$]*)\$\{flags_", text)
    assert common, "cmake/isa.cmake is written differently now"
    return [*common[1].split(), *variables[f"flags_{isa}"].split()]


@pytest.mark.skipif(not KERNELS, reason="needs the sources")
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_objects_export_one_table_each(isa: str, tmp_path: Path) -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None or shutil.which("nm") is None:
        pytest.skip(f"needs {compiler} and nm")
    machine = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True).stdout
    if isa != "scalar" and not machine.startswith("x86_64"):
        pytest.skip(f"{machine.strip()} has no {isa}")
    options = [
        "-std=c++17",
        "-Icsrc",
        "-Icsrc/include",
        "-ffp-contract=off",
        f"-DSTMIXER_ISA={isa}",
    ]
    for source in KERNELS:
        target = tmp_path / f"{source.stem}.o"
        command = [compiler, *options, *flags(isa), "-c", str(source), "-o", str(target)]
        subprocess.run(command, cwd=ROOT, check=True)
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", target], capture_output=True, text=True, check=True
        ).stdout
        symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines()]
        exported = [(kind, name) for kind, name in symbols if kind.isupper()]
        assert len(exported) == 1, exported
        assert exported[0][1].endswith(f"_kernels_{isa}")
        assert exported[0][0] in "DRB", exported
        assert not [name for kind, name in symbols if kind in "vwVWu"]
