"""``import stmixer_ops.models.timm`` makes ``timm.create_model`` know this library's models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

try:
    from timm.models import register_model
    from timm.models._features import FeatureGetterNet
except ImportError as error:
    raise ImportError(
        "registering the models with timm needs timm: pip install 'stmixer-ops[augment]'"
    ) from error

from .registry import create_model, list_models


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(features_only: bool = False, out_indices: Any = 4, **options: Any) -> nn.Module:
        model = create_model(name, **options)
        return FeatureGetterNet(model, out_indices) if features_only else model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"``stmixer_ops.create_model({name!r})``, or the stream after some blocks."
    return create


for _name in list_models():
    globals()[_name] = register_model(_entrypoint(_name))
