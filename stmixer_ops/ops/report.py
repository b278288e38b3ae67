"""What runs on this machine, and why the rest does not."""

from __future__ import annotations

import os

import torch

from . import _cuda, _native, _obstacles
from ._backend import ENVIRONMENT


class BackendReport(dict[str, str]):
    """Backend name to a line that says what it offers here, or why it cannot run."""

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {line}" for name, line in self.items())


def _cpu_line() -> str:
    reason = _obstacles.cpu()
    if reason is not None:
        return f"not available: {reason}"
    extension = _native.extension()
    try:
        isa = extension.cpu_isa()
    except RuntimeError as error:
        return f"not available: {error}"
    others = ", ".join(extension.cpu_isas())
    return f"available: {isa} (of {others}), {torch.get_num_threads()} threads"


def _triton_line() -> str:
    reason = _obstacles.triton()
    if reason is None:
        try:
            import triton
        except ImportError as error:
            reason = f"triton did not load ({error})"
    if reason is None and not (_obstacles.INTERPRETED or torch.cuda.is_available()):
        reason = "no GPU (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
    if reason is not None:
        return f"not available: {reason}"
    if _obstacles.INTERPRETED:
        return f"available: triton {triton.__version__}, interpreted on the CPU"
    return f"available: triton {triton.__version__} on {torch.cuda.get_device_name()}"


def _cuda_line() -> str:
    runtime = _cuda.RUNTIME
    if isinstance(runtime, str):
        return f"not available: {runtime}"
    if not torch.cuda.is_available():
        return f"not available: no GPU ({runtime.name})"
    return f"available: {runtime.name}, on {torch.cuda.get_device_name()}"


def _reference_line() -> str:
    return f"available: plain PyTorch {torch.__version__}"


_LINES = {
    "cuda": _cuda_line,
    "triton": _triton_line,
    "cpu": _cpu_line,
    "reference": _reference_line,
}


def backend_report() -> BackendReport:
    """Every backend by name, with what it runs on here or the reason it does not.

    ``print`` it, or look a name up: ``stmixer_ops.backend_report()["cpu"]``.
    """
    lines = {name: line() for name, line in _LINES.items()}
    forced = os.environ.get(ENVIRONMENT)
    if forced:
        lines["forced"] = f"{ENVIRONMENT}={forced}"
    return BackendReport(lines)
