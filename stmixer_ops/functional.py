"""One documented function per op.

Everything is multi-step and time-first, ``[T, ...]``, without hidden state between calls. Spikes
are 0 or 1 in the dtype of the input. The neuron's keywords are the same everywhere:

* ``threshold``: spike where the membrane reaches it (``v >= threshold``). NaN never spikes.
* ``decay``: the membrane's factor per step, in (0, 1].
* ``reset``: ``"hard"`` (``v * (1 - s)``) or ``"soft"`` (``v - threshold * s``).
* ``detach_reset``: leave the reset out of the gradient.
* ``surrogate``: one of :mod:`stmixer_ops.surrogate`, or any callable ``u -> spikes`` with a
  gradient of its own (which runs on the reference backend).
* ``v_init``: membrane before the first step, shape of one step; float32 (float64 for float64).
* ``return_state``: also return the membrane after the last step.
* ``pack``: also return the spikes as bits along the last dimension (:func:`pack_spikes`).
* ``backend``: ``"cpu"``, ``"triton"``, ``"cuda"`` or ``"reference"``; by default the fastest that
  can run the call.

Where several results are asked for they come in the order spikes, sum, state, bits.
Neuron: STMixer's official code; the defaults are its values.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from .ops.bn_lif import op as _bn_lif
from .ops.conv_lif import op as _conv_lif
from .ops.flops import register_when_counted
from .ops.lif import op as _lif
from .ops.lif.spec import (
    LIFSpec,
    Reset,
    SurrogateLike,
    check_pack,
    check_state,
    check_time_first,
)
from .ops.pack import op as _pack
from .ops.spike_linear import op as _spike_linear
from .ops.token_mix import op as _token_mix
from .surrogate import Dspike

__all__ = [
    "bn_lif",
    "conv_lif",
    "lif",
    "pack_spikes",
    "spike_conv2d",
    "spike_linear",
    "token_mix",
    "token_mix_lif",
    "unpack_spikes",
]

_DSPIKE = Dspike(2.5)
register_when_counted()


def _results(*values: Tensor | None) -> Any:
    requested = tuple(v for v in values if v is not None)
    return requested[0] if len(requested) == 1 else requested


def lif(
    x: Tensor,
    *,
    threshold: float = 1.0,
    decay: float = 0.5,
    reset: Reset = "hard",
    detach_reset: bool = False,
    surrogate: SurrogateLike = _DSPIKE,
    v_init: Tensor | None = None,
    return_state: bool = False,
    pack: bool | Literal["only"] = False,
    backend: str | None = None,
) -> Any:
    """Leaky integrate-and-fire over all T steps: ``v = decay * v + x[t]``, spike, reset.

    Args:
        x: input currents ``[T, ...]``, any strides (a T-stride of 0 too); float32, float64,
            bfloat16 or float16.
        pack: ``"only"``: the bits stand in the place of the spikes, which never reach memory
            where the kernel packs (contiguous ``x``, last dimension a multiple of 32); no gradient.
    Returns:
        spikes like ``x`` (or bits), or a tuple with the state ``[...]`` and the bits
        ``[T, ..., ceil(last / 32)]`` (int32) where asked for.
    Memory: backward holds ``x`` by reference and recomputes the membrane; nothing else is saved.
    Forward and backward touch 5 values per neuron-step (10 bytes in bfloat16), plus the bits;
    forward alone 2 (4 bytes, 4.125 with bits), or 2.125 bytes packed only. The
    ``cuda`` backend reads ``x`` twice in backward and holds a scratch of half a byte per
    neuron-step from T = 33 on (float32: 19).
    """
    check_time_first(x, "x")
    check_state(v_init, x)
    check_pack(pack)
    spec = LIFSpec(threshold, decay, reset, detach_reset, surrogate)
    dense = pack != "only"
    s, v, bits = _lif.lif(x, spec, v_init, return_state, dense, bool(pack), backend)
    return _results(
        s if dense else bits, v if return_state else None, bits if pack is True else None
    )


def bn_lif(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    return_sum: bool = False,
    channel_dim: int = 2,
    pack: bool = False,
    threshold: float = 1.0,
    decay: float = 0.5,
    reset: Reset = "hard",
    detach_reset: bool = False,
    surrogate: SurrogateLike = _DSPIKE,
    v_init: Tensor | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Any:
    """Batch normalisation over all but ``channel_dim``, plus ``residual``, into a LIF.

    Args:
        x: ``[T, ...]`` with C values along ``channel_dim``.
        weight, bias, running_mean, running_var: ``[C]`` or None, as in ``F.batch_norm``; in
            training the running statistics are updated in place.
        residual: added after the normalisation; shape and dtype of ``x``.
        return_sum: also return what the LIF integrates, in the dtype of ``x`` (and rounded to it
            before the LIF, as it is whenever there is a residual).
    Memory: training holds ``x``, the sum where there is a residual, and 2 values per channel.
    """
    check_time_first(x, "x", min_dim=2)
    check_state(v_init, x)
    channel_dim = _bn_lif.check_channel_dim(x, channel_dim)
    spec = LIFSpec(threshold, decay, reset, detach_reset, surrogate)
    if residual is x:  # Dynamo takes no tensor twice
        residual = x.view_as(x)
    statistics = (running_mean, running_var, training, eps)
    requested = (return_sum or residual is not None, return_state, pack)
    call = _bn_lif.ForwardCall(
        x, weight, bias, *statistics, residual, v_init, channel_dim, *spec.neuron, *requested
    )
    _bn_lif.check(call)
    s, total, v, bits = _bn_lif.bn_lif(call, spec, momentum, return_sum, backend)
    return _results(
        s, total if return_sum else None, v if return_state else None, bits if pack else None
    )


def token_mix(s: Tensor, weight: Tensor, *, backend: str | None = None) -> Tensor:
    """Spiking token mixing: head ``h`` applies its own ``weight[h]`` over the tokens.

    ``y[t,b,c,:] = weight[h] @ s[t,b,c,:]`` for the C/H channels c of head h (STMixer's STM; no
    bias, no scale).

    Args:
        s: ``[T, B, C, N]``, spikes or any real values.
        weight: ``[H, N, N]`` (output token, input token); H divides C.
    Returns:
        currents ``[T, B, C, N]``.
    Memory: training holds ``s`` and ``weight`` by reference.
    """
    _token_mix.check(s, weight)
    return _token_mix.token_mix(s, weight, backend)


def token_mix_lif(
    s: Tensor,
    weight: Tensor,
    *,
    channels: int | None = None,
    pack: bool | Literal["only"] = False,
    threshold: float = 1.0,
    decay: float = 0.5,
    reset: Reset = "hard",
    detach_reset: bool = False,
    surrogate: SurrogateLike = _DSPIKE,
    v_init: Tensor | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Any:
    """:func:`token_mix` with the LIF as its epilogue: the currents never reach memory in forward.

    Arguments and shapes as for :func:`token_mix` and :func:`lif`, and:

    Args:
        s: spikes, 0 or 1: training keeps one bit of each. Or their bits along the channels, int32
            ``[T, B, ceil(C / 32), N]``, any strides, as :func:`conv_lif` gives them; the dtype of
            ``weight`` then is that of the spikes.
        channels: C, which words do not tell: given with packed ``s``, and only there needed.
        pack: True: also return bits along the last dimension, the tokens, ``[T, B, C,
            ceil(N / 32)]``; ``"only"``: bits along the channels, ``[T, B, ceil(C / 32), N]`` with
            the channels innermost, stand in the place of the spikes, as :func:`conv_lif` takes
            them; no gradient.
    Memory: training keeps 1/8 byte per neuron-step, plus ``weight``; backward recomputes the
    currents. Bytes per neuron-step in inference: 1/8 + 1/8 from bits to ``pack="only"`` with the
    ``triton`` kernel (not in float64), whatever the dtype; there dense spikes never reach memory.
    Every other way they do: 4 in bfloat16, and 2 1/8 for each of the passes that unpack or pack.
    """
    channels = _token_mix.check_lif(s, weight, v_init, channels)
    check_pack(pack)
    spec = LIFSpec(threshold, decay, reset, detach_reset, surrogate)
    if pack == "only":
        bits, v = _token_mix.token_mix_lif_bits(
            s, weight, channels, spec, v_init, return_state, backend
        )
        return _results(bits, v if return_state else None)
    out, v, bits = _token_mix.token_mix_lif(
        s, weight, channels, spec, v_init, return_state, pack, backend
    )
    return _results(out, v if return_state else None, bits if pack else None)


def spike_linear(
    s: Tensor, weight: Tensor, bits: Tensor | None = None, *, backend: str | None = None
) -> Tensor:
    """``F.linear`` of spikes: ``s [..., C]``, ``weight [O, C]`` to ``[..., O]``.

    Args:
        s: spikes, 0 or 1: training keeps only one bit of each.
        bits: ``pack_spikes(s)`` if the producer made them already (``pack=True``).
    Memory: training holds ``weight`` and 1/8 byte per spike (``[..., ceil(C / 32)]`` int32). The
    products are PyTorch's own, except the weight gradient on a GPU, which reads the bits.
    """
    _spike_linear.check(s, weight, bits)
    return _spike_linear.spike_linear(s, weight, bits, backend)


def spike_conv2d(
    s: Tensor,
    weight: Tensor,
    stride: int = 1,
    padding: int = 0,
    bits: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """``F.conv2d`` of spikes ``s [..., C, H, W]`` with ``weight [O, C, K, K]``, no bias.

    ``bits`` is ``pack_spikes(s)``; without it the channels are packed if they are innermost, which
    is what the weight gradient on a GPU reads as it is. Memory as for :func:`spike_linear`.
    """
    _spike_linear.check_conv(s, weight, stride, padding, bits)
    return _spike_linear.spike_conv2d(s, weight, stride, padding, bits, backend)


def conv_lif(
    s: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    *,
    residual: Tensor | None = None,
    return_sum: bool = False,
    pack: bool | Literal["only"] = False,
    threshold: float = 1.0,
    decay: float = 0.5,
    reset: Reset = "hard",
    detach_reset: bool = False,
    surrogate: SurrogateLike = _DSPIKE,
    v_init: Tensor | None = None,
    return_state: bool = False,
    backend: str | None = None,
) -> Any:
    """Inference: convolution of spikes with folded BN, plus ``residual``, into a LIF.

    Args:
        s: spikes ``[T, B, C, H, W]`` in the dtype of ``weight`` (real values will do), or their
            bits along the channels, int32 ``[T, B, ceil(C / 32), H, W]``. Channels innermost is
            the layout that is not copied; a T-stride of 0 is legal.
        weight: ``[O, C, K, K]`` with BN folded in; float32, float64, bfloat16 or float16. A 1x1
            map of tokens is a convolution of an ``[N, 1]`` image.
        bias: ``[O]``, any floating dtype.
        residual: added before the LIF; shape of the spikes, dtype of ``weight``.
        return_sum: also return what the LIF integrates, in the dtype of ``weight`` (and rounded to
            it before the LIF, as it is whenever there is a residual; else the currents stay in
            the state's dtype).
        pack: as in :func:`lif`, but along the channels: int32 ``[T, B, ceil(O / 32), H, W]``;
            ``"only"``: the bits stand in the place of the spikes, which never reach memory.
    Returns:
        spikes ``[T, B, O, H', W']`` (or bits), or a tuple with what else was asked for; all with
        the channels innermost.
    Bytes per input and output neuron-step, bfloat16: 1/8 + 1/8 packed only, 4 dense; the residual
    and the sum add 2 each. The currents never reach memory on a GPU.
    Kernels give no gradient; where one is asked for, the reference runs.
    """
    check_pack(pack)
    spec = LIFSpec(threshold, decay, reset, detach_reset, surrogate)
    dense = pack != "only"
    requested = (dense, return_sum, return_state, bool(pack))
    call = _conv_lif.Call(
        s, weight, bias, residual, v_init, stride, padding, *spec.neuron, *requested
    )
    _conv_lif.check(call)
    out, total, v, bits = _conv_lif.conv_lif(call, spec, backend)
    return _results(
        out if dense else bits,
        total if return_sum else None,
        v if return_state else None,
        bits if pack is True else None,
    )


def pack_spikes(s: Tensor, dim: int = -1, *, backend: str | None = None) -> Tensor:
    """Spikes as little-endian int32 words along ``dim``.

    Bit ``i`` of word ``w`` is ``s[32 w + i] > 0`` (so NaN is no spike); a row of L spikes takes
    ``ceil(L / 32)`` words, the last one padded with zeros.
    """
    dim = _pack.check(s, dim, "s")
    return _pack.pack_spikes(s, dim, backend)


def unpack_spikes(
    bits: Tensor,
    length: int,
    dim: int = -1,
    *,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """The inverse of :func:`pack_spikes`: rows of ``length`` spikes in ``dtype`` along ``dim``."""
    dim = _pack.check_bits(bits, length, dim)
    return _pack.unpack_spikes(bits, length, dim, dtype, backend)
