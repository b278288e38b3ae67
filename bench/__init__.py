"""Benchmarks of a checkout: ``python -m bench``. Those that are installed are ``stmixer bench``."""

import os
import sys
from pathlib import Path

# ``-m`` puts the checkout first on the path, where its sources would hide the installed package.
_ROOT = str(Path(__file__).resolve().parents[1])
if sys.path and os.path.realpath(sys.path[0]) == _ROOT:
    sys.path.append(sys.path.pop(0))
