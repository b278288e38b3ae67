"""What the next forward would run: weights that are computed from others, hooks, frozen norms."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .wrappers import inner

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_WEIGHT_HOOKS = (WeightNorm, SpectralNorm, prune.BasePruningMethod)


def with_plain_weights(model: nn.Module) -> nn.Module:
    """``model``; or, where weights are computed from others, a copy in eval mode with the results.

    That is, weights under :mod:`torch.nn.utils.parametrize`, the older hooks of weight and
    spectral norm, and pruning. Before the next forward an old hook's last result may be stale.
    """
    if not any(_computes_weights(module) for module in model.modules()):
        return model
    # Results that hooks have left behind are no leaves, which deepcopy refuses.
    results = {
        id(value): value.detach()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    with torch.no_grad():
        plain = copy.deepcopy(model, results).eval()
        for module in plain.modules():
            _make_plain(module)
    return plain


def _computes_weights(module: nn.Module) -> bool:
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(isinstance(h, _WEIGHT_HOOKS) for h in hooks)


def _make_plain(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        # Not by remove_parametrizations: it changes the class, which the original shares.
        kind = parametrize.type_before_parametrizations(module)
        parametrizations: Any = module._modules.pop("parametrizations")
        values = {name: tensors() for name, tensors in parametrizations.items()}
        module.__class__ = kind
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value.detach().clone()))
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)


def acts_beside_forward(module: nn.Module) -> str | None:
    """What a call of ``module`` does beside its class's ``forward``, None if nothing."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has forward hooks, which nobody would call; remove them first"
    return replaced_forward(module)


def replaced_forward(module: nn.Module) -> str | None:
    """What to do about a ``forward`` set on ``module`` itself, None if there is none.

    A copy of it would still refer to the original module.
    """
    if "forward" not in vars(module) or inner(module) is not None:
        return None
    return (
        "its forward was replaced; undo that first (accelerate: "
        "unwrap_model(model, keep_fp32_wrapper=False))"
    )


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is exactly a batch norm of PyTorch or a frozen one of torchvision.

    A subclass may compute something else: those of timm hold an activation.
    """
    return type(module) in NORMS or is_frozen_norm(module)


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a batch norm made of constants (``timm.utils.freeze``, detection)."""
    kind = type(module)
    home = kind.__module__.partition(".")[0]
    return kind.__name__ == "FrozenBatchNorm2d" and home in ("torchvision", "detectron2")


def merge_hint(layer: nn.Module) -> str:
    """What to do about a layer that others have wrapped, empty if it does not look like that."""
    inside = [m for m in layer.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not inside or inside == [layer]:
        return ""
    return "; merge adapters into the weight of the layer first (peft: merge_and_unload())"
