"""FLOPs as ``torch.utils.flop_counter`` shows them: the dense model's, whoever computes it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import stmixer_ops as so
from stmixer_ops import functional as F

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may


def flops(call) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def test_every_operator_has_a_formula():
    names = {
        schema.name.removeprefix("stmixer::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("stmixer::")
    }
    assert {getattr(torch.ops.stmixer, name) for name in names} <= flop_registry.keys()
    assert len(names) > 10


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_single_ops(backend):
    s = torch.ones(3, 2, 8, 9)
    weight, mix = torch.randn(5, 8, 3, 3), torch.randn(2, 9, 9)
    images = s.unflatten(3, (3, 3))
    bits = F.pack_spikes(images, 2)
    with so.use_backend(backend):
        assert flops(lambda: F.token_mix(s, mix)) == 2 * s.numel() * 9
        assert flops(lambda: F.token_mix_lif(s, mix)) == 2 * s.numel() * 9
        words = F.pack_spikes(s, 2)
        packed = flops(lambda: F.token_mix_lif(words, mix, channels=8, pack="only"))
        assert packed == 2 * s.numel() * 9
        for x in (images, bits):
            count = flops(lambda x=x: F.conv_lif(x, weight, stride=2, padding=1))
            assert count == 2 * 6 * (2 * 2) * 5 * 8 * 9
        assert flops(lambda: F.spike_linear(s, torch.randn(4, 9))) == 2 * s.numel() * 4
        assert flops(lambda: F.lif(s)) == 0


@pytest.mark.parametrize("mixer", ["stm", "ssa"])
def test_a_model_counts_the_same_however_it_runs(mixer):
    torch.manual_seed(0)
    model = so.create_model("stmixer_2_32_4", img_size=16, mixer=mixer, T=2)
    x = torch.randn(3, 3, 16, 16)

    def step() -> None:
        model(x).sum().backward()

    training = flops(step)
    with so.use_backend("reference"):
        assert flops(step) == training
    model.eval()
    fast = so.optimize_for_inference(model)
    with torch.no_grad():
        found = {flops(lambda m=m: m(x)) for m in (model, fast)}
        with so.use_backend("reference"):
            found |= {flops(lambda m=m: m(x)) for m in (model, fast)}
        with so.record(model) as r:
            model(x)
    assert len(found) == 1
    if mixer == "stm":  # of attention the recorder counts another order
        dense = sum(r.dense_macs.values()) * 2 * 3 + sum(r.macs.values())
        assert found == {2 * dense}
    assert 2 * found.pop() < training


def test_the_counter_is_not_imported_for_it():
    code = (
        "import importlib.util, sys, torch, stmixer_ops.functional as F\n"
        "assert importlib.util.find_spec('torch.utils.flop_counter')\n"  # a question, no import
        "assert 'torch.utils.flop_counter' not in sys.modules\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "with FlopCounterMode(display=False) as c: F.token_mix(torch.ones(1, 1, 4, 3),"
        " torch.ones(2, 3, 3))\n"
        "print(c.get_total_flops())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip() == "72", run.stderr
