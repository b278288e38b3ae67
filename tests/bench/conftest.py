"""The benchmarks of a checkout are a package beside the tests."""

from __future__ import annotations

import sys

from support.paths import ROOT

# At the end of the path: the sources beside the tests must not hide the installed package.
sys.path.append(str(ROOT))
collect_ignore = [] if (ROOT / "bench").is_dir() else ["test_floor.py", "test_gpu.py"]
