"""The CUDA kernels: built into the extension, or compiled from the same sources by CuPy's NVRTC.

Either way the extension plans the launches: which kernel, how many blocks, which parameters.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import _native


@dataclass(frozen=True)
class Runtime:
    """Who compiled the kernels, the type of device they run on, and what launches them: a function
    of the parameters, the address of the scratch memory and the device."""

    name: str
    device: str
    launch: Callable[[Any, int, torch.device], None]


def run(parameters: Any, device: torch.device) -> None:
    """On a GPU: on PyTorch's current stream."""
    assert isinstance(RUNTIME, Runtime)
    num_bytes = parameters.cuda_scratch_bytes()
    scratch = torch.empty(num_bytes, dtype=torch.uint8, device=device) if num_bytes else None
    RUNTIME.launch(parameters, _native.address(scratch), device)


def _launch_built_in(parameters: Any, scratch: int, device: torch.device) -> None:
    stream = torch.cuda.current_stream(device).cuda_stream
    parameters.cuda_run(scratch, device.index, stream)


# -- NVRTC ----------------------------------------------------------------------------------------


def sources() -> Path:
    """The folder of the sources that were installed beside the extension."""
    return Path(str(_native.extension().__file__)).parent / "csrc"


def compiler_options() -> tuple[str, ...]:
    """No contraction, as in the build; headers also declare functions of the host."""
    includes = (f"-I{folder}" for folder in (sources(), sources() / "include"))
    return ("-std=c++17", "-fmad=false", "-default-device", *includes)


@cache
def _module(file: str) -> Any:
    """CuPy compiles it for each GPU on its first use, and keeps the result on disk."""
    import cupy

    code = (sources() / "cuda" / file).read_text()
    return cupy.RawModule(code=code, options=compiler_options())


@cache
def _kernel(file: str, name: str) -> Any:
    return _module(file).get_function(name)


def _launch_with_cupy(parameters: Any, scratch: int, device: torch.device) -> None:
    import cupy
    import numpy as np

    stream = torch.cuda.current_stream(device).cuda_stream
    with cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream, device.index):
        for file, name, blocks, threads, shared, plain in parameters.cuda_plan(scratch):
            try:
                kernel = _kernel(file, name)
                if shared:  # beyond 48 KiB only where that was asked for
                    kernel.max_dynamic_shared_size_bytes = shared
                # An array of one element is passed by value.
                argument = np.frombuffer(plain, dtype=np.dtype((np.void, len(plain))))
                kernel((blocks,), (threads,), (argument,), shared_mem=shared)
            except Exception as error:
                raise RuntimeError(f"{name}: {error}") from error


def _find() -> Runtime | str:
    """That of this installation, or why there is none; a constant of the process."""
    if _native.missing is not None:
        return _native.missing
    if _native.extension().CUDA_BUILT_IN:
        return Runtime("kernels built in", "cuda", _launch_built_in)
    if not torch.version.cuda:
        return "no kernels were built in, and this PyTorch is not one for CUDA"
    if importlib.util.find_spec("cupy") is None:
        return (
            "no kernels were built in (there was no nvcc, or STMIXER_CUDA=OFF), "
            "and CuPy, whose NVRTC compiles them, is not installed"
        )
    return Runtime("kernels compiled by CuPy's NVRTC", "cuda", _launch_with_cupy)


RUNTIME = _find()
