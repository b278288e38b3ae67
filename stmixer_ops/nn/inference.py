"""A trained network made ready to run: batch norm folded, spikes handed on as bits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..surrogate import Dspike
from .effective import (
    is_frozen_norm,
    is_norm,
    merge_hint,
    replaced_forward,
    with_plain_weights,
)
from .embed import InputConv2d
from .fused import Folded, has_hooks
from .layers import CountedLinear, SpikeConv2d, SpikeLinear
from .lif import LIF
from .sml import SurrogateModule
from .wrappers import unwrap

_LAYERS = (SpikeLinear, CountedLinear, SpikeConv2d, InputConv2d)


def optimize_for_inference(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that computes the same spikes in fewer passes; ``model`` is untouched.

    Each batch norm is folded (in float64) into the layer before it. Layer, residual sum and neurons
    then are one op (:func:`stmixer_ops.functional.conv_lif`) that reads and writes spikes as bits,
    and so are token mixing and its neurons (:func:`stmixer_ops.functional.token_mix_lif`): between
    the neurons of a block spikes take 1/8 byte each. Dense are only those of the last neurons of
    all, which a layer without neurons reads, and of self-attention. A call makes no decision that
    depends on data and waits for nothing, as ``torch.compile(fullgraph=True)`` and CUDA graphs
    need it (the latter not yet tried). It runs on a CPU too; there the fastest is
    :class:`stmixer_ops.Engine`.

    Args:
        model: :class:`~stmixer_ops.STMixer`, :class:`~stmixer_ops.Spikformer`, or any network that
            holds modules of this library, in eval mode; other modules in it stay as they are.
            Wrappers of ``torch.compile``, DDP and moving averages are taken off. Weights that are
            computed from others (parametrised, pruned) are computed once.
    Returns:
        the same classes and module paths, in eval mode. In ``state_dict`` each layer has gained a
        ``bias`` and the entries of its batch norm are gone; surrogate modules, which serve training
        only, are left out (``return_aux=True`` gives an empty list). No gradients pass through.
        :class:`~stmixer_ops.record` and ``Engine.compile`` work on it as on ``model``.
    Raises:
        TypeError: ``model`` is no module.
        ValueError: by module path, a batch norm in training mode, or a ``forward`` that was set on
            a module; in a module of this library one
            that cannot be folded, since it has no running statistics, has hooks, is of a foreign
            kind or follows a foreign layer; neurons whose (custom) surrogate does not fire exactly
            where ``u >= 0``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inside = unwrap(model)
    plain = with_plain_weights(inside)
    result = copy.deepcopy(plain) if plain is inside else plain
    _check_modules(inside)
    _drop_surrogate_modules(result)
    folded: set[nn.Module] = set()
    for path, module in result.named_modules():
        # A subclass may use its layers in another way: it has to say so itself.
        for layer, bn in vars(type(module)).get("normalised", {}).items():
            _fold_into(module, layer, bn, path, folded)
    for path, module in result.named_modules():
        if isinstance(module, LIF):
            _forget_surrogate(module, path)
    return result.eval().requires_grad_(False)


def fold_obstacle(bn: Any) -> str | None:
    """What keeps the numbers of ``bn`` from being constants, or None."""
    if isinstance(bn, _BatchNorm) or is_frozen_norm(bn):
        if bn.running_mean is None or bn.running_var is None:
            return "without running statistics: batch statistics exist in training only"
        if bool((bn.running_var + bn.eps <= 0).any()):
            return "whose running_var + eps must be positive"
    return None


def folded_values(layer: Any, bn: Any) -> tuple[Tensor, Tensor]:
    """Weight ``[out, ...]`` and bias ``[out]`` of ``layer`` followed by ``bn`` in eval mode.

    In float64; ``bn`` may be :class:`Folded` or a frozen norm.
    """
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if isinstance(bn, Folded):
        return weight, bias
    scale = 1 / (bn.running_var.double() + bn.eps).sqrt()
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    bias = scale * (bias - bn.running_mean.double())
    if bn.bias is not None:
        bias = bias + bn.bias.detach().double()
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias


def _refuse(module: nn.Module, path: str, reason: str) -> None:
    raise ValueError(f"cannot fold {path or 'the model'} ({type(module).__name__}): {reason}")


def _check_modules(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            _refuse(module, path, "it is in training mode; call model.eval() first")
        if (reason := replaced_forward(module)) is not None:
            _refuse(module, path, reason)


def _drop_surrogate_modules(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and any(
                isinstance(m, SurrogateModule) for m in child
            ):
                setattr(module, name, nn.ModuleList())


def _fold_into(
    module: nn.Module, layer_name: str, bn_name: str, path: str, folded: set[nn.Module]
) -> None:
    layer: Any = getattr(module, layer_name)
    bn: Any = getattr(module, bn_name)
    layer_path, bn_path = (f"{path}.{n}".lstrip(".") for n in (layer_name, bn_name))
    if isinstance(bn, Folded):
        return
    if type(layer) not in _LAYERS:
        _refuse(layer, layer_path, f"it is no layer of this library{merge_hint(layer)}")
    if layer in folded:
        _refuse(layer, layer_path, "it is used in two places")
    if not is_norm(bn):
        _refuse(bn, bn_path, "it is no batch norm of PyTorch")
    if has_hooks(bn):
        _refuse(bn, bn_path, "it has hooks, which nobody would call")
    obstacle = fold_obstacle(bn)
    if obstacle is not None:
        _refuse(bn, bn_path, obstacle)
    dtype = layer.weight.dtype
    weight, bias = (value.to(dtype) for value in folded_values(layer, bn))
    if weight.dim() == 4:  # as the kernels read it: the channels innermost
        weight = weight.contiguous(memory_format=torch.channels_last)
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    setattr(module, bn_name, Folded())
    folded.add(layer)


def fires_at_threshold(lif: LIF) -> bool:
    """Whether the surrogate is a step forward: users may give any callable."""
    u = torch.tensor([-1.0, -1e-6, 0.0, 1e-6, 1.0], device="cpu")
    with torch.no_grad():
        fired = lif.surrogate(u)
    return torch.equal(fired.to(u), (u >= 0).to(u))


def _forget_surrogate(lif: LIF, path: str) -> None:
    """Without a gradient the surrogate is a step: the kernels' own, whatever it was."""
    if not fires_at_threshold(lif):
        _refuse(lif, path, f"its surrogate {lif.surrogate!r} does not fire exactly where u >= 0")
    del lif.surrogate  # a child module leaves its place to nothing else
    lif.surrogate = Dspike(2.5)
