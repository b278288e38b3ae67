"""What a program moves, counted from the operations that PyTorch dispatches, without running it.

The program runs on fake tensors: shapes, strides and dtypes, no memory and no time. Every
dispatched operation that is no view is a kernel that reads its arguments and writes its results
once. That gives the traffic of eager PyTorch, and of the fused ops as the library composes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from stmixer_ops import use_backend

from .cases import Case
from .traffic import Kernel

# Statistics first, then the normalisation (or its gradient): two passes over what they read.
_TWO_PASSES = ("batch_norm", "bn_lif_backward")


@contextmanager
def trace() -> Iterator[list[Kernel]]:
    """Collects the kernels of what runs inside, in order; make all tensors inside, too."""
    kernels: list[Kernel] = []
    with FakeTensorMode(allow_non_fake_inputs=True), _Recorder(kernels):
        yield kernels


class _Recorder(TorchDispatchMode):
    def __init__(self, kernels: list[Kernel]) -> None:
        super().__init__()
        self._kernels = kernels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        kernel = count(func, args, kwargs, results)
        if kernel is not None:
            self._kernels.append(kernel)
        return results


def count(func: Any, args: Any, kwargs: Any, results: Any) -> Kernel | None:
    """The kernel behind one dispatched operation, or None for views and bookkeeping."""
    arguments, given = _tensors((args, kwargs)), _tensors(results)
    schema = func._schema
    in_place = [
        value
        for argument, value in zip(schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if not in_place and (
        not given or any(r.alias_info is not None for r in schema.returns) or _is_empty(schema.name)
    ):
        return None
    written = sum(map(touched, {id(t): t for t in [*given, *_tensors(in_place)]}.values()))
    read = sum(map(touched, arguments))
    name = schema.name.split("::")[1]
    if name in ("fill_", "zero_", "copy_"):  # what was there before does not matter
        read -= touched(args[0])
    if any(part in name for part in _TWO_PASSES):
        read *= 2
    elif name == "bn_lif_forward" and args[5]:  # training
        read += touched(args[0])
    return Kernel(name, read, written, _flops(func, name, args, kwargs, results))


def touched(t: Tensor) -> int:
    """Bytes of the distinct elements of ``t``: what ``expand`` repeats counts once."""
    sizes = (n for n, stride in zip(t.shape, t.stride(), strict=True) if stride or n == 0)
    values = 1
    for n in sizes:
        values *= n
    return values * t.element_size()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_empty(name: str) -> bool:
    return "empty" in name or name in ("aten::detach", "aten::alias", "aten::_unsafe_view")


def _flops(func: Any, name: str, args: Any, kwargs: Any, results: Any) -> float:
    if name in ("token_mix", "token_mix_lif"):
        return 2 * args[0].numel() * args[1].shape[-1]
    if name == "token_mix_lif_bits":  # neuron-steps, from words: images and tokens by channels
        steps, batch, _, tokens = args[0].shape
        return 2 * steps * batch * args[3] * tokens * tokens
    if name == "conv_lif":  # an output pixel of whichever result there is, by all weights
        made = next(result for result in results if result.dim() == 5)
        return 2 * (made.numel() // made.shape[2]) * args[1].numel()
    formula: Callable[..., float] | None = flop_registry.get(func._overloadpacket)
    return 0.0 if formula is None else formula(*args, **kwargs, out_val=results)


def trace_case(case: Case, backend: str) -> list[Kernel]:
    """The kernels of one step of ``case`` at its full size; on the reference unfused."""
    case = case.unfused() if backend == "reference" else case
    module = None
    if case.module is not None:
        with torch.device("meta"):
            module = case.module()
    with use_backend(backend), trace() as kernels:
        if module is not None:
            module = module.to_empty(device="cpu")
        step = case.program(torch.device("cpu"), module)
        step()  # makes the incoming gradient and the optimizer's state
        kernels.clear()
        step()
    return kernels
