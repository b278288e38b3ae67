"""Which files of a set cannot be read: all of them, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKS = ("auto", "full", "headers", "off")
FULL_LIMIT = 8 << 30  # bytes of files up to which "auto" is "full"
_LISTED = 50
_PART = 64  # items a thread takes at a time


def find_damaged(count: int, read: Callable[[int], object]) -> dict[int, str]:
    """Which of ``count`` items ``read`` fails on, and its error. Runs in threads: Pillow decodes
    without holding Python's lock."""

    def complaints(indices: range) -> dict[int, str]:
        found = {}
        for index in indices:
            try:
                read(index)
            except (OSError, ValueError) as error:
                found[index] = str(error)
        return found

    parts = [range(i, min(i + _PART, count)) for i in range(0, count, _PART)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return {i: reason for part in pool.map(complaints, parts) for i, reason in part.items()}


def thoroughness(check: str, paths: Sequence[Path]) -> str:
    """What ``check`` stands for with these files: full, headers or off."""
    if check not in CHECKS:
        raise ValueError(f"check must be one of {', '.join(CHECKS)}, got {check!r}")
    if check != "auto":
        return check
    size = sum(path.stat().st_size for path in paths if path.exists())
    return "full" if size <= FULL_LIMIT else "headers"


def listed(reasons: Sequence[str], count: int, word: str = "images") -> str:
    """``3 of 200 images cannot be read: ...``, the first fifty by name."""
    more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    return f"{len(reasons)} of {count} {word} cannot be read: {'; '.join(reasons[:_LISTED])}{more}"
