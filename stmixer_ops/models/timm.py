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
    def create(
        features_only: bool = False, out_indices: Any = None, pretrained_cfg: Any = None,
        **options: Any,
    ) -> nn.Module:  # fmt: skip
        # timm hands the tag of "name.tag" on as the configuration.
        tag = f".{pretrained_cfg}" if isinstance(pretrained_cfg, str) else ""
        if pretrained_cfg and not tag:
            options["pretrained_cfg"] = pretrained_cfg
        model = create_model(name + tag, **options)
        if not features_only:
            return model
        return FeatureGetterNet(model, min(4, model.depth) if out_indices is None else out_indices)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"``stmixer_ops.create_model({name!r})``, or the stream after some blocks."
    return create


for _name in list_models():
    globals()[_name] = register_model(_entrypoint(_name))
