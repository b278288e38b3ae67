"""Spiking token mixers: fused training ops, models and a spike-driven CPU engine.

Names are loaded on first use, so that ``stmixer_ops.Engine.load`` runs without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._extension import use_installed_package
from ._lazy import loader

use_installed_package()

__version__ = "0.1.0"

# Submodule -> names of it that are the package's, too.
_NAMES: dict[str, tuple[str, ...]] = {
    "functional": (),
    "surrogate": (),
    "nn": (
        "LIF",
        "STM",
        "TokenMixer",
        "ChannelMLP",
        "STMBlock",
        "IPSPS",
        "SPS",
        "SSA",
        "SMLLoss",
        "decay_from_tau",
        "optimize_for_inference",
        "record",
    ),
    "models": (
        "STMixer",
        "Spikformer",
        "create_model",
        "list_models",
        "load_official",
        "load_pretrained",
    ),
    "graph": ("Graph",),
    "engine": ("Engine",),
    "events": ("EventSimulator",),
    "ops": ("use_backend", "backend_report"),
    "data": (),
    "train": (),
    "exchange": (),
    "chips": ("check_async",),
    "measure": (),
    "bench": (),
    "cli": (),
}

if TYPE_CHECKING:
    from . import (
        bench,
        chips,
        cli,
        data,
        engine,
        events,
        exchange,
        functional,
        graph,
        measure,
        models,
        nn,
        surrogate,
        train,
    )  # fmt: skip
    from .chips import check_async
    from .engine import Engine
    from .events import EventSimulator
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


__getattr__ = loader(__name__, _NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "IPSPS",
    "LIF",
    "SPS",
    "SSA",
    "STM",
    "ChannelMLP",
    "Engine",
    "EventSimulator",
    "Graph",
    "SMLLoss",
    "STMBlock",
    "STMixer",
    "Spikformer",
    "TokenMixer",
    "backend_report",
    "bench",
    "check_async",
    "chips",
    "cli",
    "create_model",
    "data",
    "decay_from_tau",
    "engine",
    "events",
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
