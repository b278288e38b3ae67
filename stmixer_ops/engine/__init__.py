"""The spike-driven, time-stepped engine: networks that run without PyTorch."""

from ..graph import Graph
from .engine import Engine, RunResult
from .profile import Profile, StepProfile
from .stats import LayerStats, Stats

__all__ = ["Engine", "Graph", "LayerStats", "Profile", "RunResult", "Stats", "StepProfile"]
