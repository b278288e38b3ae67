"""Trained models as event-driven graphs that run without PyTorch."""

from .engine import Engine, RunResult
from .graph import Graph
from .profile import Profile, StepProfile
from .stats import LayerStats, Stats

__all__ = ["Engine", "Graph", "LayerStats", "Profile", "RunResult", "Stats", "StepProfile"]
