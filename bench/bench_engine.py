"""Inference on the CPU: the engine against eager PyTorch, same model, same input, same threads.

``python -m bench.bench_engine`` prints instead where the engine's time goes, step by step.
"""

from __future__ import annotations

import contextlib
import sys
from functools import lru_cache

import pytest
import torch
from torch import nn

import stmixer_ops as so
from bench.cases import calibrated_model, random_images

MODEL = "stmixer_4_384_16"
THREADS = 2
CASES = [(1, 1), (4, 1), (1, 16)]  # steps, batch
PEERS = ("stmixer_ops", "PyTorch eager", "PyTorch, our ops")


@lru_cache(maxsize=1)
def model_of(steps: int) -> nn.Module:
    return calibrated_model(MODEL, num_classes=10, img_size=32, T=steps)


def check_agreement(model: nn.Module, engine: so.Engine, x: torch.Tensor) -> float:
    """The overall rate; refuses to time an engine that computes something else.

    On random weights one spike rounded the other way becomes thousands within a few layers, so
    late layers are held to their rates and the first to its spikes.
    """
    result = engine.run(x, record=True)
    with so.record(model) as recorded, torch.no_grad():
        model(x)
    first = next(iter(recorded.spikes))
    assert (result.spikes[first] != recorded.spikes[first]).float().mean() < 1e-4
    for path, rate in recorded.rates.items():
        assert abs(result.stats[path].rate - rate) < 0.01, path
    neurons = sum(layer.neurons for layer in result.stats)
    return result.stats.spikes / (neurons * result.stats.steps * len(x))


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("steps", "batch"), CASES)
def test_inference(benchmark, steps: int, batch: int, peer: str) -> None:
    model = model_of(steps)
    x = random_images(model, batch)
    engine = so.Engine.compile(model, num_threads=THREADS)
    benchmark.group = f"{MODEL} 32x32, T={steps}, batch {batch}, {THREADS} threads"
    benchmark.extra_info["peer"] = peer
    benchmark.extra_info["rate"] = round(check_agreement(model, engine, x), 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    plain = so.use_backend("reference") if peer == "PyTorch eager" else contextlib.nullcontext()
    try:
        with torch.no_grad(), plain:
            call = engine if peer == "stmixer_ops" else model
            rounds = (100 if batch == 1 else 15) if peer == "stmixer_ops" else 15
            benchmark.pedantic(call, (x,), rounds=rounds, warmup_rounds=3)
    finally:
        torch.set_num_threads(threads)


def profile(steps: int) -> None:
    model = model_of(steps)
    engine = so.Engine.compile(model, num_threads=THREADS)
    rows = engine.profile(random_images(model, 1), repeat=50)
    print(f"\n{engine}\n")
    for name, milliseconds in rows:
        print(f"  {name:<44}{milliseconds:>8.3f} ms")
    print(f"  {'sum':<44}{sum(ms for _, ms in rows):>8.3f} ms")


if __name__ == "__main__":
    for number in sys.argv[1:] or ["1", "4"]:
        profile(int(number))
