"""What the ops' autograd functions share: what they save, and that they are differentiated once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Any, ...]]


class _Refusal(torch.autograd.Function):
    """The identity, whose derivative is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, message: str) -> Tensor:
        ctx.message = message
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        raise RuntimeError(ctx.message)


def once_differentiable(op: str) -> Callable[[Backward], Backward]:
    """Decorator of the ``backward`` of ``functional.<op>``, whose ``ctx`` has a ``backend``.

    Kernels compute first derivatives. Where autograd asks for their graph (``create_graph=True``)
    they get one whose own backward is an error; without it a second derivative would be 0.
    """

    def decorate(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def first_order(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
            # A compiled graph has no second derivative either: PyTorch says so itself.
            if not torch.is_grad_enabled() or torch.compiler.is_compiling():
                return backward(ctx, *gradients)
            with torch.no_grad():
                results = backward(ctx, *gradients)
            message = (
                f"stmixer_ops.functional.{op}: second derivatives are not implemented by the "
                f"{ctx.backend} backend; use stmixer_ops.use_backend('reference')"
            )
            return tuple(
                None if r is None else _Refusal.apply(r.detach().requires_grad_(), message)
                for r in results
            )

        return first_order

    return decorate


def save(ctx: Any, x: Tensor, *others: Tensor | None) -> None:
    """``ctx.save_for_backward``, to be read by :func:`saved`.

    Inductor gives every tensor of four dimensions near a convolution the layout of images, also
    tokens ``[T, B, N, C]``, and fails to if the batch size is a symbol. So a traced graph keeps
    a view of ``x`` that has more dimensions.
    """
    ctx.traced = torch.compiler.is_compiling()
    ctx.save_for_backward(x[None, None] if ctx.traced else x, *others)


def saved(ctx: Any) -> tuple[Any, ...]:
    """What :func:`save` was given."""
    x, *others = ctx.saved_tensors
    return x[0, 0] if ctx.traced else x, *others
