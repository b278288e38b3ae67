"""What the Triton kernels of bn_lif promise beyond results, which ``test_bn_lif.py`` tests."""

from __future__ import annotations

import pytest
import torch
from support.launches import Recorder
from support.pairs import in_full
from support.triton_aot import compile_for

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

LAUNCHERS = """if True:
    import torch
    from stmixer_ops.ops.lif.spec import state_dtype
    from stmixer_ops.ops.bn_lif import triton as bn_lif

    def launches_for(dtype, steps, batch=2, last=True, residual=True):
        x = torch.zeros((steps, batch, 64, 96) if last else (steps, batch, 96, 64), dtype=dtype)
        dim = 3 if last else 2
        c = torch.zeros(96, dtype=state_dtype(dtype))
        other = x if residual else None
        lif = (1.0, 0.9, "hard")
        return [
            lambda: bn_lif.bn_lif_forward(bn_lif.ForwardCall(
                x, c, c, c, c, True, 1e-5, other, None, dim, *lif, residual, False, True
            )),
            lambda: bn_lif.bn_lif_backward(bn_lif.BackwardCall(
                x, other, None, x, other, None, c, c, c, c, 1e-5, True, residual, dim, *lif,
                False, "piecewise_quadratic", 1.0,
            )),
        ]
"""


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("capability", "dtype", "lengths"),
    [
        (80, torch.float32, (8,)),
        (90, torch.bfloat16, (8, 40)),
        *in_full(
            (80, torch.bfloat16, (8,)),
            (90, torch.bfloat16, (1, 4)),
            (90, torch.float32, (8, 40)),
            (90, torch.float64, (8,)),
        ),
    ],
)
def test_registers_and_contraction(capability, dtype, lengths):
    code = f"""
    launches = [
        launch
        for steps in {lengths}
        for last in (True, False)
        for launch in launches_for({dtype}, steps, last=last)
    ]
"""
    results = compile_for(capability, LAUNCHERS, code)
    kernels = [kernel for result in results for kernel in result]
    assert {kernel["name"] for kernel in kernels} == {
        "statistics", "moments", "forward", "backward", "parameter_gradients", "input_gradient",
    }  # fmt: skip
    for kernel in kernels:
        assert kernel["spilled"] == 0, kernel
        assert kernel["fma"] == 0, kernel
        assert kernel["shared"] <= 16 * 1024, kernel
        if lengths[0] == 8 and kernel["name"] not in ("moments", "parameter_gradients"):
            assert any(load.startswith("v") for load in kernel["loads"]), kernel


@pytest.mark.compiles
def test_one_set_of_kernels_for_every_batch_size():
    code = """
    launches = [
        launch
        for batch in (2, 5, 32)
        for last in (True, False)
        for launch in launches_for(torch.bfloat16, 4, batch, last, residual=False)
    ]
"""
    results = compile_for(90, LAUNCHERS, code)
    counts = [len(kernels) for kernels in results]
    assert min(counts[:4]) > 0
    assert counts[4:] == [0] * 8


@pytest.mark.parametrize("steps", [4, 8])
@pytest.mark.parametrize(("residual", "most"), [(False, 18), (True, 24)])
def test_bytes_per_neuron_step(monkeypatch, residual, most, steps):
    """Forward and backward in training, bfloat16: every tensor a kernel is given counts once.

    Up to 8 steps are held in registers: a membrane kept in between would be a byte more.
    """
    pytest.importorskip("triton", reason="triton is not installed")
    from stmixer_ops import functional as F
    from stmixer_ops.ops.bn_lif import triton_kernels

    names = ("statistics", "forward", "backward", "input_gradient")
    recorders = [Recorder(getattr(triton_kernels, name)) for name in names]
    for name, recorder in zip(names, recorders, strict=True):
        monkeypatch.setattr(triton_kernels, name, recorder)
    x = torch.randn(steps, 16, 8, 64, dtype=torch.bfloat16, requires_grad=True)
    other = torch.randn_like(x).detach().requires_grad_() if residual else None
    s = F.bn_lif(x, None, None, None, None, training=True, residual=other, backend="triton")
    s.backward(torch.ones_like(s))
    # Sums of each program, statistics and parameters are few here, but not nothing.
    assert sum(recorder.bytes() for recorder in recorders) / x.numel() <= most + 0.5
