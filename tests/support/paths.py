"""Where the tests find the sources, their own fixtures and, if it is there, larger data."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "fixtures" / "golden"
SHARED = ROOT.parent / "shared"
