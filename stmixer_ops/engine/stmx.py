"""The names of :mod:`stmixer_ops.graph.stmx`, which users know from here."""

from ..graph.stmx import decode, encode

__all__ = ["decode", "encode"]
