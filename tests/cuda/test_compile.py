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
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

from stmixer_ops import _C
from stmixer_ops.ops import _cuda

FILES = ["lif.cu", "bn_lif.cu", "pack.cu"]
ARCHITECTURES = ["80", "90"]
# Blocks of 128 threads that fit on a multiprocessor, by its 65,536 registers.
BLOCKS = {"forward_(bf16|f16)": 4, "bn_lif_backward_(bf16|f16)_4": 3, "bn_statistics_(bf16|f16)": 6}
FUSED = r"\bfma\.\S+|\bmad\S*\.f\d+"


def nvcc_command(*options: str) -> list[str]:
    """nvcc with the options of cmake/cuda.cmake on the installed sources."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc on the PATH")
    folder = _cuda.sources()
    return [nvcc, "-std=c++17", f"-I{folder}", f"-I{folder}/include", *options]


def compile_one(file: str, architecture: str, folder: Path) -> tuple[str, str]:
    kept = folder / architecture
    kept.mkdir(exist_ok=True)
    command = nvcc_command("-fmad=false", f"-arch=sm_{architecture}", "-Xptxas=-v")
    command += ["--keep", f"--keep-dir={kept}", "-cubin", "-o", str(kept / f"{file}.cubin")]
    command.append(str(_cuda.sources() / "cuda" / file))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, (kept / f"{Path(file).stem}.ptx").read_text()


@cache
def compiled(file: str, folder: Path) -> dict[str, tuple[str, str]]:
    """By architecture, what ptxas says of a file's kernels, and their PTX. Both at once: for the
    largest file one takes a quarter of a minute."""
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda one: compile_one(file, one, folder), ARCHITECTURES)
        return dict(zip(ARCHITECTURES, results, strict=True))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda")


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
def test_nvcc(file, architecture, folder):
    report, _ = compiled(file, folder)[architecture]
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
def test_nothing_is_contracted(file, folder):
    """-fmad=false leaves no fused multiply-add of numbers in the PTX; integers may have theirs."""
    _, ptx = compiled(file, folder)["90"]
    assert re.findall(FUSED, ptx) == []
    if file != "pack.cu":
        assert re.search(r"\bmul\.(rn\.)?f32", ptx)


def test_nothing_is_added_atomically(folder):
    assert all("atom." not in compiled(file, folder)["90"][1] for file in FILES)


CHARGE = """
#include "stmixer/lif_step.h"
extern "C" __global__ void charge(float* v, float x) { *v = stmixer::lif_charge(*v, x, 0.9f); }
"""


@pytest.mark.parametrize("contracted", [True, False])
def test_contraction_would_be_seen(contracted, folder):
    """The search above finds what -fmad=false prevents."""
    source, built = folder / "charge.cu", folder / "charge.ptx"
    source.write_text(CHARGE)
    options = [] if contracted else ["-fmad=false"]
    command = nvcc_command(*options, "-arch=sm_90", "-ptx", "-o", str(built), str(source))
    subprocess.run(command, check=True)
    assert bool(re.search(FUSED, built.read_text())) == contracted


@pytest.mark.parametrize("file", FILES)
def test_rows_are_read_16_bytes_at_a_time(file, folder):
    _, ptx = compiled(file, folder)["90"]
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


@pytest.mark.parametrize("file", FILES)
def test_nvrtc(file):
    """The way of CuPy: the installed sources, the same options, no standard library."""
    library, sources = nvrtc(), _cuda.sources()
    program = ctypes.c_void_p()
    code = (sources / "cuda" / file).read_text().encode()
    created = library.nvrtcCreateProgram(ctypes.byref(program), code, file.encode(), 0, None, None)
    assert created == 0
    options = [*_cuda.compiler_options(), "--gpu-architecture=sm_90"]
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
    assert all(name.encode() in cubin.raw for name in planned_kernels(file))


# -- Sources --------------------------------------------------------------------------------------


def test_sources_include_nothing_of_a_toolkit():
    """Only each other: what NVRTC is given is all there is. The host's headers are guarded."""
    files = [p for p in _cuda.sources().rglob("*") if p.suffix in {".h", ".cu"}]
    device = [p for p in files if p.name not in {"launch.h", "plan.h"}]
    assert len(device) >= 15
    for path in device:
        for included in re.findall(r'#include ([<"].*[>"])', path.read_text()):
            inside = included.strip('"')
            there = [(_cuda.sources() / part / inside).is_file() for part in (".", "include")]
            assert any(there) or path.name == "portable.h", f"{path.name}: {included}"
