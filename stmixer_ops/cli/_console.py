"""Output on consoles that cannot show every letter: an answer is never lost to one."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# How signs of this program look where the console's encoding lacks them.
_PLAIN = {"─": "-", "×": "x", "µ": "u", "±": "+-", "²": "^2", "“": '"', "”": '"', "…": "..."}


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Codec error handler: a plain sign, the byte of a file name, or a Python escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, at = error.object, error.start
    letter = text[at]
    if letter in _PLAIN:
        return _PLAIN[letter], at + 1
    if "\udc80" <= letter <= "\udcff":  # a byte that was no text in a file's name
        return bytes([ord(letter) - 0xDC00]), at + 1
    one = UnicodeEncodeError(error.encoding, text, at, at + 1, error.reason)
    return codecs.backslashreplace_errors(one)


codecs.register_error("stmixer", _replace)


@contextmanager
def any_letters() -> Iterator[None]:
    """Within, what is printed to the standard streams never raises UnicodeEncodeError."""
    streams = [s for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="stmixer")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with suppress(OSError, ValueError):  # the reader has gone, or the stream is closed
                stream.reconfigure(errors=errors)
