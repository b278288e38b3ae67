"""Parsing and dispatch: each subcommand lives in a module of its own, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__

# Name, module, help.
COMMANDS = (
    ("demo", "demo", "train on digits, compile, compare engine and PyTorch, draw a picture"),
    ("train", "train", "train a model"),
    ("eval", "evaluate", "test accuracy of a checkpoint"),
    ("info", "info", "parameters, MACs, SOPs and energy, layer by layer"),
    ("compile", "compile", "checkpoint to engine file (.stmx)"),
    ("run", "run", "classify images with an engine file"),
    ("models", "models", "names that create_model knows"),
    ("bench", "bench", "time the engine against whatever else is installed"),
    ("backends", "backends", "what runs here, and why not the rest"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage."""
        self.exit(2, f"stmixer: error: {message} (see {self.prog} --help)\n")


def _build_parser(chosen: str | None) -> _Parser:
    parser = _Parser(
        prog="stmixer",
        description="Spiking token mixers: train, measure, compile, run.",
        epilog="stmixer COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"stmixer {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="show where an error came from, for bug reports"
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=_Parser
    )
    for name, module, text in COMMANDS:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:  # only this one's imports are paid for
            importlib.import_module(f".{module}", __package__).configure(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (``sys.argv[1:]`` by default); returns the exit status.

    0: done. 1: done, and something did not hold (``demo``). 2: a mistake of the user's or an
    unreadable file, said in one line. 130: interrupted.
    """
    # OpenMP threads that spin while they wait make every process on a busy machine many times
    # slower; sleeping costs an idle one little. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    argv = list(sys.argv[1:] if argv is None else argv)
    names = {name for name, _, _ in COMMANDS}
    try:
        args = _build_parser(next((a for a in argv if a in names), None)).parse_args(argv)
    except SystemExit as stop:  # help, version, or a mistake that is reported already
        return int(stop.code or 0)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("stmixer: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        sys.stdout = None  # type: ignore[assignment]
        return 0
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if args.traceback:
            raise
        print(f"stmixer: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
