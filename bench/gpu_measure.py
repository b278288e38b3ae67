"""The child process of ``python -m bench gpu``: the cases of a group, a line per result."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .cases import Case, cases
from .gpu_peers import (
    FIRES,
    OURS,
    Contestant,
    Missing,
    Population,
    agreement,
    contestants,
    populations,
    rates_apart,
    reference_result,
)
from .gpu_timing import Clock

Row = dict[str, Any]

# Groups in the order of measuring: what the targets are about first, what takes longest last.
GROUPS = {
    "lif": ("lif",),
    "bn_lif": ("bn_lif",),
    "ops": ("pack_spikes", "token_mix_lif", "spike_linear", "spike_conv2d", "conv_lif"),
    "block": ("STMBlock",),
    "train": ("train",),
    "infer": ("infer",),
}
_WHOLE = ("STMBlock", "train", "infer")  # peak memory is told of these


def chosen(group: str, rehearse: bool) -> list[Case]:
    return [case for case in cases(tiny=rehearse) if case.group in GROUPS[group]]


def measure_group(group: str, rows: Path, rehearse: bool) -> None:
    """Append a JSON line to ``rows`` for every result, as soon as it is there."""
    device = torch.device("cpu" if rehearse else "cuda")
    clock = Clock(device, seconds=0.02 if rehearse else 0.5)

    def keep(**row: Any) -> None:
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")

    keep(copy_bandwidth=clock.copy_bandwidth())
    for case in chosen(group, rehearse):
        expected = reference_result(case, device)
        firing = populations(case, device, ours=False)
        for contestant in contestants(case):
            keep(case=case.name, **measure(case, contestant, clock, expected, firing))
            gc.collect()
            torch.cuda.empty_cache()
        if case.module is None:
            spikes = expected if case.group in FIRES else case.inputs(device)[0]
            keep(case=case.name, rates={case.group: float((spikes != 0).float().mean())})
        else:
            keep(case=case.name, rates={path: seen.rate for path, seen in firing.items()})


def measure(
    case: Case,
    contestant: Contestant,
    clock: Clock,
    expected: Tensor,
    firing: dict[str, Population],
) -> Row:
    row: Row = {"contestant": contestant.name, "ours": contestant.ours}
    start = time.perf_counter()
    try:
        step = contestant.make(case, clock.device)
        differs, allowed = agreement(case, step(), expected)
        clock.synchronize()
        row |= {"ready_s": time.perf_counter() - start, "differs": differs}
        if not differs <= allowed:
            return row | {
                "status": "disagrees",
                "reason": f"its result differs by {differs:.2g}, allowed {allowed:.2g}",
            }
        if contestant.ours and firing:
            apart, path = rates_apart(populations(case, clock.device, ours=True), firing)
            row["rates_differ"] = apart
            if not apart <= 1:
                reason = f"the rate of {path} differs by {apart:.2g} times what is allowed"
                return row | {"status": "disagrees", "reason": reason}
        if case.group in _WHOLE:
            row["peak_bytes"] = clock.peak_bytes(step)
        call, row["how"] = _ready(case, contestant, step, clock)
        timing = clock.time(call)
    except Missing as reason:
        return row | {"status": "unavailable", "reason": str(reason)}
    except Exception as error:  # of whatever library: it is told, and the next one measured
        text = str(error).strip().splitlines() or [""]
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {text[0]}"}
    return row | {
        "status": "measured", "ms": timing.median, "iqr_ms": timing.iqr, "calls": timing.calls,
    }  # fmt: skip


def _ready(
    case: Case, contestant: Contestant, step: Callable[[], object], clock: Clock
) -> tuple[Callable[[], object], str]:
    """What is timed, and how: graphs where users would have them, or where launches would hide
    the kernels."""
    if not clock.on_gpu:
        return step, "wall clock (rehearsal)"
    # torch.compile's max-autotune replays graphs of its own; whole training steps are timed as run.
    if case.group in ("STMBlock", "train") or (
        case.group == "infer" and not contestant.name.startswith(OURS)
    ):
        return step, "events"
    try:
        return clock.capture(step), "graph"
    except Exception as error:
        torch.cuda.synchronize()
        return step, f"events (no graph: {type(error).__name__})"
