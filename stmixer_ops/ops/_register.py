"""Registration of an op's launchers: which file runs a call is said by the call's last argument."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._interpreter import fix_bfloat16
from ._native import library
from ._obstacles import INTERPRETED


class _Launchers(dict[str, Callable[..., Any]]):
    """Backend name to the launcher ``<package>.<backend>.<op>``, imported on its first call."""

    def __init__(self, op: str, package: str) -> None:
        super().__init__()
        self._op, self._package = op, package

    def __missing__(self, backend: str) -> Callable[..., Any]:
        if backend == "triton" and INTERPRETED:
            fix_bfloat16()
        module = importlib.import_module(f"{self._package}.{backend}")
        launcher = self[backend] = getattr(module, self._op)
        return launcher


_PLAIN = {Tensor, torch.nn.Parameter, type(None), bool, int, float, str, list, tuple, torch.dtype}


def _unobserved(arguments: tuple[Any, ...]) -> bool:
    """Whether the dispatcher would do no more than call the launcher for the CPU: in eager mode,
    on tensors (no subclasses, no proxies) that no mode or tracer watches and no gradient needs."""
    if torch.compiler.is_compiling() or arguments[-1] != "cpu":
        return False
    if torch._C._len_torch_dispatch_stack() != 0 or torch._C._get_tracing_state() is not None:
        return False
    graph = torch.is_grad_enabled()
    for a in arguments:
        if type(a) not in _PLAIN:
            return False
        if isinstance(a, Tensor) and (not a.is_cpu or (graph and a.requires_grad)):
            return False
    return True


def register(
    op: str, package: str | None, call: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Implements ``stmixer::<op>``, whose last argument is ``str backend``, on CPUs and GPUs.

    Launchers get the other arguments, or ``call`` made of them: a NamedTuple in their order, for
    ops that have many.

    Returns:
        what to call it by: the operator, but around the dispatcher where nobody would notice. Its
        way back into Python costs 8 us, in a small training step a quarter of the time.
    """
    assert package is not None
    launchers = _Launchers(op, package)

    def run(*arguments: Any) -> Any:
        *own, backend = arguments
        return launchers[backend](*own) if call is None else launchers[backend](call(*own))

    def run_on_gpu(*arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        with torch.cuda.device(device):  # kernels are launched on the current device
            return run(*arguments)

    library.impl(op, run, "CPU")
    library.impl(op, run_on_gpu, "CUDA")
    operator = getattr(torch.ops.stmixer, op)

    def call_op(*arguments: Any) -> Any:
        return run(*arguments) if _unobserved(arguments) else operator(*arguments)

    return call_op
