"""STMixer and Spikformer, their named configurations, and the official checkpoints."""

from .official import load_official
from .pretrained import load_pretrained
from .registry import create_model, list_models
from .spikformer import Spikformer
from .stmixer import STMixer

__all__ = [
    "STMixer",
    "Spikformer",
    "create_model",
    "list_models",
    "load_official",
    "load_pretrained",
]
