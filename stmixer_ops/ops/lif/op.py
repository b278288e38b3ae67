"""lif: choice of backend, registration, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._autograd import once_differentiable, save, saved
from .._backend import choose
from .._register import register
from ..pack import op as pack_op
from . import reference
from .spec import GRADIENT_SCHEMA, NEURON_SCHEMA, LIFSpec, state_dtype

_native.library.define(
    "lif_forward(Tensor x, Tensor? v_init, bool return_state, bool dense, bool pack,"
    f" {NEURON_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor)"
)
_forward = register("lif_forward", __package__)
_native.library.define(
    f"lif_backward(Tensor? gs, Tensor? gv, Tensor x, Tensor? v_init, {NEURON_SCHEMA},"
    f" {GRADIENT_SCHEMA}, str backend) -> (Tensor, Tensor)"
)
_backward = register("lif_backward", __package__)


@torch.library.register_fake("stmixer::lif_forward", lib=_native.library)
def _lif_forward_fake(
    x: Tensor, v_init: Tensor | None, return_state: bool, dense: bool, pack: bool, *neuron: Any
) -> tuple[Tensor, Tensor, Tensor]:
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    v = _native.empty_step(x, strides, dtype) if return_state else _native.placeholder(x, dtype)
    bits = _native.empty_bits(x) if pack else _native.placeholder(x, torch.int32)
    s = _native.empty_like_steps(x, strides) if dense else _native.placeholder(x, x.dtype)
    return s, v, bits


@torch.library.register_fake("stmixer::lif_backward", lib=_native.library)
def _lif_backward_fake(
    gs: Tensor | None, gv: Tensor | None, x: Tensor, v_init: Tensor | None, *neuron: Any
) -> tuple[Tensor, Tensor]:
    strides, dtype = _native.step_strides(x), state_dtype(x.dtype)
    gv_init = (
        _native.placeholder(x, dtype) if v_init is None else _native.empty_step(x, strides, dtype)
    )
    return _native.empty_like_steps(x, strides), gv_init


def surrogate_obstacle(surrogate: Any) -> str | None:
    """Why kernels cannot run a LIF with this surrogate, or None."""
    # Exact types: a subclass may have changed the derivative.
    if type(surrogate) not in _native.SURROGATE_TYPES:
        return f"the surrogate {surrogate!r} is not one of stmixer_ops.surrogate"
    return None


class _LIF(torch.autograd.Function):
    """Saves the input by reference and recomputes the membrane in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v_init: Tensor | None,
        return_state: bool,
        pack: bool,
        backend: str,
        *neuron: Any,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        s, v, bits = _forward(x, v_init, return_state, True, pack, *neuron[:3], backend)
        ctx.set_materialize_grads(False)
        ctx.return_state = return_state
        save(ctx, x, v_init)
        ctx.neuron, ctx.backend = neuron, backend
        if not (return_state or pack):  # each output costs the graph 3 us
            return s
        # What was not requested is left out of the graph.
        ctx.mark_non_differentiable(*((bits,) if return_state else (v, bits)))
        return s, v, bits

    @staticmethod
    @once_differentiable("lif")
    def backward(
        ctx: Any, gs: Tensor | None, gv: Tensor | None = None, gbits: None = None
    ) -> tuple[Any, ...]:
        x, v_init = saved(ctx)
        # In traced graphs also the placeholder of a state has a gradient.
        gv = gv if ctx.return_state else None
        gx, gv_init = _backward(gs, gv, x, v_init, *ctx.neuron, ctx.backend)
        return gx, None if v_init is None else gv_init, *[None] * 9


def lif(
    x: Tensor,
    spec: LIFSpec,
    v_init: Tensor | None,
    return_state: bool,
    dense: bool,
    pack: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Spikes if ``dense`` (else there is no gradient), last membrane if ``return_state``, bits if
    ``pack``."""
    kernels = dict.fromkeys(("cuda", "triton", "cpu"), surrogate_obstacle(spec.surrogate))
    chosen = choose("lif", backend, kernels, (x, v_init))
    if not dense:
        x, v_init = x.detach(), None if v_init is None else v_init.detach()
    if chosen == "reference":
        s, v = reference.lif(x, spec, v_init)
        return s, v, pack_op.pack_spikes(s, s.dim() - 1, backend) if pack else v
    if not torch.is_grad_enabled() or not (
        x.requires_grad or (v_init is not None and v_init.requires_grad)
    ):
        return _forward(x, v_init, return_state, dense, pack, *spec.neuron, chosen)
    results = _LIF.apply(x, v_init, return_state, pack, chosen, *spec.neuron, *spec.gradient)
    return results if return_state or pack else (results, None, None)
