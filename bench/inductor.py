"""What ``torch.compile`` moves: the count of its own scheduler, when it compiles for this CPU.

Counting takes minutes, so the counts are kept beside the results, per image and fixed, and scaled
to the batch of a case. On a GPU the same fusions are found, but reductions may be cut otherwise.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
from torch._inductor import compile_fx, config, metrics

from stmixer_ops import use_backend
from stmixer_ops._files import write_atomically

from .cases import Case, cases
from .tracing import trace_case
from .traffic import Kernel, total_bytes

COUNTS = Path(__file__).parent / "results" / "inductor-bytes.json"
_BATCHES = (2, 4)


def count(case: Case) -> float:
    """Bytes of one step of ``case`` as Inductor schedules it."""
    case = case.unfused()
    log = compile_fx.inductor_metrics_log  # it counts only where somebody reads this log
    level, log.propagate = log.level, False
    torch.compiler.reset()
    metrics.reset()
    log.setLevel(logging.INFO)
    try:
        with use_backend("reference"), config.patch(force_disable_caches=True):
            module = None if case.module is None else case.module()
            case.program(torch.device("cpu"), module, torch.compile)()
    finally:
        log.setLevel(level)
    return metrics.num_bytes_accessed


def record(names: list[str] | None = None) -> None:
    """Count all cases (or those of ``names``) at two batches; keep fixed and per-image bytes."""
    small, large = (cases(batch) for batch in _BATCHES)
    counts = json.loads(COUNTS.read_text())["bytes"] if COUNTS.is_file() else {}
    for a, b in zip(small, large, strict=True):
        if a.images == b.images or (names and a.key not in names):
            continue
        first, second = count(a), count(b)
        per_image = (second - first) / (b.images - a.images)
        counts[a.key] = {
            "values_per_image": a.values / a.images,
            "fixed": first - per_image * a.images,
            "per_image": per_image,
        }
        text = json.dumps({"torch": torch.__version__, "bytes": counts}, indent=1) + "\n"
        write_atomically(COUNTS, lambda partial, text=text: partial.write_text(text))
        print(f"{a.key}: {per_image / a.values * a.images:.2f} bytes per value", flush=True)


def kernels(case: Case) -> list[Kernel] | None:
    """Products as eager PyTorch runs them, and one entry for all the rest; None if not counted."""
    if not COUNTS.is_file():
        return None
    counted = json.loads(COUNTS.read_text())["bytes"].get(case.key)
    if counted is None or counted["values_per_image"] != case.values / case.images:
        return None  # of another size
    products = [k for k in trace_case(case, "reference") if k.flops]
    rest = counted["fixed"] + counted["per_image"] * case.images - total_bytes(products)
    return [*products, Kernel("everything pointwise", max(rest, 0.0), 0.0)]
