"""Modules, time-first: neurons, token mixers, patch splitting, surrogate modules, recorder."""

from .attention import SSA
from .block import ChannelMLP, STMBlock, TokenMixer
from .embed import IPSPS, SPS
from .inference import optimize_for_inference
from .layers import STM, SpikeConv2d, SpikeLinear
from .lif import LIF, decay_from_tau
from .recorder import record
from .sml import SMLLoss, SurrogateModule

__all__ = [
    "IPSPS",
    "LIF",
    "SPS",
    "SSA",
    "STM",
    "ChannelMLP",
    "SMLLoss",
    "STMBlock",
    "SpikeConv2d",
    "SpikeLinear",
    "SurrogateModule",
    "TokenMixer",
    "decay_from_tau",
    "optimize_for_inference",
    "record",
]
