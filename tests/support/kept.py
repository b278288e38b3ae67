"""Results of compilers, kept under ``build/cache`` while nothing that they depend on changes.

An entry is named by a hash of what was asked (code, options, versions of the compilers) and lists
the files that were read, each with its hash: one changed file is reason to compile again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from support.paths import ROOT

FOLDER = ROOT / "build" / "cache"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def keep(kind: str, asked: Any, make: Callable[[], tuple[Any, Iterable[Path]]]) -> Any:
    """The result of an earlier ``make()``, which also names the files it read, or a new one.

    Args:
        kind: folder of the entry.
        asked: everything but files that the result depends on, as JSON.
        make: gives the result, as JSON, and the files.
    """
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    entry = FOLDER / kind / f"{name}.json"
    if entry.is_file():
        found = json.loads(entry.read_text())
        if all(digest(Path(path)) == known for path, known in found["files"].items()):
            return found["result"]
    result, files = make()
    found = {"files": {str(path): digest(Path(path)) for path in files}, "result": result}
    entry.parent.mkdir(parents=True, exist_ok=True)
    partial = entry.with_suffix(f".{os.getpid()}")  # two workers may write at the same time
    partial.write_text(json.dumps(found))
    partial.replace(entry)
    return json.loads(json.dumps(result))
