"""The network as data: what it says, the files that hold it, where it comes from.

:mod:`~stmixer_ops.graph.export` makes a :class:`Graph` of a module tree,
:mod:`~stmixer_ops.graph.quantize` one of integers of one of real numbers, and
:mod:`~stmixer_ops.graph.stmx` writes and reads `.stmx` files. Nothing here runs a network.
"""

from .graph import PRECISIONS, Description, Graph

__all__ = ["PRECISIONS", "Description", "Graph"]
