"""Modules that only stand around another one, and the names of what is inside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.optim.swa_utils import AveragedModel

_WRAPPERS = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


def inner(module: nn.Module) -> nn.Module | None:
    """What a wrapper of ``torch.compile``, data-parallel or averaging stands around, else None."""
    compiled = getattr(module, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return compiled
    wraps = isinstance(module, _WRAPPERS) or _is_timms_average(module)
    return module.module if wraps else None  # type: ignore[return-value]


def _is_timms_average(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__.startswith("ModelEma") and kind.__module__ == "timm.utils.model_ema"


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside all wrappers."""
    while (inside := inner(model)) is not None:
        model = inside
    return model


def module_paths(model: nn.Module) -> dict[nn.Module, str]:
    """All modules of ``model`` and their (first) paths, to which wrappers add nothing."""
    paths: dict[nn.Module, str] = {}

    def walk(module: nn.Module, path: str) -> None:
        module = unwrap(module)
        if module not in paths:
            paths[module] = path
            for name, child in module.named_children():
                walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    return paths


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Gives every module of ``model`` its own training mode back: frozen parts may differ."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
