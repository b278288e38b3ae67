"""From spikes to spikes: what stands between two populations runs in as few passes as it can.

In training a batch normalisation fuses with the neurons that read it. Folded into the layer before
it, for inference, layer and neurons are one op, which takes and gives bits. Modules that are not
exactly the library's, or that carry hooks, are called one after the other.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import functional as F
from .layers import STM, SpikeConv2d, SpikeLinear, channels_first, channels_last
from .lif import LIF, autocast_input

Pack = bool | Literal["only"]
Kind = TypeVar("Kind", bound=nn.Module)


class Spikes(NamedTuple):
    """What one layer hands to the next, channels innermost: ``[T, B, ..., C]``, their bits along
    the channels, or both. Layers that read real numbers take those in the place of spikes."""

    dense: Any
    bits: Tensor | None = None

    def unpacked(self, channels: int, dtype: torch.dtype) -> Tensor:
        """The dense form, made from the bits where there is nothing else."""
        if self.dense is not None:
            return self.dense
        assert self.bits is not None
        return F.unpack_spikes(self.bits, channels, dtype=dtype)


class Folded(nn.Identity):
    """Stands where a batch normalisation was whose scale and shift are in the layer before it.

    Weights that still have the batch normalisation are refused: without it they mean something
    else.
    """

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        norm = [key for key in state_dict if key.startswith(prefix)]
        if norm and not any(_UNFOLDED in message for message in error_msgs):
            error_msgs.append(f"{norm[0]} is among these weights, {_UNFOLDED}")


_UNFOLDED = (
    "but this model was optimised for inference and has its batch norms folded: load them into the "
    "model that it was made of and call optimize_for_inference again"
)


def backward_reads_bits() -> bool:
    """Whether packing spikes pays where a dense product reads them: in the backward pass only."""
    return torch.is_grad_enabled() and not torch.jit.is_tracing()


def pack_for(bn: nn.Module) -> Pack:
    """What neurons hand to a layer that has ``bn`` and neurons behind it: folded, it reads bits."""
    return "only" if isinstance(bn, Folded) else backward_reads_bits()


def has_hooks(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its ``forward``, so that it must be called."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def is_plain(module: nn.Module, *kinds: type[Kind]) -> TypeGuard[Kind]:
    """Whether ``module`` is exactly one of ``kinds``, so that its call may be fused away.

    Subclasses (SyncBatchNorm, users' own), replacements and hooked modules must be called.
    """
    return type(module) in kinds and not has_hooks(module)


def batch_norm(bn: nn.Module, y: Tensor) -> Tensor:
    """``bn`` over ``y [T, B, ..., C]``, same shape, by calling the module."""
    if y.dim() == 4 and is_plain(bn, nn.BatchNorm1d):
        return bn(y.flatten(0, 2)).view(y.shape)
    z = bn(channels_first(y).flatten(0, 1))
    return channels_last(z.unflatten(0, y.shape[:2]))


def fire(lif: nn.Module, x: Tensor, *, pack: Pack = False) -> Spikes:
    """Spikes of ``lif`` for currents ``x [T, B, ..., C]``."""
    if not (pack and is_plain(lif, LIF) and lif.input_scale == 1):
        return Spikes(channels_last(lif(channels_first(x))))
    spikes, _ = _named(F.lif(x, pack=pack, **lif.options()), pack)
    _observe(lif, spikes, x.shape[-1], x.dtype)
    return spikes


def _named(results: Any, pack: Pack) -> tuple[Spikes, list[Any]]:
    """What an op of :mod:`~stmixer_ops.functional` returned: the spikes, and what lies between
    the dense ones, which come first, and the bits, which come last."""
    listed = list(results) if isinstance(results, tuple) else [results]
    if pack == "only":  # bits in the place of spikes
        return Spikes(None, listed[0]), listed[1:]
    bits = listed.pop() if pack else None
    return Spikes(listed[0], bits), listed[1:]


def _observe(lif: LIF, spikes: Spikes, channels: int, dtype: torch.dtype) -> None:
    if LIF.observers:
        lif.observe(channels_first(spikes.unpacked(channels, dtype)), spikes.bits)


def project(layer: nn.Module, spikes: Spikes) -> Tensor:
    """Currents ``[T, B, ..., O]`` of ``layer``, by calling the module."""
    if isinstance(layer, SpikeLinear):
        s = spikes.unpacked(layer.in_features, autocast_input(layer.weight).dtype)
        return layer(s, spikes.bits)
    if isinstance(layer, nn.Conv2d):
        s = spikes.unpacked(layer.in_channels, autocast_input(layer.weight).dtype)
        return channels_last(layer(channels_first(s)))
    return layer(spikes.dense)


def project_then_lif(
    layer: nn.Module,
    bn: nn.Module,
    lif: nn.Module,
    spikes: Spikes,
    *,
    residual: Tensor | None = None,
    pack: Pack = False,
) -> tuple[Spikes, Any]:
    """``layer`` of ``spikes``, ``bn``, plus ``residual``, into neurons.

    Returns:
        their spikes, in the form ``pack`` asks for where that can be done, and the sum that they
        integrate (None without ``residual``).
    """
    if (
        isinstance(bn, Folded)
        and is_plain(lif, LIF)
        and (is_plain(layer, SpikeLinear) or is_plain(layer, SpikeConv2d))
    ):
        return _conv_lif(layer, lif, spikes, residual, pack)
    return _bn_then_lif(bn, lif, project(layer, spikes), residual, bool(pack))


def _conv_lif(
    layer: SpikeLinear | SpikeConv2d,
    lif: LIF,
    spikes: Spikes,
    residual: Tensor | None,
    pack: Pack,
) -> tuple[Spikes, Any]:
    x = channels_first(spikes.dense if spikes.bits is None else spikes.bits)
    weight = autocast_input(layer.weight)
    stream = None if residual is None else channels_first(residual)
    tokens = isinstance(layer, SpikeLinear)
    if isinstance(layer, SpikeConv2d):
        stride, padding = layer.stride[0], int(layer.padding[0])
    else:  # an image of N x 1 pixels
        x, weight = x.unsqueeze(-1), weight[:, :, None, None]
        stream = None if stream is None else stream.unsqueeze(-1)
        stride, padding = 1, 0
    options = lif.options()
    # The membrane in units of the input: nothing has to be scaled on the way.
    options["threshold"] /= lif.input_scale
    out = F.conv_lif(
        x,
        weight,
        layer.bias,
        stride,
        padding,
        residual=stream,
        return_sum=stream is not None,
        pack=pack,
        **options,
    )
    results = tuple(
        channels_last(r.squeeze(-1) if tokens else r)
        for r in (out if isinstance(out, tuple) else (out,))
    )
    fired, others = _named(results, pack)
    _observe(lif, fired, weight.shape[0], weight.dtype)
    return fired, others[0] if others else None


def _bn_then_lif(
    bn: nn.Module, lif: nn.Module, y: Tensor, residual: Tensor | None, pack: bool
) -> tuple[Spikes, Any]:
    """Batch normalisation of ``y [T, B, ..., C]``, plus ``residual``, into neurons.

    One fused op where ``bn`` is PyTorch's own and ``lif`` is :class:`LIF`.
    """
    if (
        (is_plain(bn, nn.BatchNorm1d) or is_plain(bn, nn.BatchNorm2d))
        and is_plain(lif, LIF)
        and (lif.input_scale == 1 or (residual is None and bn.affine))
    ):
        return _bn_lif(bn, lif, y, residual, pack)
    total = batch_norm(bn, y)
    if residual is None:
        return fire(lif, total, pack=pack), None
    total = residual + total.to(residual.dtype)
    return fire(lif, total, pack=pack), total


def _bn_lif(
    bn: _BatchNorm, lif: LIF, y: Tensor, residual: Tensor | None, pack: bool
) -> tuple[Spikes, Any]:
    weight: Tensor = bn.weight
    bias: Tensor = bn.bias
    if lif.input_scale != 1:
        weight, bias = weight * lif.input_scale, bias * lif.input_scale
    # As nn.BatchNorm's forward decides: statistics of the batch, and which running ones.
    tracked = not bn.training or bn.track_running_stats
    out = F.bn_lif(
        y,
        weight,
        bias,
        bn.running_mean if tracked else None,
        bn.running_var if tracked else None,
        training=bn.training or bn.running_mean is None,
        momentum=_momentum(bn),
        eps=bn.eps,
        residual=residual,
        return_sum=residual is not None,
        channel_dim=-1,
        pack=pack,
        **lif.options(),
    )
    spikes, others = _named(out, pack)
    _observe(lif, spikes, y.shape[-1], y.dtype)
    return spikes, others[0] if others else None


def _momentum(bn: _BatchNorm) -> float:
    """The factor of this update (momentum=None: cumulative average), counting the batch."""
    if bn.training and bn.track_running_stats and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if bn.momentum is None:
            return 1.0 / float(bn.num_batches_tracked)
    return 0.0 if bn.momentum is None else bn.momentum


def pack_for_mixing(stm: nn.Module, lif: nn.Module, bn: nn.Module) -> Pack:
    """What neurons hand to ``stm``, and ``lif`` behind it to the layer before ``bn``: bits alone
    where that layer reads bits and token mixing is one op. Gradients need dense spikes."""
    fits = is_plain(stm, STM) and is_plain(lif, LIF) and isinstance(bn, Folded)
    return "only" if fits else False


def mix_then_lif(
    stm: nn.Module, lif: nn.Module, spikes: Spikes, channels: int, *, pack: Pack
) -> Spikes:
    """Token mixing of spikes ``[T, B, N, C]`` into neurons; the currents stay inside the op.

    ``pack`` is what :func:`pack_for_mixing` says; the spikes come in that form where they can.
    """
    if not (is_plain(stm, STM) and is_plain(lif, LIF)):
        return Spikes(channels_last(lif(stm(channels_first(spikes.dense)))))
    weight = autocast_input(stm.weight)
    if lif.input_scale != 1:
        weight = weight * lif.input_scale
    x = spikes.bits if pack == "only" and spikes.bits is not None else spikes.dense
    out = F.token_mix_lif(channels_first(x), weight, channels=channels, pack=pack, **lif.options())
    fired, _ = _named(channels_last(out), pack)
    _observe(lif, fired, channels, weight.dtype)
    return fired
