"""Gradient checkpointing of blocks: activations are computed again in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(block: nn.Module, call: Callable[..., Any], *args: Any) -> Any:
    """``call(*args)`` of ``block``, which keeps its arguments alone for the backward pass.

    The second pass is not a second batch: running statistics of batch norms are those of one pass.
    """
    options: dict[str, Any] = {}
    if not torch.compiler.is_compiling():  # a compiled second pass changes no buffers anyway
        options["context_fn"] = lambda: (contextlib.nullcontext(), _again(block))
    return checkpoint(call, *args, use_reentrant=False, **options)


@contextlib.contextmanager
def _again(block: nn.Module) -> Iterator[None]:
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(b, b.clone()) for m in norms for b in m.buffers(recurse=False)]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
