"""The ops, each with all its backends side by side, documented in ``stmixer_ops.functional``."""

from ._backend import use_backend
from .report import BackendReport, backend_report

__all__ = ["BackendReport", "backend_report", "use_backend"]
