"""What a person sees while something long runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

Advance = Callable[[str], None]


def duration(seconds: float) -> str:
    """For people: ``45 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class Display:
    """Plain lines on ``stream`` (standard error by default); tasks are silent."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def line(self, text: str) -> None:
        """Print one line."""
        print(text, file=self._stream or sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """``total`` pieces of work; call what this gives after each, with a short status.

        An empty status leaves the last one standing.
        """
        yield lambda status: None


class Quiet(Display):
    """Shows nothing."""

    def line(self, text: str) -> None:
        pass


class Bars(Display):
    """A rich progress bar for each task, lines printed above it."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self._console = console

    def line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(label, total=total, status="")

            def advance(status: str) -> None:
                if status:
                    progress.update(task, status=status)
                progress.advance(task)

            yield advance


def open_display() -> Display:
    """Bars if standard error is a terminal and rich is installed, else plain lines."""
    if sys.stderr.isatty():
        try:
            from rich.console import Console
        except ImportError:
            return Display()
        return Bars(Console(stderr=True))
    return Display()
