"""The one place that loads the extension module, and who takes over where it was not built.

Without torch: the engine runs without it.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE, _EXTENSION = "stmixer_ops", "stmixer_ops._C"
_FOLDER = Path(__file__).resolve().parent


@cache
def _load() -> ModuleType | str:
    """The extension module, or why there is none."""
    try:
        from . import _C
    except ImportError as error:
        return f"the extension module did not load ({error}); `pip install .` builds it"
    return _C


def obstacle() -> str | None:
    """Why there is no extension, or None."""
    loaded = _load()
    return loaded if isinstance(loaded, str) else None


def extension() -> Any:
    """The extension module.

    Raises:
        RuntimeError: saying why it did not load.
    """
    loaded = _load()
    if isinstance(loaded, str):
        raise RuntimeError(f"stmixer_ops: {loaded}")
    return loaded


def use_installed_package() -> None:
    """Let the installed package stand in for a checkout that Python was merely started in.

    Python looks first where it was started. Sources without a built extension would hide the
    package that has one.
    """
    started_here = sys.path and Path(sys.path[0]).resolve() == _FOLDER.parent
    if not started_here or importlib.util.find_spec(_EXTENSION) is not None:
        return
    others = [entry for entry in sys.path if Path(entry).resolve() != _FOLDER.parent]
    spec = PathFinder.find_spec(_PACKAGE, others)
    folders = None if spec is None else spec.submodule_search_locations
    if spec is None or spec.loader is None or PathFinder.find_spec(_EXTENSION, folders) is None:
        return
    print(
        f"stmixer_ops: {_FOLDER} has no built extension; this is the installed {spec.origin}",
        file=sys.stderr,
    )
    for name in [name for name in sys.modules if name.startswith(f"{_PACKAGE}.")]:
        del sys.modules[name]  # of the checkout
    sys.modules[_PACKAGE] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
