"""``stmixer events``: recordings of event cameras; needs no PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from .._files import user_path
from ..events import Events, Summary, crop, downsample, draw_recording, read, summarize, write
from ..events.files import SUFFIXES
from ..events.frames import SPLITS
from ..measure.table import quantity
from ._arguments import positive

_INFO = "duration, rate, polarity balance and hot pixels of recordings"
_CONVERT = "one format to another, cropped or scaled on the way"
_SHOW = "a picture: frames over time and the rate of events"
_ANNOUNCED = 64 << 20  # bytes of a file whose reading takes a second or more
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
    convert.add_argument(
        "--crop", type=positive, metavar="SIDE", help="keep a square of the centre"
    )
    convert.add_argument(
        "--downsample", type=positive, metavar="SIDE", help="scale to so many pixels a side"
    )
    show = commands.add_parser("show", help=_SHOW, description=_SHOW)
    show.set_defaults(run=_show)
    show.add_argument("file", metavar="FILE", help="recording")
    show.add_argument("--out", help="picture to write (default: the recording's name, .png)")
    show.add_argument("--T", type=positive, default=8, help="frames (default 8)")
    show.add_argument("--split", choices=SPLITS, default="time", help="how frames are cut")
    for command in (info, convert, show):
        command.add_argument(
            "--partial", action="store_true", help="keep what comes before a fault in the file"
        )
        command.add_argument(
            "--sort", action="store_true", help="sort events that are not in order of time"
        )


def _read(args: argparse.Namespace, name: str) -> Events:
    path = user_path(name)
    if path.is_file() and (size := path.stat().st_size) > _ANNOUNCED:
        print(f"reading {path}, {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return read(path, args.partial, sort=args.sort)


def _info(args: argparse.Namespace) -> int:
    unread = 0
    for name in args.files:
        try:
            summary = summarize(_read(args, name))
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
    events = _read(args, args.file)
    if args.crop is not None:
        events = crop(events, args.crop)
    if args.downsample is not None:
        events = downsample(events, args.downsample)
    out = user_path(args.out)
    write(out, events)
    print(f"{out}: {len(events):,} events, {out.stat().st_size / 1e6:.2f} MB")
    return 0


def _show(args: argparse.Namespace) -> int:
    events = _read(args, args.file)
    out = user_path(args.out or Path(args.file).with_suffix(".png"))
    draw_recording(out, events, _title(args.file, summarize(events)), args.T, args.split)
    print(out)
    return 0


def _title(name: Any, summary: Summary) -> str:
    return f"{Path(name).name}: {quantity(summary.count)} events in {summary.duration / 1e6:.3g} s"
