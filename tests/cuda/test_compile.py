"""The CUDA sources compile with nvcc and with NVRTC, into kernels that do not spill and do not
contract. No GPU is needed, nor a driver."""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from support.kept import keep
from support.pairs import in_full

from stmixer_ops import _C
from stmixer_ops.ops import _cuda

FILES = ["lif.cu", "bn_lif.cu", "pack.cu"]
ARCHITECTURES = ["90", *in_full(("80",))]
# Blocks of 128 threads that fit on a multiprocessor, by its 65,536 registers.
BLOCKS = {"forward_(bf16|f16)": 4, "bn_lif_backward_(bf16|f16)_4": 3, "bn_statistics_(bf16|f16)": 6}
FUSED = r"\bfma\.\S+|\bmad\S*\.f\d+"


pytestmark = pytest.mark.compiles


def nvcc_command(*options: str) -> list[str]:
    """nvcc with the options of cmake/cuda.cmake on the installed sources."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on the PATH")
    folder = _cuda.sources()
    return [nvcc, "-std=c++17", f"-I{folder}", f"-I{folder}/include", *options]


def files_of(source: Path) -> set[Path]:
    """A source and every header of ours that it includes, directly or not."""
    found: set[Path] = set()
    new = {source}
    while new:
        found |= new
        names = {n for path in new for n in re.findall(r'#include "(.*)"', path.read_text())}
        roots = (_cuda.sources(), _cuda.sources() / "include")
        new = {root / name for name in names for root in roots if (root / name).is_file()} - found
    return found


@cache
def compiled(file: str, architecture: str) -> tuple[str, str]:
    """What ptxas says of a file's kernels, and their PTX."""
    source = _cuda.sources() / "cuda" / file
    command = nvcc_command("-fmad=false", f"-arch=sm_{architecture}", "-Xptxas=-v", str(source))

    def make() -> tuple[list[str], set[Path]]:
        with tempfile.TemporaryDirectory() as folder:
            outputs = ["--keep", f"--keep-dir={folder}", "-cubin", "-o", f"{folder}/{file}.cubin"]
            done = subprocess.run([*command, *outputs], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            ptx = (Path(folder) / f"{source.stem}.ptx").read_text()
        return [done.stderr, ptx], files_of(source)

    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, check=True)
    report, ptx = keep("nvcc", [command, version.stdout], make)
    return report, ptx


def planned_kernels(file: str) -> set[str]:
    """Every name that plans use of a file."""
    neuron = _C.Neuron(1.0, 0.5, True, False, 0, 2.5)
    calls = []
    for dtype in range(4):
        calls.append(_C.LifForward(dtype, 4, 64, 64, neuron, *[0] * 5))
        calls += [_C.LifBackward(dtype, steps, 64, 64, neuron, *[0] * 6) for steps in (4, 8)]
        calls.append(
            _C.BnLifForward(dtype, 4, 64, 64, 0, 8, 1, neuron, 1e-5, *[0] * 4, True, *[0] * 7)
        )
        calls += [
            _C.BnLifBackward(dtype, steps, 64, 64, 8, 1, neuron, 1e-5, *[0] * 4, True, *[0] * 11)
            for steps in (4, 8, 9)
        ]
        calls += [_C.PackRows(dtype, 2, 64, 0, 0), _C.UnpackRows(dtype, 2, 64, 0, 0)]
    return {launch[1] for call in calls for launch in call.cuda_plan(0) if launch[0] == file}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_nvcc(file, architecture):
    report, _ = compiled(file, architecture)
    found = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    assert {name for name, *_ in found} == planned_kernels(file)
    for name, stores, loads, registers in found:
        assert (int(stores), int(loads)) == (0, 0), f"{name}: {stores}, {loads}"
        blocks = max([2, *(n for pattern, n in BLOCKS.items() if re.search(pattern, name))])
        # Registers are handed out to a warp 256 at a time.
        assert -(-int(registers) // 8) * 8 * 128 * blocks <= 65536, f"{name}: {registers} registers"
    assert "warning" not in report


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_contracted(file):
    """-fmad=false leaves no fused multiply-add of numbers in the PTX; integers may have theirs."""
    _, ptx = compiled(file, "90")
    assert re.findall(FUSED, ptx) == []
    if file != "pack.cu":
        assert re.search(r"\bmul\.(rn\.)?f32", ptx)


def test_nothing_is_added_atomically():
    assert all("atom." not in compiled(file, "90")[1] for file in FILES)


CHARGE = """
#include "stmixer/lif_step.h"
extern "C" __global__ void charge(float* v, float x) { *v = stmixer::lif_charge(*v, x, 0.9f); }
"""


@pytest.mark.parametrize("contracted", [True, False])
def test_contraction_would_be_seen(contracted, tmp_path):
    """The search above finds what -fmad=false prevents."""
    source, built = tmp_path / "charge.cu", tmp_path / "charge.ptx"
    source.write_text(CHARGE)
    options = [] if contracted else ["-fmad=false"]
    command = nvcc_command(*options, "-arch=sm_90", "-ptx", "-o", str(built), str(source))
    subprocess.run(command, check=True)
    assert bool(re.search(FUSED, built.read_text())) == contracted


@pytest.mark.parametrize("file", FILES)
def test_rows_are_read_16_bytes_at_a_time(file):
    _, ptx = compiled(file, "90")
    assert re.search(r"\bld(\.global)?\.v4\.[bu]32", ptx)
    assert re.search(r"\bst(\.global)?\.v4\.[bu]32", ptx) or file == "pack.cu"


# -- NVRTC ----------------------------------------------------------------------------------------


def nvrtc_paths() -> list[str]:
    """Libraries beside nvcc, and of the packages that PyTorch for CUDA brings along."""
    nvcc = shutil.which("nvcc")
    folders = [Path(os.path.realpath(nvcc)).parents[1] / "lib64"] if nvcc else []
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += [Path(p) for p in glob.glob(f"{root}/*/lib")]
    return [p for folder in folders for p in glob.glob(f"{folder}/libnvrtc.so*")]


@cache
def nvrtc() -> ctypes.CDLL:
    for path in nvrtc_paths():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    pytest.skip("there is no libnvrtc: neither beside nvcc nor in an nvidia package")


def compile_with_nvrtc(source: Path, options: list[str]) -> bytes:
    """The cubin."""
    library, program = nvrtc(), ctypes.c_void_p()
    code, name = source.read_bytes(), source.name.encode()
    created = library.nvrtcCreateProgram(ctypes.byref(program), code, name, 0, None, None)
    assert created == 0
    texts = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    result = library.nvrtcCompileProgram(program, len(options), texts)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    assert result == 0, log.value.decode()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    cubin = ctypes.create_string_buffer(size.value)
    library.nvrtcGetCUBIN(program, cubin)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin.raw


@pytest.mark.parametrize("file", FILES)
def test_nvrtc(file):
    """The way of CuPy: the installed sources, the same options, no standard library."""
    source = _cuda.sources() / "cuda" / file
    options = [*_cuda.compiler_options(), "--gpu-architecture=sm_90"]
    version = (ctypes.c_int * 2)()
    assert nvrtc().nvrtcVersion(version, ctypes.byref(version, ctypes.sizeof(ctypes.c_int))) == 0

    def make() -> tuple[list[str], set[Path]]:
        cubin = compile_with_nvrtc(source, options)
        return re.findall(r"\w{8,}", cubin.decode("latin-1")), files_of(source)

    names = keep("nvrtc", [file, options, list(version)], make)
    assert any(names) and all(any(k in name for name in names) for k in planned_kernels(file))


# -- Sources --------------------------------------------------------------------------------------


def test_sources_include_nothing_of_a_toolkit():
    """Only each other: what NVRTC is given is all there is. The host's headers are guarded."""
    files = [p for p in _cuda.sources().rglob("*") if p.suffix in {".h", ".cu"}]
    device = [p for p in files if p.name not in {"launch.h", "launches.h"}]
    assert len(device) >= 15
    for path in device:
        for included in re.findall(r'#include ([<"].*[>"])', path.read_text()):
            inside = included.strip('"')
            there = [(_cuda.sources() / part / inside).is_file() for part in (".", "include")]
            assert any(there) or path.name == "portable.h", f"{path.name}: {included}"
