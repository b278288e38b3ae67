"""STMixer and Spikformer, their named configurations, and the official checkpoints."""

from .stmixer import STMixer

__all__ = ["STMixer"]
