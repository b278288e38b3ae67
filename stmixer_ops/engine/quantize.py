"""The names of :mod:`stmixer_ops.graph.quantize`, which users know from here."""

from ..graph.quantize import direct_layers, int16_layers, quantize

__all__ = ["direct_layers", "int16_layers", "quantize"]
