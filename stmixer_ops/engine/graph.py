"""The names of :mod:`stmixer_ops.graph.graph`, which users know from here."""

from ..graph.graph import PRECISIONS, Description, Graph

__all__ = ["PRECISIONS", "Description", "Graph"]
