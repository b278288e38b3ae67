"""token_mix and token_mix_lif: checks, choice of backend, registration, autograd."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._numbers import integer
from .. import _native
from .._autograd import once_differentiable, save, saved
from .._backend import choose
from .._register import register
from ..lif.op import surrogate_obstacle
from ..lif.spec import (
    GRADIENT_SCHEMA,
    NEURON_SCHEMA,
    LIFSpec,
    check_state,
    check_time_first,
    state_dtype,
)
from ..pack import op as pack_op
from ..pack.reference import WORD_BITS
from . import reference
from .buffers import BitsCall, LIFCall, allocate, allocate_bits

_native.library.define("token_mix(Tensor s, Tensor weight, str backend) -> Tensor")
register("token_mix", __package__)
_native.library.define(
    "token_mix_lif(Tensor s, Tensor weight, Tensor? v_init, bool return_state, bool pack,"
    f" {NEURON_SCHEMA}, str backend) -> (Tensor, Tensor, Tensor)"
)
register("token_mix_lif", __package__, LIFCall)
_native.library.define(
    "token_mix_lif_bits(Tensor s, Tensor weight, Tensor? v_init, int channels,"
    f" {NEURON_SCHEMA}, bool return_state, str backend) -> (Tensor, Tensor)"
)
register("token_mix_lif_bits", __package__, BitsCall)
_native.library.define(
    "token_mix_lif_backward(Tensor? gout, Tensor? gv, Tensor s, Tensor weight, Tensor? v_init,"
    f" {NEURON_SCHEMA}, {GRADIENT_SCHEMA}, str backend) -> (Tensor, Tensor)"
)
register("token_mix_lif_backward", __package__)


@torch.library.register_fake("stmixer::token_mix", lib=_native.library)
def _token_mix_fake(s: Tensor, weight: Tensor, backend: str) -> Tensor:
    return _native.empty_like_steps(s, _native.step_strides(s))


@torch.library.register_fake("stmixer::token_mix_lif", lib=_native.library)
def _token_mix_lif_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return allocate(LIFCall(*arguments[:-1]))


@torch.library.register_fake("stmixer::token_mix_lif_bits", lib=_native.library)
def _token_mix_lif_bits_fake(*arguments: Any) -> tuple[Tensor, Tensor]:
    return allocate_bits(BitsCall(*arguments[:-1]))


@torch.library.register_fake("stmixer::token_mix_lif_backward", lib=_native.library)
def _token_mix_lif_backward_fake(
    gout: Tensor | None,
    gv: Tensor | None,
    s: Tensor,
    weight: Tensor,
    v_init: Tensor | None,
    *neuron: Any,
) -> tuple[Tensor, Tensor]:
    strides, dtype = _native.step_strides(s), state_dtype(s.dtype)
    gv_init = (
        _native.placeholder(s, dtype) if v_init is None else _native.empty_step(s, strides, dtype)
    )
    return _native.empty_like_steps(s, strides), gv_init


def check(s: Tensor, weight: Tensor) -> None:
    check_time_first(s, "s")
    _check_sizes(s, weight)
    _check_heads(weight, s.shape[2])
    if weight.dtype != s.dtype:
        raise TypeError(f"weight must be {s.dtype} like s, got {weight.dtype}")


def check_lif(s: Tensor, weight: Tensor, v_init: Tensor | None, channels: int | None) -> int:
    """As :func:`check`, but ``s`` may be words along ``channels``; how many channels there are."""
    if not isinstance(s, Tensor) or s.dtype != torch.int32:
        check(s, weight)
        check_state(v_init, s)
        if channels not in (None, s.shape[2]):
            raise ValueError(
                f"channels must be left out or be the {s.shape[2]} of dense s "
                f"(shape {tuple(s.shape)}), got {channels!r}"
            )
        return s.shape[2]
    _check_sizes(s, weight)
    if s.shape[0] == 0:
        raise ValueError(f"s must have T >= 1 time steps, got shape {tuple(s.shape)}")
    if channels is None:
        raise ValueError("channels must be how many are packed in s, at least 1, got None")
    if not isinstance(channels, int) or channels < 1:
        channels = integer("channels", channels)
    words = (channels + WORD_BITS - 1) // WORD_BITS
    if s.shape[2] != words:
        raise ValueError(
            f"s must be [T, B, {words}, N], {words} words for {channels} channels, "
            f"got shape {tuple(s.shape)}"
        )
    _check_heads(weight, channels)
    check_time_first(weight, "weight")  # its dtype: it decides
    if v_init is not None:
        steps, batch, _, tokens = s.shape
        check_state(v_init, weight.new_empty(1).expand(steps, batch, channels, tokens))
    return channels


def _check_sizes(s: Tensor, weight: Tensor) -> None:
    if s.dim() != 4:
        raise ValueError(f"s must be [T, B, C, N], got shape {tuple(s.shape)}")
    tokens = s.shape[3]
    if weight.dim() != 3 or weight.shape[1:] != (tokens, tokens):
        raise ValueError(
            f"weight must be [heads, {tokens}, {tokens}] for the {tokens} tokens of s, "
            f"got shape {tuple(weight.shape)}"
        )


def _check_heads(weight: Tensor, channels: int) -> None:
    if weight.shape[0] == 0 or channels % weight.shape[0]:
        raise ValueError(
            f"the heads of weight ({weight.shape[0]}) must divide the channels of s ({channels})"
        )


# A constant, because graphs that Dynamo traces ask for it.
_MOST_TOKENS = 0 if _native.missing else _native.extension().MAX_MIX_TOKENS


def _cpu_obstacle(s: Tensor) -> str | None:
    if _MOST_TOKENS and s.shape[3] > _MOST_TOKENS:
        return f"more than {_MOST_TOKENS} tokens"
    return None


def _operand_gradients(
    g: Tensor, s: Tensor, weight: Tensor, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of ``s`` and ``weight`` from that of the currents: two dense products."""
    heads = weight.shape[0]
    per_head = g.unflatten(2, (heads, -1))
    gs = (per_head @ weight).flatten(2, 3) if needs[0] else None
    if not needs[1]:
        return gs, None
    # [H, N, everything else] on both sides: one product per head.
    g_rows = per_head.movedim((2, 4), (0, 1)).flatten(2)
    s_rows = s.unflatten(2, (heads, -1)).movedim((2, 4), (0, 1)).flatten(2)
    return gs, g_rows @ s_rows.transpose(1, 2)


class _TokenMix(torch.autograd.Function):
    """Linear in both operands, so it saves both by reference.

    Its gradients are PyTorch's own operations on them: they have derivatives of any order.
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, weight: Tensor, backend: str) -> Tensor:
        save(ctx, s, weight)
        return torch.ops.stmixer.token_mix(s, weight, backend)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        s, weight = saved(ctx)
        return *_operand_gradients(g, s, weight, ctx.needs_input_grad[:2]), None


class _TokenMixLIF(torch.autograd.Function):
    """Saves the spikes as bits; backward recomputes the currents and, from them, the membrane."""

    @staticmethod
    def forward(
        ctx: Any,
        s: Tensor,
        weight: Tensor,
        v_init: Tensor | None,
        return_state: bool,
        pack: bool,
        backend: str,
        *neuron: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, v, bits = torch.ops.stmixer.token_mix_lif(
            s, weight, v_init, return_state, pack, *neuron[:3], backend
        )
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(bits)
        ctx.return_state = return_state
        # Bits along whichever of the two dimensions is innermost in memory.
        ctx.channels_inner = s.stride(2) < s.stride(3)
        ctx.length = s.shape[2] if ctx.channels_inner else s.shape[3]
        ctx.dtype = s.dtype
        rows = s.transpose(2, 3) if ctx.channels_inner else s
        packed = torch.ops.stmixer.pack_rows(rows, backend)
        ctx.save_for_backward(packed, weight, v_init)
        ctx.neuron, ctx.backend = neuron, backend
        return out, v, bits

    @staticmethod
    @once_differentiable("token_mix_lif")
    def backward(ctx: Any, gout: Tensor | None, gv: Tensor | None, gbits: None) -> tuple[Any, ...]:
        packed, weight, v_init = ctx.saved_tensors
        gv = gv if ctx.return_state else None
        s = torch.ops.stmixer.unpack_rows(packed, ctx.length, ctx.dtype, ctx.backend)
        s = s.transpose(2, 3) if ctx.channels_inner else s
        g, gv_init = torch.ops.stmixer.token_mix_lif_backward(
            gout, gv, s, weight, v_init, *ctx.neuron, ctx.backend
        )
        gs, gweight = _operand_gradients(g, s, weight, ctx.needs_input_grad[:2])
        return gs, gweight, None if v_init is None else gv_init, *[None] * 9


def token_mix(s: Tensor, weight: Tensor, backend: str | None) -> Tensor:
    chosen = choose("token_mix", backend, {"triton": None, "cpu": _cpu_obstacle(s)}, (s, weight))
    if chosen == "reference":
        return reference.token_mix(s, weight)
    return _TokenMix.apply(s, weight, chosen)


def _token_mix_lif_choice(
    spec: LIFSpec, s: Tensor, weight: Tensor, v_init: Tensor | None, backend: str | None
) -> str:
    unknown = surrogate_obstacle(spec.surrogate)
    kernels = {"triton": unknown, "cpu": unknown or _cpu_obstacle(s)}
    return choose("token_mix_lif", backend, kernels, (s, weight, v_init))


def token_mix_lif_bits(
    s: Tensor,
    weight: Tensor,
    channels: int,
    spec: LIFSpec,
    v_init: Tensor | None,
    return_state: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """Bits along the channels, of spikes or of their bits, and last membrane; no gradient."""
    weight, v_init = weight.detach(), None if v_init is None else v_init.detach()
    chosen = _token_mix_lif_choice(spec, s, weight, v_init, backend)
    if s.dtype == torch.int32 and chosen != "reference":
        return torch.ops.stmixer.token_mix_lif_bits(
            s, weight, v_init, channels, *spec.neuron, return_state, chosen
        )
    out, v, _ = token_mix_lif(
        s.detach(), weight, channels, spec, v_init, return_state, False, chosen
    )
    return pack_op.pack_spikes(out, 2, backend), v


def token_mix_lif(
    s: Tensor,
    weight: Tensor,
    channels: int,
    spec: LIFSpec,
    v_init: Tensor | None,
    return_state: bool,
    pack: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, last membrane if ``return_state``, bits along the tokens if ``pack``."""
    chosen = _token_mix_lif_choice(spec, s, weight, v_init, backend)
    if s.dtype == torch.int32:
        s = pack_op.unpack_spikes(s, channels, 2, weight.dtype, backend)
    if chosen == "reference":
        out, v = reference.token_mix_lif(s, weight, spec, v_init)
        return out, v, pack_op.pack_spikes(out, out.dim() - 1, backend) if pack else v
    if not torch.is_grad_enabled() or not any(
        t is not None and t.requires_grad for t in (s, weight, v_init)
    ):
        return torch.ops.stmixer.token_mix_lif(
            s, weight, v_init, return_state, pack, *spec.neuron, chosen
        )
    return _TokenMixLIF.apply(
        s, weight, v_init, return_state, pack, chosen, *spec.neuron, *spec.gradient
    )
