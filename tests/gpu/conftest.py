"""Tests that want a GPU. Without one they are skipped, or rehearsed on the CPU.

``STMIXER_GPU_TESTS=rehearse`` runs the same bodies on CPU tensors with Triton's interpreter, in a
small selection, so that they are known to be right before a GPU sees them. ``make gpu`` splits them
over processes (``STMIXER_GPU_SHARD=i/n``) and keeps each outcome (``STMIXER_GPU_TEST_LOG``).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.gpu_cases import DEVICE, REHEARSED

from stmixer_ops.ops._obstacles import OBSTACLES

HERE = Path(__file__).parent
_LOG = os.environ.get("STMIXER_GPU_TEST_LOG")
_SHARD = os.environ.get("STMIXER_GPU_SHARD", "0/1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    own = [item for item in items if HERE in item.path.parents]
    shard, shards = map(int, _SHARD.split("/"))
    kept = {id(item) for i, item in enumerate(own) if i % shards == shard}
    if DEVICE is None:
        reason = "needs a GPU (STMIXER_GPU_TESTS=rehearse runs a selection on the CPU)"
        # One of each function's tests says so for the others.
        kept = {id(item) for item in {item.nodeid.split("[")[0]: item for item in own}.values()}
        for item in own:
            item.add_marker(pytest.mark.skip(reason=reason))
    others = [item for item in own if id(item) not in kept]
    if others:
        config.hook.pytest_deselected(items=others)
        left_out = set(map(id, others))
        items[:] = [item for item in items if id(item) not in left_out]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A line as soon as an outcome is there: what a time limit cuts off loses nothing before it."""
    decided = report.when == "call" or report.outcome != "passed"
    if _LOG and decided and (report.when != "teardown" or report.failed):
        with open(_LOG, "a") as file:
            file.write(json.dumps({"test": report.nodeid, "outcome": report.outcome}) + "\n")


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's convolutions in full float32, as products are by default: a spike that turns because
    the reference rounded to 10 bits says nothing about ours."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def device() -> torch.device:
    assert DEVICE is not None
    return DEVICE


@pytest.fixture
def gpu(device: torch.device) -> torch.device:
    """For what only a GPU has: streams, graphs, large memory."""
    if REHEARSED:
        pytest.skip("needs a GPU")
    return device


@pytest.fixture
def whole_memory(gpu: torch.device) -> Iterator[Callable[[int], None]]:
    """Skips where fewer bytes than asked for are free. Tests that want many take turns, also those
    of the other processes of ``make gpu``, each of which would find the memory free."""
    import fcntl

    def require(needed: int) -> None:
        free, _ = torch.cuda.mem_get_info(gpu)
        if free < needed:
            pytest.skip(f"needs {needed >> 30} GiB of free memory, there are {free >> 30}")

    with open(Path(tempfile.gettempdir()) / f"stmixer-gpu-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield require
        torch.cuda.empty_cache()


@pytest.fixture(params=["cuda", "triton"])
def backend(request: pytest.FixtureRequest, device: torch.device) -> str:
    reason = OBSTACLES[request.param](torch.empty(0, device=device))
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param
