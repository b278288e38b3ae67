"""Which files of a set cannot be read: all of them, before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CHECKS = ("auto", "full", "headers", "off")
FULL_LIMIT = 8 << 30  # bytes of files up to which "auto" is "full"
_LISTED = 50


def find_damaged(count: int, read: Callable[[int], object]) -> dict[int, str]:
    """Which of ``count`` items ``read`` fails on, and its error. Runs in threads: Pillow decodes
    without holding Python's lock."""

    def complaint(index: int) -> str | None:
        try:
            read(index)
        except (OSError, ValueError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        reasons = enumerate(pool.map(complaint, range(count)))
        return {index: reason for index, reason in reasons if reason is not None}


def thoroughness(check: str, paths: Sequence[Path]) -> str:
    """What ``check`` stands for with these files: full, headers or off."""
    if check not in CHECKS:
        raise ValueError(f"check must be one of {', '.join(CHECKS)}, got {check!r}")
    if check != "auto":
        return check
    size = sum(path.stat().st_size for path in paths if path.exists())
    return "full" if size <= FULL_LIMIT else "headers"


def listed(reasons: Sequence[str], count: int) -> str:
    """``3 of 200 images cannot be read: ...``, the first fifty by name."""
    more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
    return f"{len(reasons)} of {count} images cannot be read: {'; '.join(reasons[:_LISTED])}{more}"
