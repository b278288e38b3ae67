"""The names of :mod:`stmixer_ops.graph.export`, which users know from here."""

from ..graph.export import export

__all__ = ["export"]
