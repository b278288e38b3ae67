"""Spiking token mixers: fused training ops, models and a spike-driven CPU engine.

Names are loaded on first use, so that ``stmixer_ops.Engine.load`` runs without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_SUBMODULES = (
    "functional",
    "surrogate",
    "nn",
    "models",
    "graph",
    "engine",
    "data",
    "train",
    "exchange",
    "measure",
    "bench",
    "cli",
)
_HOME = {
    "LIF": "nn",
    "STM": "nn",
    "TokenMixer": "nn",
    "ChannelMLP": "nn",
    "STMBlock": "nn",
    "IPSPS": "nn",
    "SPS": "nn",
    "SSA": "nn",
    "SMLLoss": "nn",
    "decay_from_tau": "nn",
    "optimize_for_inference": "nn",
    "record": "nn",
    "STMixer": "models",
    "Spikformer": "models",
    "create_model": "models",
    "list_models": "models",
    "load_official": "models",
    "load_pretrained": "models",
    "Engine": "engine",
    "Graph": "graph",
    "use_backend": "ops",
    "backend_report": "ops",
}

if TYPE_CHECKING:
    from . import (
        bench,
        cli,
        data,
        engine,
        exchange,
        functional,
        graph,
        measure,
        models,
        nn,
        surrogate,
        train,
    )  # fmt: skip
    from .engine import Engine
    from .graph import Graph
    from .models import (
        Spikformer,
        STMixer,
        create_model,
        list_models,
        load_official,
        load_pretrained,
    )
    from .nn import (
        IPSPS,
        LIF,
        SPS,
        SSA,
        STM,
        ChannelMLP,
        SMLLoss,
        STMBlock,
        TokenMixer,
        decay_from_tau,
        optimize_for_inference,
        record,
    )
    from .ops import backend_report, use_backend


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_HOME})


__all__ = [
    "IPSPS",
    "LIF",
    "SPS",
    "SSA",
    "STM",
    "ChannelMLP",
    "Engine",
    "Graph",
    "SMLLoss",
    "STMBlock",
    "STMixer",
    "Spikformer",
    "TokenMixer",
    "backend_report",
    "bench",
    "cli",
    "create_model",
    "data",
    "decay_from_tau",
    "engine",
    "exchange",
    "functional",
    "graph",
    "list_models",
    "load_official",
    "load_pretrained",
    "measure",
    "models",
    "nn",
    "optimize_for_inference",
    "record",
    "surrogate",
    "train",
    "use_backend",
]
