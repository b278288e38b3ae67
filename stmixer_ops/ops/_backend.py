"""Which backend runs an op: argument, then context manager, then environment, then automatic."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from types import TracebackType

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _native
from ._obstacles import OBSTACLES

BACKENDS = ("cuda", "triton", "cpu", "reference")
ENVIRONMENT = "STMIXER_BACKEND"
# What is tried unless one is asked for. Triton's interpreter on the CPU is for tests only.
_GPU_ORDER = ("cuda", "triton")
_CPU_ORDER = ("cpu",)

_log = logging.getLogger("stmixer_ops")
_forced: str | None = None
_reported: set[str | tuple[str, str]] = set()


def _known(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


class use_backend:
    """Context manager: run every op inside on ``name`` ("cpu", "reference", ...).

    Process-wide while it is open. An op that ``name`` cannot run raises with the reason.
    """

    def __init__(self, name: str) -> None:
        self._name = _known(name, "backend")
        self._outer: list[str | None] = []

    def __enter__(self) -> use_backend:
        global _forced
        self._outer.append(_forced)
        _forced = self._name
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _forced
        _forced = self._outer.pop()


def _observer(by_name: bool) -> str | None:
    """Who looks on and can do nothing with a kernel, which is no operation of PyTorch's, or None.

    All that a graph which Dynamo traces may depend on are its inputs; an export is no such graph.
    """
    if torch._C._are_functorch_transforms_active():
        return "torch.func"
    if torch.compiler.is_compiling():
        return "torch.onnx.export" if torch.onnx.is_in_onnx_export() else None
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    if torch._C._get_tracing_state() is not None and not by_name:
        return "torch.jit.trace"  # a trace may hold kernels, but none that are saved or trained
    return None


def _obstacle(
    op: str,
    name: str,
    kernels: Mapping[str, str | None],
    tensors: tuple[Tensor | None, ...],
    by_name: bool,
) -> str | None:
    """Why backend ``name``, requested ``by_name`` or not, cannot run this call, or None."""
    if name == "reference":
        return None
    if name not in kernels:
        return f"{op} has no {name} kernels"
    observer = _observer(by_name)
    if observer is not None:
        return f"{observer} sees through plain PyTorch only, which is the backend 'reference'"
    return kernels[name] or OBSTACLES[name](*tensors)


def choose(
    op: str,
    requested: str | None,
    kernels: Mapping[str, str | None],
    tensors: tuple[Tensor | None, ...],
) -> str:
    """The backend for one call of ``op`` on ``tensors``, the first of which is never None.

    ``kernels`` maps each backend that has kernels for the op to the op's own reason why they
    cannot run this call, or to None.
    """
    wanted, origin = requested, "backend"
    if wanted is None:
        wanted, origin = _forced, "use_backend"
    # Graphs traced by Dynamo must not depend on the environment, nor write logs.
    if wanted is None and not torch.compiler.is_compiling():
        wanted, origin = os.environ.get(ENVIRONMENT) or None, ENVIRONMENT
    if wanted is not None:
        reason = _obstacle(op, _known(wanted, origin), kernels, tensors, True)
        if reason is not None:
            raise RuntimeError(f"{op}: {origin}={wanted!r} cannot run this call: {reason}")
        return wanted
    assert tensors[0] is not None
    for name in _GPU_ORDER if tensors[0].is_cuda else _CPU_ORDER:
        if name not in kernels:
            continue
        reason = _obstacle(op, name, kernels, tensors, False)
        if reason is None:
            return name
        if torch.compiler.is_compiling():
            continue
        if reason == _native.missing and reason not in _reported:
            _reported.add(reason)
            _log.warning("stmixer_ops: all ops run in plain PyTorch: %s", reason)
        elif (op, reason) not in _reported:
            _reported.add((op, reason))
            _log.info("%s: not on %s: %s", op, name, reason)
    return "reference"
