"""Names of a package that are imported when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def loader(package: str, home: Mapping[str, str | None]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package``; ``home``: name -> submodule it lies in, or None where the
    name is a submodule itself."""

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        submodule = home[name]
        if submodule is None:
            return importlib.import_module(f".{name}", package)
        value = getattr(importlib.import_module(f".{submodule}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    return load
