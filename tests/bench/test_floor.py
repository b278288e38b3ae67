"""The model of bytes and FLOPs: held to counts by hand, to the dispatcher, and to real storages."""

from __future__ import annotations

import functools

import pytest
import torch
from support.ops_cases import count_saved, error

import stmixer_ops as so
from bench import floor, inductor, networks, traffic
from bench.cases import Case, cases, lif_case
from bench.tracing import trace, trace_case
from bench.traffic import Kernel, Machine, total_bytes, total_flops
from stmixer_ops import functional as F
from stmixer_ops.nn.fused import Spikes

CPU = torch.device("cpu")
ALL = {case.name: case for case in cases()}


@functools.cache
def traced(name: str, backend: str) -> list[Kernel]:
    return trace_case(ALL[name], backend)


# -- By hand ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "bytes_per_value"),
    [
        (traffic.lif(64), 10),  # x, s; gs, x, gx
        (traffic.lif(64, bits=True), 10.125),
        (traffic.lif(64, size=4), 20),
        (traffic.lif(64, static=4), 7),  # x once in four steps: 2/4 + 2; 2 + 2/4, 2
        (traffic.bn_lif(64), 16),  # x; x, s; gs, x; gs, x, gx
        (traffic.bn_lif(64, residual=True), 26),  # x; x, r, sum, s; 4 in, 1 out; 2 in, 1 out
        (traffic.lif_inference(64), 2.125),
        (traffic.lif_inference(64, dense=True, packed=False), 4),
        (traffic.pack(64), 2.125),
        (traffic.unpack(64), 2.125),
        (traffic.spikingjelly_lif(64, 4), 12 + 12 / 4),
        (traffic.spikingjelly_lif(64, 1), 24),
        (traffic.spikingjelly2_lif(64, 4), 16 + 24 / 4),
    ],
)
def test_bytes_per_value(kernels, bytes_per_value):
    assert total_bytes(kernels) / 64 == pytest.approx(bytes_per_value)


def test_products_by_hand():
    """8 rows of 32 spikes times [32, 16]: bits 32, weights 1024, currents 256 bytes."""
    forward, to_input, to_weight = traffic.spike_product(8 * 32, 8 * 16, 32 * 16, 8 * 32 * 16)
    assert (forward.read, forward.written, forward.flops) == (32 + 1024, 256, 2 * 4096)
    assert (to_input.read, to_input.written) == (256 + 1024, 512)
    assert (to_weight.read, to_weight.written) == (256 + 32, 4 * 512)
    fused = traffic.conv_lif(8 * 32, 8 * 16, 32 * 16, 8 * 32 * 16, residual=True)[0]
    assert (fused.read, fused.written) == (32 + 1024 + 256, 256 + 16)
    mix, gradients = traffic.token_mix_lif(2 * 64, tokens=16, heads=2)
    assert (mix.read, mix.written) == (2 * (128 + 512), 256 + 16)
    assert (mix.flops, gradients.flops) == (2 * 128 * 16, 3 * 2 * 128 * 16)


def test_time_is_the_slower_of_memory_and_product():
    machine = Machine(bandwidth=100, flops=10, launch=1)
    bound_by_bytes, bound_by_flops = Kernel("", 200, 100, 10), Kernel("", 50, 50, 40)
    assert machine.seconds([bound_by_bytes]) == 1 + 3
    assert machine.seconds([bound_by_flops]) == 1 + 4
    assert machine.seconds([bound_by_bytes, bound_by_flops]) == 2 + 7


def test_shares_of_empty_words():
    assert floor.empty_words(0.0) == 1
    assert floor.empty_words(0.5) == 0.5**32


# -- Against what PyTorch dispatches ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_flops_are_those_of_the_dispatched_products(name):
    """Independent counts: formulas by layer here, PyTorch's per operation there."""
    case = ALL[name]
    expected = total_flops(traced(name, "reference"))
    if case.group == "token_mix_lif":  # the kernel makes the currents a second time
        expected *= 4 / 3
    elif case.group in ("STMBlock", "train"):
        blocks = 1 if case.group == "STMBlock" else 4
        expected += blocks * 2 * (case.values * 64)
    assert total_flops(case.floor) == pytest.approx(expected, rel=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_nothing_the_library_composes_is_below_the_floor(name):
    case = ALL[name]
    assert total_bytes(traced(name, "cpu")) >= 0.9 * total_bytes(case.floor)
    if case.group in ("lif", "bn_lif", "pack_spikes"):  # one op is all there is
        assert total_bytes(traced(name, "cpu")) == pytest.approx(total_bytes(case.floor), rel=1e-3)


def test_a_block_in_inference_moves_what_the_floor_says():
    """Launch by launch to the byte, but for biases: only the stream is not bits."""
    net = networks.Shape(batch=8)
    block = so.STMBlock(net.dim, net.tokens, net.heads, net.ratio).bfloat16().eval()
    optimized, following = so.optimize_for_inference(block), so.LIF()
    with so.use_backend("triton"), torch.no_grad(), trace() as kernels:
        x = torch.zeros(net.steps, net.batch, net.tokens, net.dim, dtype=torch.bfloat16)
        words = torch.zeros(net.steps, net.batch, net.tokens, net.dim // 32, dtype=torch.int32)
        kernels.clear()
        optimized.run(x, Spikes(None, words), following)
    expected = networks.block_inference(net)
    assert [k.name.removesuffix("_bits") for k in kernels] == [k.name for k in expected]
    for kernel, wanted in zip(kernels, expected, strict=True):
        bias = kernel.read - wanted.read
        assert 0 <= bias <= 2 * net.ratio * net.dim
        assert (kernel.written, kernel.flops) == (wanted.written, wanted.flops)


def test_the_trace_counts_operations_by_hand():
    """c = a + b, then a view, then an in-place product by itself, then a repeated row."""
    with trace() as kernels:
        a, b = torch.zeros(8, 4), torch.zeros(8, 4)
        row = torch.zeros(1, 4)
        kernels.clear()
        c = a + b
        c.t().mul_(c.t())
        d = row.expand(8, 4) + 1
    assert [(k.name, k.read, k.written) for k in kernels] == [
        ("add", 256, 128),
        ("mul_", 256, 128),
        ("add", 16, 128),
    ]
    assert d.shape == (8, 4)


def test_the_peers_get_the_official_structure():
    """Every module is called, so that batch norm and products run in autocast's dtype."""
    names = [k.name for k in traced("STMBlock", "reference")]
    assert names.count("native_batch_norm") == 4
    assert not {"bn_lif_forward", "token_mix_lif", "lif_forward"} & set(names)
    case = next(c for c in cases(tiny=True) if c.group == "STMBlock")
    assert case.module is not None
    torch.manual_seed(0)
    plain = case.module().double()
    torch.manual_seed(0)
    called = case.unfused().module().double()
    x = case.inputs(CPU)[0].double()
    assert error(called(x), plain(x)) <= 1e-12


# -- Against real allocations ----------------------------------------------------------------------


def test_lif_allocates_what_is_counted():
    """Results, bits and what is saved: x, s, bits, gx of 64 x 32 neurons over 4 steps."""
    x = torch.randn(4, 64, 32, dtype=torch.bfloat16).requires_grad_()
    with count_saved() as saved:
        s, bits = F.lif(x, pack=True, backend="cpu")
    (gx,) = torch.autograd.grad(s, x, torch.ones_like(s))
    forward, backward = traffic.lif(x.numel(), bits=True)
    sizes = [t.untyped_storage().nbytes() for t in (x, s, bits, gx)]
    assert sum(saved().values()) == sizes[0]
    assert forward.read == sizes[0]
    assert forward.written == sizes[1] + sizes[2]
    assert backward.read == sizes[0] + sizes[1]
    assert backward.written == sizes[3]


def test_parameters_are_those_of_the_model():
    for shape in (networks.Shape(1), networks.Shape(1, dim=64, depth=2, heads=8, image=16)):
        model = so.STMixer(
            shape.image, embed_dim=shape.dim, depth=shape.depth, num_heads=shape.heads
        )
        assert shape.parameters == sum(p.numel() for p in model.parameters())


# -- torch.compile ---------------------------------------------------------------------------------


@pytest.mark.compiles
def test_inductor_counts_what_a_fused_lif_reads_and_writes():
    """Its scheduler's own figure, scaled from a small batch: 10 bytes at T=2, all in one pass."""
    case = lif_case(2, 2, 256)
    assert inductor.count(case) == total_bytes(case.floor)


def test_recorded_counts_cover_every_case():
    for case in ALL.values():
        kernels = inductor.kernels(case)
        assert kernels is not None, case.name
        assert total_flops(kernels) == total_flops(traced(case.name, "reference"))
        assert total_bytes(kernels) <= 1.001 * total_bytes(traced(case.name, "reference"))


# -- What is printed -------------------------------------------------------------------------------


def test_predictions_follow_the_machine():
    case: Case = ALL["lif T=4"]
    found = floor.predict(case, Machine())
    assert found["floor_ms"] == pytest.approx(1e3 * 10 * 4 * 64 * 65536 / 4.8e12)
    assert found["predicted_ratio"]["SpikingJelly"] == pytest.approx(1.5)
    slower = floor.predict(case, Machine(bandwidth=2.4e12))
    assert slower["floor_ms"] == pytest.approx(2 * found["floor_ms"])
    assert slower["predicted_ratio"] == pytest.approx(found["predicted_ratio"])


def test_the_table_names_every_case_and_peer():
    names = ["lif T=4", "bn_lif C=384", "spike_linear 384->1536"]
    text = floor.table([ALL[name] for name in names], Machine(), rate=0.17)
    header, _, *rows = text.splitlines()
    assert all(peer in header for peer in floor.PEERS)
    assert [row[: len(name)] for row, name in zip(rows, names, strict=True)] == names
