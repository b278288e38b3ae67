"""What the Triton LIF promises beyond its results: bytes, registers, and one kernel for any batch.

Its results are tested with those of the cpu backend, in ``test_lif.py``.
"""

from __future__ import annotations

import pytest
import torch
from support.launches import Recorder
from support.pairs import in_full
from support.triton_aot import compile_for

from stmixer_ops import functional as F

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

LAUNCHERS = """if True:
    import torch
    from stmixer_ops.ops.lif import triton as lif
    from stmixer_ops.ops.pack import triton as pack

    def forward(x, v=None, pack=True, dense=True):
        return lambda: lif.lif_forward(x, v, v is not None, dense, pack, 1.0, 0.9, "hard")

    def backward(x, v=None, surrogate="piecewise_quadratic"):
        return lambda: lif.lif_backward(x, v, x, v, 1.0, 0.9, "soft", False, surrogate, 1.0)
"""


@pytest.fixture
def recorders(monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    from stmixer_ops.ops.lif import triton as launchers

    found = {}
    for name in ("_forward", "_backward"):
        found[name] = Recorder(getattr(launchers, name))
        monkeypatch.setattr(launchers, name, found[name])
    return found


@pytest.mark.parametrize("steps", [1, 4, 8, 32])
def test_bytes_per_neuron_step(recorders, steps):
    """Every tensor a kernel is given is read or written once: up to 32 steps nothing is twice."""
    x = torch.randn(steps, 2, 1024, dtype=torch.bfloat16, requires_grad=True)
    s, _ = F.lif(x, pack=True, backend="triton")
    assert recorders["_forward"].bytes() / x.numel() <= 4.2
    s.backward(torch.ones_like(s))
    total = sum(recorder.bytes() for recorder in recorders.values()) / x.numel()
    assert total <= 10.2


@pytest.mark.parametrize(("pack", "most"), [("only", 2.2), (False, 4.1)])
def test_bytes_of_inference(recorders, pack, most):
    x = torch.randn(4, 2, 1024, dtype=torch.bfloat16)
    F.lif(x, pack=pack, backend="triton")
    assert recorders["_forward"].bytes() / x.numel() <= most


def test_long_runs_keep_a_membrane_every_16_steps(recorders):
    x = torch.randn(160, 64, dtype=torch.bfloat16, requires_grad=True)
    s = F.lif(x, backend="triton")
    s.backward(torch.ones_like(s))
    (tensors,) = recorders["_backward"].launches
    checkpoints = tensors[-1]
    assert (checkpoints.dtype, checkpoints.numel() * 16) == (torch.float32, x.numel())


@pytest.mark.parametrize("gradient", ["spikes", "state"])
def test_a_missing_gradient_is_never_filled_with_zeros(recorders, gradient):
    x = torch.randn(3, 70, requires_grad=True)
    results = F.lif(x, return_state=True, backend="triton")
    results[gradient == "state"].sum().backward()
    (tensors,) = recorders["_backward"].launches
    full = [t for t in tensors if t.shape == x.shape]
    assert len(full) == (3 if gradient == "spikes" else 2)  # x and gx, and gs where it exists


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("capability", "dtype", "lengths"),
    [
        (80, torch.bfloat16, (8,)),
        (90, torch.bfloat16, (8, 32, 40)),
        (90, torch.float32, (32,)),
        *in_full(
            (80, torch.bfloat16, (32,)),
            (80, torch.float32, (32,)),
            (90, torch.bfloat16, (1, 4, 16, 1000)),
            (90, torch.float32, (8,)),
            (90, torch.float64, (8, 40)),
        ),
    ],
)
def test_registers_and_contraction(capability, dtype, lengths):
    """No spills at any length, no fused multiply-add, 16-byte accesses of narrow types."""
    code = f"""
    launches = []
    for steps in {lengths}:
        x = torch.zeros(steps, 4, 256, dtype={dtype})
        v = torch.zeros(4, 256, dtype=lif.buffers.state_dtype(x.dtype))
        launches += [forward(x, v), backward(x, v)]
"""
    results = compile_for(capability, LAUNCHERS, code)
    for (kernel,) in results:
        assert kernel["spilled"] == 0, kernel
        assert kernel["fma"] == 0, kernel
        assert kernel["shared"] <= 16 * 1024, kernel
    if lengths[0] <= 8:
        for (kernel,) in results[:2]:
            assert any(load in kernel["loads"] for load in ("v4.b32", "v2.b64")), kernel


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", [torch.float32, *in_full((torch.float16,), (torch.float64,))])
def test_every_surrogate_compiles_without_spills(dtype):
    code = f"""
    launches = [
        backward(torch.zeros(8, 512, dtype={dtype}), surrogate=name)
        for name in ("dspike", "piecewise_quadratic", "rect", "sigmoid", "atan")
    ]
"""
    results = compile_for(90, LAUNCHERS, code)
    assert [kernel["spilled"] for kernels in results for kernel in kernels] == [0] * 5


@pytest.mark.compiles
def test_one_kernel_for_every_batch_size():
    code = """
    launches = []
    for batch in (2, 3, 17, 64):
        x = torch.zeros(4, batch, 64, dtype=torch.bfloat16)
        bits = torch.zeros(batch, 4, dtype=torch.int32)
        launches += [
            forward(x),
            backward(x),
            lambda x=x: pack.pack_rows(x),
            lambda bits=bits: pack.unpack_rows(bits, 128, torch.bfloat16),
        ]
"""
    results = compile_for(90, LAUNCHERS, code)
    assert [len(kernels) for kernels in results] == [1, 1, 1, 1] + [0] * 12
    for (kernel,) in results[2:4]:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= 16 * 1024, kernel
