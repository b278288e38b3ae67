"""What runs on this machine, and why the rest does not."""

from __future__ import annotations

import os

import torch

from . import _native
from ._backend import BACKENDS, ENVIRONMENT, NOT_BUILT


class BackendReport(dict[str, str]):
    """Backend name to a line that says what it offers here, or why it cannot run."""

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {line}" for name, line in self.items())


def _cpu_line() -> str:
    reason = _native.obstacle()
    if reason is not None:
        return f"not available: {reason}"
    extension = _native.extension()
    try:
        isa = extension.cpu_isa()
    except RuntimeError as error:
        return f"not available: {error}"
    others = ", ".join(extension.cpu_isas())
    return f"available: {isa} (of {others}), {torch.get_num_threads()} threads"


def backend_report() -> BackendReport:
    """Every backend by name, with what it runs on here or the reason it does not.

    ``print`` it, or look a name up: ``stmixer_ops.backend_report()["cpu"]``.
    """
    lines = {name: f"not available: {NOT_BUILT.format(name)}" for name in BACKENDS}
    lines["cpu"] = _cpu_line()
    lines["reference"] = f"available: plain PyTorch {torch.__version__}"
    forced = os.environ.get(ENVIRONMENT)
    if forced:
        lines["forced"] = f"{ENVIRONMENT}={forced}"
    return BackendReport(lines)
