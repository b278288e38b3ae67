"""``stmixer events``: recordings of event cameras; needs no PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from .._files import user_path
from ..events import Summary, draw_recording, summarize, write
from ..events.files import SUFFIXES
from ..events.frames import SPLITS
from ..events.page import write_page
from ..events.playback import play
from ..measure.table import quantity
from ._arguments import positive
from ._labels import class_names, labels_beside
from ._progress import progress
from ._recordings import (
    EPILOG,
    add_reading,
    add_scaling,
    add_simulation,
    load_simulator,
    read_recording,
    scaled_recording,
)

_INFO = "duration, rate, polarity balance and hot pixels of recordings"
_CONVERT = "one format to another, cropped or scaled on the way"
_SHOW = "a picture: frames over time and the rate of events"
_PLAY = "a page with a slider over time: events, spikes of each population, logits, SOPs so far"
_HOT_LISTED = 5


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Formats by suffix: {', '.join(SUFFIXES)}."
    commands = parser.add_subparsers(
        dest="what", metavar="WHAT", required=True, parser_class=type(parser)
    )
    info = commands.add_parser("info", help=_INFO, description=_INFO)
    info.set_defaults(run=_info)
    info.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    info.add_argument("--json", action="store_true", help="print JSON, one line a recording")
    convert = commands.add_parser("convert", help=_CONVERT, description=_CONVERT)
    convert.set_defaults(run=_convert)
    convert.add_argument("file", metavar="IN", help="recording")
    convert.add_argument(
        "out", metavar="OUT", help="recording to write; its suffix says the format"
    )
    add_scaling(convert)
    show = commands.add_parser("show", help=_SHOW, description=_SHOW)
    show.set_defaults(run=_show)
    show.add_argument("file", metavar="FILE", help="recording")
    show.add_argument("--out", help="picture to write (default: the recording's name, .png)")
    show.add_argument("--T", type=positive, default=8, help="frames (default 8)")
    show.add_argument("--split", choices=SPLITS, default="time", help="how frames are cut")
    player = commands.add_parser("play", help=_PLAY, description=_PLAY, epilog=EPILOG)
    player.set_defaults(run=_play)
    player.add_argument("model", metavar="MODEL", help="file of stmixer compile (.stmx)")
    player.add_argument("file", metavar="FILE", help="recording")
    player.add_argument("--html", help="page to write (default: the recording's name, .html)")
    add_scaling(player)
    add_simulation(player)
    for command in (info, convert, show, player):
        add_reading(command)


def _info(args: argparse.Namespace) -> int:
    unread = 0
    for name in args.files:
        try:
            summary = summarize(read_recording(args, name))
        except (OSError, ValueError) as error:  # the others are read all the same
            print(f"stmixer: error: {' '.join(str(error).split())}", file=sys.stderr)
            unread += 1
            continue
        if args.json:
            print(json.dumps({"file": str(name), **dataclasses.asdict(summary)}))
        else:
            print(_as_text(name, summary))
    return 0 if not unread else 1 if unread < len(args.files) else 2


def _as_text(name: str, summary: Summary) -> str:
    height, width = summary.sensor
    known = "" if summary.sensor_known else " (not in the file; the smallest that holds all events)"
    rows = [
        ("events", f"{summary.count:,}"),
        ("duration", f"{summary.duration / 1e6:.6f} s"),
        ("rate", quantity(summary.rate, "events/s")),
        ("sensor", f"{width} x {height}{known}"),
        ("active", f"{summary.active:,} pixels, {100 * summary.active / (height * width):.1f} %"),
    ]
    if summary.on is not None:
        rows[1] = ("duration", f"{rows[1][1]}, from {summary.first} to {summary.last} µs")
        rows.append(("polarity", f"{100 * summary.on:.1f} % brighter, "
                                 f"{100 - 100 * summary.on:.1f} % darker"))  # fmt: skip
    hot = ", ".join(f"({x}, {y}): {n:,}" for x, y, n in summary.hot[:_HOT_LISTED])
    more = f" and {len(summary.hot) - _HOT_LISTED} more" if len(summary.hot) > _HOT_LISTED else ""
    rows.append(("hot pixels", f"{len(summary.hot)}: {hot}{more} events" if hot else "none"))
    return "\n".join([str(name), *(f"  {label:<11}{value}" for label, value in rows)])


def _convert(args: argparse.Namespace) -> int:
    events = scaled_recording(args, args.file)
    out = user_path(args.out)
    write(out, events)
    print(f"{out}: {len(events):,} events, {out.stat().st_size / 1e6:.2f} MB")
    return 0


def _show(args: argparse.Namespace) -> int:
    events = read_recording(args, args.file)
    out = user_path(args.out or Path(args.file).with_suffix(".png"))
    draw_recording(out, events, _title(args.file, summarize(events)), args.T, args.split)
    print(out)
    return 0


def _play(args: argparse.Namespace) -> int:
    labels = labels_beside(Path(args.model))
    simulator = load_simulator(args, labels)
    classes = class_names(labels, simulator.num_classes)
    events = scaled_recording(args, args.file, labels)
    out = user_path(args.html or Path(args.file).with_suffix(".html"))
    with progress("simulating") as shown:
        playback = play(
            simulator, events, args.t0, args.duration,
            progress=lambda done, pieces: shown.status(f"{100 * done // pieces} %"),
        )  # fmt: skip
    what = f"{Path(args.model).name} ({simulator.schedule})"
    write_page(out, playback, f"{_title(args.file, summarize(events))}, {what}", classes)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return 0


def _title(name: Any, summary: Summary) -> str:
    return f"{Path(name).name}: {quantity(summary.count)} events in {summary.duration / 1e6:.3g} s"
