"""Parsing and dispatch: each subcommand lives in a module of its own, imported when it is used."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ._console import any_letters

# Name, module, help.
COMMANDS = (
    ("demo", "demo", "train on digits, compile, compare engine and PyTorch, draw a picture"),
    ("train", "train", "train a model"),
    ("eval", "evaluate", "test accuracy of a checkpoint"),
    ("info", "info", "parameters, MACs, SOPs and energy, layer by layer"),
    ("compile", "compile", "checkpoint to engine file (.stmx)"),
    ("run", "run", "classify images or recordings with an engine file"),
    ("simulate", "simulate", "recordings of event cameras through a network, without a clock"),
    ("events", "events", "recordings of event cameras: look into them, convert, draw, play"),
    ("models", "models", "names that create_model knows"),
    ("check-async", "check_async", "what of a network fits a chip without a clock"),
    ("bench", "bench", "time the engine against whatever else is installed"),
    ("backends", "backends", "what runs here, and why not the rest"),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage."""
        self.exit(2, f"stmixer: error: {message} (see {self.prog} --help)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """What is not known is an error here, where the options that there are can be named."""
        found, rest = super().parse_known_args(args, namespace)
        if rest and rest[0].startswith("-"):
            known = [option for option in self._option_string_actions if option[:2] == "--"]
            near = difflib.get_close_matches(rest[0].partition("=")[0], known)
            what = "the nearest are" if near else "there are"
            self.error(f"unknown option {rest[0]}; {what} {', '.join(near or known)}")
        if rest:
            self.error(f"unexpected argument {rest[0]!r}")
        return found, rest


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

    0: done. 1: done, but something did not hold (``demo``) or could not be read (``run``). 2: a
    mistake of the user's or an unreadable file, said in one line. 130: interrupted.
    """
    # OpenMP threads that spin while they wait make every process on a busy machine many times
    # slower; sleeping costs an idle one little. Read once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with any_letters():
        return _run(list(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    names = {name for name, _, _ in COMMANDS}
    chosen = next((a for a in argv if a in names), None)
    try:
        args = _build_parser(chosen).parse_args(argv)
    except SystemExit as stop:  # help, version, or a mistake that is reported already
        return int(stop.code or 0)
    except ImportError as error:
        if "--traceback" in argv:
            raise
        return _refuse(chosen, error)
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
        return _refuse(args.command, error)


def _refuse(command: str | None, error: Exception) -> int:
    """Say in one line what was wrong; the exit status."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError) and error.name == "torch":
        text = f"{command} needs PyTorch (pip install torch): {text}"
    print(f"stmixer: error: {text}", file=sys.stderr)
    return 2
