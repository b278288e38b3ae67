"""Event cameras: recordings in and out of files, and frames of them.

A recording is a structured array :class:`Events`: ``t`` int64 (µs, sorted), ``x`` and ``y`` uint16,
``p`` uint8 (1: brighter). Whatever has these fields under the names people give them counts as one:
structured arrays of tonic, dictionaries of SpikingJelly. Needs NumPy alone.
"""

from typing import TYPE_CHECKING

from .._lazy import loader

if TYPE_CHECKING:
    from .array import DTYPE, Events, as_events
    from .files import read, write
    from .frames import crop, downsample, to_frames
    from .page import write_page
    from .picture import draw_recording
    from .playback import Playback, play
    from .result import EventResult, EventStats, RunStats
    from .simulator import EventSimulator
    from .stream import EventStream
    from .summary import Summary, summarize

__getattr__ = loader(
    __name__,
    {
        "array": ("DTYPE", "Events", "as_events"),
        "files": ("read", "write"),
        "frames": ("crop", "downsample", "to_frames"),
        "page": ("write_page",),
        "picture": ("draw_recording",),
        "playback": ("Playback", "play"),
        "result": ("EventResult", "EventStats", "RunStats"),
        "simulator": ("EventSimulator",),
        "stream": ("EventStream",),
        "summary": ("Summary", "summarize"),
    },
)

__all__ = [
    "DTYPE",
    "EventResult",
    "EventSimulator",
    "EventStats",
    "EventStream",
    "Events",
    "Playback",
    "RunStats",
    "Summary",
    "as_events",
    "crop",
    "downsample",
    "draw_recording",
    "play",
    "read",
    "summarize",
    "to_frames",
    "write",
    "write_page",
]
