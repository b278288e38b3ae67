"""``stmixer backends``."""

from __future__ import annotations

import argparse

from .._extension import extension


def configure(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        from .. import backend_report
    except ImportError as error:
        if error.name != "torch":
            raise
        print(f"ops     not available: they need PyTorch (pip install torch): {error}")
        print(f"engine  {_engine_line()}")
        return 0
    print(backend_report())
    return 0


def _engine_line() -> str:
    """What the engine runs on; it needs no PyTorch."""
    try:
        native = extension()
        return f"available: {native.cpu_isa()} (of {', '.join(native.cpu_isas())})"
    except RuntimeError as error:  # not built; an unknown STMIXER_CPU_ISA
        return f"not available: {error}"
