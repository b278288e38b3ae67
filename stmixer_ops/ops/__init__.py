"""The ops, each with all its backends side by side; :mod:`stmixer_ops.functional` documents them."""

from ._backend import use_backend

__all__ = ["use_backend"]
