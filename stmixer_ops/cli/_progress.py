"""A sign of life from what takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_SILENT = 2.0  # seconds until the first sign
_TERMINAL, _LINES = 0.5, 10.0  # seconds between signs, which a terminal shows in one place


class Progress:
    """What :func:`progress` gives; both methods may be called from any thread."""

    def __init__(self, label: str) -> None:
        self._label, self._status = label, ""
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = False
        self._lock = threading.Lock()
        self._done = threading.Event()

    def status(self, text: str) -> None:
        """What the next sign says, such as ``3 of 10``."""
        self._status = text

    def line(self, text: str, file: TextIO | None = None) -> None:
        """Print one line, on standard output by default; no sign stands in its way."""
        with self._lock:
            self._clear()
            print(text, file=file, flush=True)

    def _clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False

    def _tick(self) -> None:
        wait = _SILENT
        while not self._done.wait(wait):
            wait = _TERMINAL if self._terminal else _LINES
            parts = (self._label, self._status, f"{time.monotonic() - self._start:.0f} s")
            text = ", ".join(filter(None, parts))
            with self._lock:
                self._clear()
                print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
                self._shown = self._terminal


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """Within, standard error shows ``label``, the status and the time, from two seconds on."""
    shown = Progress(label)
    thread = threading.Thread(target=shown._tick, daemon=True)
    thread.start()
    try:
        yield shown
    finally:
        shown._done.set()
        thread.join()
        shown._clear()
