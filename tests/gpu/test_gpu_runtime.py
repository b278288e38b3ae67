"""The ops inside what PyTorch does on a GPU: compile, autocast, streams, graphs, large tensors."""

from __future__ import annotations

import pytest
import torch
from support.compile_cases import CASES, check_full_graph, op_samples
from support.golden import assert_spikes_by_the_local_rule
from support.gpu_cases import DEVICE, REHEARSED, needs_kernels, require_kernels
from support.ops_calls import BNCase, random_spikes
from support.ops_cases import error
from support.small_models import images, stmixer
from torch.library import opcheck
from torch.utils._pytree import tree_map

import stmixer_ops as so
from stmixer_ops import functional as F

OP_OF_CASE = {"lif_all": "lif", "pack": "pack_spikes"}
SAMPLES = range(len(op_samples("cpu")))


def on(device, tree):
    """The same with all tensors on ``device``, strides kept."""
    return tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, tree)


# -- torch.compile, opcheck, autocast --------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_full_graph(device, backend, case):
    require_kernels(OP_OF_CASE.get(case, case), backend)
    function, inputs = CASES[case]
    check_full_graph(function, on(device, inputs), backend)


@pytest.mark.parametrize("index", SAMPLES)
def test_opcheck(device, backend, index):
    op, arguments = op_samples(backend)[index]
    name = op.__name__.removesuffix("_forward").removesuffix("_backward")
    require_kernels(
        {"pack_rows": "pack_spikes", "unpack_rows": "unpack_spikes"}.get(name, name), backend
    )
    assert set(opcheck(op.default, on(device, arguments)).values()) == {"SUCCESS"}


def test_autocast(device):
    """Products and streams in bfloat16, membranes and the weights' gradients in float32."""
    block = so.STMBlock(32, 16, 4).to(device).train()
    x = torch.randn(2, 2, 32, 16, device=device, requires_grad=True)
    with torch.autocast(device.type, torch.bfloat16):
        y = block(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert x.grad.dtype == torch.float32
    assert all(p.grad.dtype == p.dtype for p in block.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in block.parameters())


# -- Models ----------------------------------------------------------------------------------------


def _spikes_and_gradients(module, x, backend):
    module.zero_grad(set_to_none=True)
    context = so.use_backend(backend) if backend else torch.enable_grad()
    with context, so.record(module) as seen:
        y = module(x)
    y.square().sum().backward()
    return seen.spikes, y.detach(), [p.grad for p in module.parameters()]


@pytest.mark.parametrize("kind", ["block", "model"])
def test_training_is_the_reference(device, kind):
    """In float32; where not one spike turned, results and gradients are the same."""
    torch.manual_seed(2)
    if kind == "block":
        module, x = so.STMBlock(32, 16, 4), torch.randn(3, 2, 32, 16)
    else:
        module = so.STMixer(16, embed_dim=32, depth=2, num_heads=4, T=2)
        x = torch.randn(4, 3, 16, 16)
    module, x = module.to(device).train(), x.to(device)
    ours, y, gradients = _spikes_and_gradients(module, x, None)
    theirs, wanted, expected = _spikes_and_gradients(module, x, "reference")
    assert list(ours) == list(theirs)
    assert all(bool(spikes.any()) for spikes in ours.values())
    # Up to the first population that differs everything is the same but for rounding.
    first = next(iter(ours))
    assert float((ours[first] != theirs[first]).float().mean()) <= 1e-3
    for path in ours:
        assert abs(float(ours[path].float().mean() - theirs[path].float().mean())) <= 0.02
    if all(torch.equal(ours[path], theirs[path]) for path in ours):
        assert error(y, wanted) <= 1e-4
        assert all(error(a, b) <= 1e-3 for a, b in zip(gradients, expected, strict=True))


@torch.no_grad()
def test_optimized_inference_by_the_local_rule(device):
    """Every population against the plain model in float64, given the spikes before it; the logits
    of the last ones."""
    model, x = stmixer().to(device), images(4).to(device)
    optimized = so.optimize_for_inference(model)
    with so.record(optimized) as recorded:
        logits = optimized(x)
    assert all(0 < rate < 1 for rate in recorded.rates.values()), recorded.rates
    assert error(logits, assert_spikes_by_the_local_rule(model, recorded, x)) <= 1e-4


# -- Streams, graphs, synchronisation --------------------------------------------------------------

CALLS = {
    "lif": lambda s, w: F.lif(s * 2),
    "bn_lif": lambda s, w: F.bn_lif(s, w[0, 0], w[0, 1], None, None, training=True, channel_dim=3),
    "pack_spikes": lambda s, w: F.pack_spikes(s),
    "token_mix_lif": F.token_mix_lif,
    "token_mix_lif_bits": lambda s, w: F.token_mix_lif(
        F.pack_spikes(s, 2), w, channels=s.shape[2], pack="only"
    ),
    "spike_linear": lambda s, w: F.spike_linear(s, w[0]),
}


def _step(op, s, weight):
    """Results and gradients of one call."""
    s, weight = s.detach().requires_grad_(), weight.detach().requires_grad_()
    y = CALLS[op](s, weight)
    if not y.requires_grad:
        return [y]
    gradients = torch.autograd.grad(y, (s, weight), torch.ones_like(y), allow_unused=True)
    return [y.detach(), *(g for g in gradients if g is not None)]


def _operands(device, seed=0):
    torch.manual_seed(seed)
    return random_spikes(4, 4, 32, 64).to(device), (torch.randn(4, 64, 64) / 3).to(device)


def _equal(actual, wanted):
    return all(torch.equal(a, b) for a, b in zip(actual, wanted, strict=True))


@pytest.mark.parametrize("op", CALLS)
def test_the_same_bits_every_time(device, backend, op):
    """No atomics: sums have one order."""
    require_kernels(op, backend)
    with so.use_backend(backend):
        first = _step(op, *_operands(device))
        assert all(_equal(_step(op, *_operands(device)), first) for _ in range(3))


@pytest.mark.parametrize("op", CALLS)
def test_runs_on_the_current_stream(gpu, backend, op):
    """The input is not there yet when the call is made on another stream."""
    require_kernels(op, backend)
    s, weight = _operands(gpu)
    with so.use_backend(backend):
        wanted = _step(op, s, weight)
        late, stream = torch.zeros_like(s), torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late.copy_(s)
            actual = _step(op, late, weight)
        stream.synchronize()
    assert _equal(actual, wanted)


@pytest.mark.parametrize("op", CALLS)
def test_cuda_graph(gpu, backend, op):
    """Captured once, replayed with other input in the same place."""
    require_kernels(op, backend)
    s, weight = _operands(gpu)
    with so.use_backend(backend):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                _step(op, s, weight)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = _step(op, s, weight)
        for seed in (1, 2):
            other, _ = _operands(gpu, seed)
            s.copy_(other)
            graph.replay()
            torch.cuda.synchronize()
            assert _equal(results, _step(op, other, weight))


@pytest.mark.parametrize("op", CALLS)
def test_never_waits_for_the_gpu(gpu, backend, op):
    require_kernels(op, backend)
    s, weight = _operands(gpu)
    with so.use_backend(backend):
        _step(op, s, weight)
        torch.cuda.set_sync_debug_mode("error")
        try:
            _step(op, s, weight)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@torch.no_grad()
def test_optimized_inference_as_a_cuda_graph(gpu):
    """A whole network: nothing waits or reads a value; other images are replayed."""
    model, x = so.optimize_for_inference(stmixer().to(gpu)), images(4).to(gpu)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = model(x)
    for seed in (1, 2):
        torch.manual_seed(seed)
        x.copy_(torch.rand(x.shape))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(logits, model(x))


# -- More than 2^31 elements -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
@needs_kernels("lif")
def test_lif_beyond_2_31_elements(gpu, whole_memory, backend, steps):
    """Only the ends and the middle are set: an offset that wraps would show there."""
    whole_memory(24 << 30)
    neurons = (1 << 31) // steps + 96
    x = torch.zeros(steps, neurons, dtype=torch.bfloat16, device=gpu).requires_grad_()
    marks = [0, 1, neurons // 2, neurons - 33, neurons - 1]
    with torch.no_grad():
        x[:, marks] = 2
    s, bits = F.lif(x, pack=True, backend=backend)
    assert int(s.sum(dtype=torch.float64)) == steps * len(marks)
    assert bool((s[:, marks] == 1).all())
    words = torch.zeros(neurons // 32, dtype=torch.int32)
    for mark in marks:
        words[mark // 32] |= torch.tensor(1 << (mark % 32)).to(torch.int32)
    assert torch.equal(bits[-1].cpu(), words)
    (gx,) = torch.autograd.grad(s, x, s.detach())
    assert not bool(gx[:, 2].any())
    assert bool(gx[-1, marks].isfinite().all())


@needs_kernels("pack_spikes")
def test_packing_beyond_2_31_elements(gpu, whole_memory, backend):
    whole_memory(16 << 30)
    rows = (1 << 26) + 3
    s = torch.zeros(rows, 33, dtype=torch.bfloat16, device=gpu)
    s[-1, 32] = s[rows // 2, 0] = 1
    bits = F.pack_spikes(s, backend=backend)
    assert bits[-1].tolist() == [0, 1]
    assert bits[rows // 2].tolist() == [1, 0]
    assert int(bits.sum(dtype=torch.int64)) == 2
    back = F.unpack_spikes(bits, 33, dtype=torch.bfloat16, backend=backend)
    assert torch.equal(back, s)


# -- The cases above are what they say -------------------------------------------------------------


def test_a_case_lies_on_the_device(device):
    case = BNCase((2, 2, 8, 4), torch.bfloat16, "channels_last", device=device)
    assert case.x.device.type == device.type
    assert case.x.stride(2) == 1
    assert (DEVICE is not None and DEVICE.type == "cpu") == REHEARSED
