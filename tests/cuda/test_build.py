"""STMIXER_CUDA=AUTO, ON and OFF, and what a machine without nvcc, GPU or CuPy is told."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from support import cuda_host
from support.paths import ROOT

import stmixer_ops as so
from stmixer_ops import _C
from stmixer_ops import functional as F
from stmixer_ops.ops import _cuda

PYBIND11 = """function(pybind11_add_module target type)
  add_library(${target} ${type} ${ARGN})
endfunction()
"""


def configure(
    folder: Path, option: str, python: str = "ON", **environment: str
) -> subprocess.CompletedProcess[str]:
    """CMake's first pass over the sources, with a stand-in for pybind11."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if cmake is None or not (ROOT / "CMakeLists.txt").is_file():
        pytest.skip("needs cmake and the sources")
    folder.mkdir(exist_ok=True)
    (folder / "pybind11Config.cmake").write_text(PYBIND11)
    command = [cmake, "-S", str(ROOT), "-B", str(folder), f"-DSTMIXER_PYTHON={python}"]
    command.append(f"-Dpybind11_DIR={folder}")
    return subprocess.run(
        [*command, f"-DSTMIXER_CUDA={option}"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture
def without_nvcc(tmp_path: Path) -> dict[str, str]:
    """An environment in which no CUDA compiler is found: one is named that does not work."""
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    broken.chmod(0o755)
    return {"CUDACXX": str(broken)}


@pytest.mark.compiles
def test_on_without_a_compiler_is_an_error_that_says_what_to_do(tmp_path, without_nvcc):
    done = configure(tmp_path / "build", "ON", **without_nvcc)
    assert done.returncode != 0
    told = " ".join(done.stderr.split())
    assert "STMIXER_CUDA=ON needs a working nvcc with its static runtime" in told
    assert "or use AUTO or OFF" in told


@pytest.mark.compiles
def test_auto_without_a_compiler_builds_without(tmp_path, without_nvcc):
    done = configure(tmp_path / "build", "AUTO", **without_nvcc)
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels built in: OFF (STMIXER_CUDA=AUTO)" in done.stdout


@pytest.mark.compiles
def test_off_does_not_look_for_a_compiler(tmp_path):
    done = configure(tmp_path / "build", "OFF")
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels built in: OFF (STMIXER_CUDA=OFF)" in done.stdout
    assert "CMAKE_CUDA_COMPILER" not in (tmp_path / "build" / "CMakeCache.txt").read_text()


@pytest.mark.compiles
def test_without_the_extension_nothing_is_looked_for(tmp_path):
    done = configure(tmp_path / "build", "AUTO", python="OFF")
    assert done.returncode == 0, done.stderr
    assert "CUDA" not in done.stdout
    assert "CUDA_COMPILER" not in (tmp_path / "build" / "CMakeCache.txt").read_text()
    done = configure(tmp_path / "build", "ON", python="OFF")
    assert done.returncode != 0
    assert "STMIXER_CUDA=ON needs STMIXER_PYTHON=ON" in done.stderr


@pytest.mark.compiles
def test_auto_with_a_compiler_builds_them_in(tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc on the PATH")
    done = configure(tmp_path / "build", "AUTO")
    assert done.returncode == 0, done.stderr
    assert "CUDA kernels built in: ON" in done.stdout


@pytest.mark.compiles
def test_other_values_are_refused(tmp_path):
    done = configure(tmp_path / "build", "MAYBE")
    assert done.returncode != 0
    assert "STMIXER_CUDA must be AUTO, ON or OFF, not 'MAYBE'" in done.stderr


def test_no_contraction_in_the_build():
    assert "-fmad=false" in (ROOT / "cmake" / "cuda.cmake").read_text()


def test_the_extension_needs_no_cuda_library():
    """The runtime is linked statically and looks for a driver at the first launch only."""
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    listing = subprocess.run(
        ["readelf", "-d", _C.__file__], capture_output=True, text=True, check=True
    ).stdout
    needed = [line for line in listing.splitlines() if "NEEDED" in line]
    assert needed
    assert not any(name in line for line in needed for name in ("cuda", "nvrtc", "cudart"))


def test_a_failed_launch_names_the_kernel_and_the_error():
    if not _C.CUDA_BUILT_IN:
        pytest.skip("no kernels were built in")
    if torch.cuda.is_available():
        pytest.skip("launches do not fail where there is a GPU")
    call = _C.PackRows(0, 1, 32, 0, 0)
    with pytest.raises(RuntimeError, match="pack_rows_f32: CUDA error cudaError"):
        call.cuda_run(0, 0, 0)


def test_report_says_which_way_or_why_neither(monkeypatch):
    monkeypatch.setattr(_cuda, "RUNTIME", "no kernels were built in, because")
    assert so.backend_report()["cuda"] == "not available: no kernels were built in, because"
    with pytest.raises(RuntimeError, match="lif: backend='cuda' cannot run this call: no kernels"):
        F.lif(torch.zeros(2, 3), backend="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(_cuda, "RUNTIME", cuda_host.EMULATED)
    assert so.backend_report()["cuda"] == "not available: no GPU (kernels compiled for the CPU)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert so.backend_report()["cuda"] == "available: kernels compiled for the CPU, on a GPU"


@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize("cupy", [True, False])
@pytest.mark.parametrize("version", ["13.0", None])
def test_which_runtime(monkeypatch, built_in, cupy, version):
    monkeypatch.setattr(_C, "CUDA_BUILT_IN", built_in)
    monkeypatch.setattr(torch.version, "cuda", version)
    found = importlib.machinery.ModuleSpec("cupy", None) if cupy else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    runtime = _cuda._find()
    if built_in:
        assert isinstance(runtime, _cuda.Runtime)
        assert runtime.name == "kernels built in"
    elif version is None:
        assert runtime == "no kernels were built in, and this PyTorch is not one for CUDA"
    elif cupy:
        assert isinstance(runtime, _cuda.Runtime)
        assert "NVRTC" in runtime.name
    else:
        assert isinstance(runtime, str)
        assert "CuPy, whose NVRTC compiles them, is not installed" in runtime


class Place:
    """What CuPy's Device and ExternalStream are here: something to be inside of."""

    entered: tuple[tuple[int, ...], ...] = ()

    def __init__(self, *which: int) -> None:
        self.which = which

    def __enter__(self) -> None:
        Place.entered += (self.which,)

    def __exit__(self, *error: object) -> None:
        pass


class Kernel:
    """CuPy's RawKernel, with the kernel compiled for the CPU in its place."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_dynamic_shared_size_bytes = 0

    def __call__(self, grid, block, args, *, shared_mem):
        ((blocks,), (threads,), (plain,)) = grid, block, args
        assert (threads, plain.size) == (128, 1)  # CuPy passes arrays of one element by value
        assert shared_mem <= max(self.max_dynamic_shared_size_bytes, 48 << 10)
        if self.name.startswith("unpack"):
            raise ValueError("the compiler says no")
        library = cuda_host.library()
        assert library.run_kernel(self.name.encode(), blocks, shared_mem, plain.tobytes()) == 0


class Module:
    def __init__(self, code, options):
        assert "-fmad=false" in options
        self.code = code

    def get_function(self, name):
        assert name.rsplit("_", 1)[0].removesuffix("_bf16") in self.code
        return Kernel(name)


@pytest.mark.compiles
def test_launches_by_cupy(monkeypatch):
    """All but CuPy itself: files, names, options, stream, parameters by value, shared memory."""
    cuda_host.library()
    cuda = types.SimpleNamespace(Device=Place, ExternalStream=Place)
    cupy = types.SimpleNamespace(RawModule=Module, cuda=cuda)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_cuda, "RUNTIME", _cuda.Runtime("CuPy", "cpu", _cuda._launch_with_cupy))
    stream = types.SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    x = torch.randn(32, 5, 64).bfloat16()
    results = []
    try:
        for backend in ("cuda", "cpu"):
            leaf = x.detach().requires_grad_()
            s = F.lif(leaf, backend=backend)
            results.append([s, torch.autograd.grad(s.sum(), leaf)[0]])
        with pytest.raises(RuntimeError, match="unpack_rows_f32: the compiler says no"):
            F.unpack_spikes(torch.zeros(2, 1, dtype=torch.int32), 32, backend="cuda")
    finally:
        _cuda._module.cache_clear()
        _cuda._kernel.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert (77, None) in Place.entered
