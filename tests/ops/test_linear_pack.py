"""spike_linear, spike_conv2d and the packing of spikes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ops_calls import random_spikes as spikes
from support.ops_cases import DTYPES, KERNELS, LAYOUTS, TOLERANCE, count_saved, error
from support.pairs import in_full, pairwise
from support.triton_aot import compile_for
from torch.library import opcheck

from stmixer_ops import functional as F

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    last=st.sampled_from([1, 7, 31, 32, 33, 63, 64, 100, 600]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 9),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_pack_is_bits_by_hand(shape, last, dtype, seed, data):
    torch.manual_seed(seed)
    s = spikes(*shape, last).to(dtype)
    dim = data.draw(st.integers(-s.dim(), s.dim() - 1))
    s = s.movedim(-1, dim)
    # Triton's interpreter takes its time.
    for backend in (*KERNELS, "reference") if s.numel() < 10_000 else ("cpu", "reference"):
        bits = F.pack_spikes(s, dim, backend=backend)
        assert bits.dtype == torch.int32
        rows = s.movedim(dim, -1).flatten(0, -2)
        words = bits.movedim(dim, -1).flatten(0, -2)
        for row, packed in zip(rows[:5].tolist(), words[:5].tolist(), strict=True):
            number = sum((w & 0xFFFFFFFF) << (32 * i) for i, w in enumerate(packed))
            assert number == sum(1 << i for i, v in enumerate(row) if v)
        back = F.unpack_spikes(bits, last, dim, dtype=dtype, backend=backend)
        assert torch.equal(back, s)


def test_pack_by_every_kernel(kernels):
    s = spikes(5, 77)
    s[0, :3] = torch.tensor([float("nan"), -1.0, 2.0])
    expected = F.pack_spikes(s, backend="reference")
    assert torch.equal(F.pack_spikes(s, backend=kernels), expected)
    assert expected[0, 0].item() & 7 == 4  # neither NaN nor a negative value is a spike
    for dtype in DTYPES:
        unpacked = F.unpack_spikes(expected, 77, dtype=dtype, backend=kernels)
        assert torch.equal(
            unpacked, F.unpack_spikes(expected, 77, dtype=dtype, backend="reference")
        )


@pairwise(
    backend=KERNELS,
    layout=LAYOUTS,
    dtype=DTYPES,
    packed=[False, True],
    allowed=lambda backend, dtype, **_: (backend, dtype) != ("triton", torch.float64),
)
def test_linear(backend, layout, dtype, packed):
    """Triton has no tensor-core product in float64."""
    s = LAYOUTS[layout](spikes(2, 3, 5, 4, 33)).to(dtype)
    weight, g = torch.randn(7, 33).to(dtype), torch.randn(2, 3, 5, 4, 7).to(dtype)
    bits = F.pack_spikes(s) if packed else None
    a, b = s.detach().requires_grad_(), weight.detach().requires_grad_()
    y = F.spike_linear(a, b, bits, backend=backend)
    gradients = torch.autograd.grad(y, (a, b), g)
    exact = s.double() @ weight.double().t()
    assert error(y, exact) <= 4 * TOLERANCE[dtype]
    assert error(gradients[0], g.double() @ weight.double()) <= 4 * TOLERANCE[dtype]
    wanted = g.double().flatten(0, -2).t() @ s.double().flatten(0, -2)
    assert error(gradients[1], wanted) <= 4 * TOLERANCE[dtype]


@pairwise(
    backend=KERNELS,
    layout=LAYOUTS,
    window=[(1, 1), (2, 1), (1, 0), (3, 2)],
    packed=[False, True],
)
def test_conv(backend, layout, window, packed):
    s, weight = LAYOUTS[layout](spikes(2, 3, 5, 9, 7)), torch.randn(4, 5, 3, 3)
    (stride, padding), bits = window, F.pack_spikes(s) if packed else None
    a, b = s.detach().requires_grad_(), weight.detach().requires_grad_()
    y = F.spike_conv2d(a, b, stride, padding, bits, backend=backend)
    c, d = s.detach().double().requires_grad_(), weight.double().requires_grad_()
    exact = torch.conv2d(c.flatten(0, 1), d, stride=stride, padding=padding).view_as(y)
    g = torch.randn_like(y)
    assert error(y, exact) <= 1e-5
    wanted = torch.autograd.grad(exact, (c, d), g.double())
    for actual, expected in zip(torch.autograd.grad(y, (a, b), g), wanted, strict=True):
        assert error(actual, expected) <= 1e-5


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
@pytest.mark.parametrize("backend", KERNELS)
def test_one_gradient_only(backend, needs):
    s = LAYOUTS["channels_last"](spikes(2, 3, 4, 6, 6)).requires_grad_(needs[0])
    weight = torch.randn(5, 4, 3, 3).requires_grad_(needs[1])
    F.spike_conv2d(s, weight, 1, 1, backend=backend).sum().backward()
    flat = torch.randn(2, 6).requires_grad_(needs[1])
    F.spike_linear(s, flat, backend=backend).sum().backward()
    assert (s.grad is not None, weight.grad is not None, flat.grad is not None) == (
        needs[0],
        needs[1],
        needs[1],
    )


def test_autocast_computes_in_its_dtype():
    s, weight = spikes(2, 3, 40), torch.randn(5, 40, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = F.spike_linear(s, weight)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("backend", KERNELS)
def test_linear_saves_bits(backend):
    s = spikes(4, 8, 16, 64).bfloat16()
    weight = torch.randn(32, 64, dtype=torch.bfloat16, requires_grad=True)
    bits = F.pack_spikes(s)
    with count_saved() as saved:
        F.spike_linear(s.requires_grad_(), weight, bits, backend=backend)
        kept = saved()
    assert kept == {
        bits.untyped_storage().data_ptr(): s.numel() // 8,
        weight.untyped_storage().data_ptr(): weight.numel() * 2,
    }


@pytest.mark.parametrize("backend", KERNELS)
def test_conv_saves_bits(backend):
    s = spikes(2, 3, 32, 9, 9).movedim(2, -1).contiguous().movedim(-1, 2).requires_grad_()
    weight = torch.randn(8, 32, 3, 3, requires_grad=True)
    with count_saved() as saved:
        F.spike_conv2d(s, weight, 1, 1, backend=backend)
        assert sorted(saved().values()) == sorted([s.numel() // 8, weight.numel() * 4])


# kernel, stride, padding, images, channels in and out, height, width
GEOMETRIES = [
    (1, 1, 0, 1, 1, 1, 1, 1),
    (1, 1, 0, 700, 100, 65, 1, 1),
    (3, 2, 1, 3, 40, 35, 9, 7),
    (3, 1, 1, 2, 63, 70, 5, 6),
    (2, 3, 0, 2, 130, 7, 8, 4),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weight_gradient_from_bits(geometry, dtype):
    """Sums of narrow gradients are kept in float32, so every dtype is held to its error."""
    if "triton" not in KERNELS:
        pytest.skip("triton does not run here")
    kernel, stride, padding, images, channels, outputs, height, width = geometry
    s = spikes(images, channels, height, width).double()
    weight = torch.zeros(outputs, channels, kernel, kernel, dtype=torch.double, requires_grad=True)
    y = torch.conv2d(s, weight, stride=stride, padding=padding)
    g = torch.randn(y.shape).to(dtype)
    (exact,) = torch.autograd.grad(y, weight, g.double())
    arguments = (g, F.pack_spikes(s.movedim(1, -1)), channels, kernel, stride, padding, "triton")
    actual = torch.ops.stmixer.spike_weight_gradient(*arguments)
    assert actual.dtype == torch.float32
    assert error(actual, exact) <= TOLERANCE[torch.float32]
    if images == 3:
        op = torch.ops.stmixer.spike_weight_gradient.default
        assert set(opcheck(op, arguments).values()) == {"SUCCESS"}


@pytest.mark.compiles
@pytest.mark.parametrize("capability", [90, *in_full((80,))])
def test_weight_gradient_compiles_without_spills(capability):
    results = compile_for(
        capability,
        """if True:
    import torch
    from stmixer_ops.ops.spike_linear import triton as kernels

    def launch(dtype, images, size, channels, outputs, kernel):
        g = torch.zeros(images, outputs, size, size, dtype=dtype)
        bits = torch.zeros(images, size, size, -(-channels // 32), dtype=torch.int32)
        return lambda: kernels.spike_weight_gradient(g, bits, channels, kernel, 1, kernel // 2)

    launches = [
        launch(dtype, images, *shape)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
        for shape in ((1, 384, 1536, 1), (16, 96, 192, 3), (32, 48, 96, 3))
        for images in (64, 100)
    ]
""",
    )
    # One kernel for any batch; channels above and below the wide tile.
    assert [len(kernels) for kernels in results] == [1, 0, 1, 0, 1, 0] * 2 + [1, 0, 1, 0, 0, 0]
    for kernel in (kernel for kernels in results for kernel in kernels):
        assert kernel["spilled"] == 0, kernel
        assert kernel["mma"] > 0, kernel
        assert kernel["shared"] <= 80 * 1024, kernel


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.pack_spikes(torch.zeros(3), 1), "dim must name one of the 1 dimensions of s"),
        (lambda: F.pack_spikes([1]), "s must be a tensor, got list"),
        (lambda: F.unpack_spikes(torch.zeros(2), 3), "bits must be int32 words, got torch.float32"),
        (lambda: F.unpack_spikes(torch.zeros(2, dtype=torch.int32), 65), "length 65 takes 3 words"),
        (lambda: F.spike_linear(torch.zeros(2, 3), torch.zeros(4, 5)), "weight must take the 3"),
        (lambda: F.spike_linear(torch.zeros(2, 3), torch.zeros(4)), r"weight \[O, C\]"),
        (
            lambda: F.spike_linear(
                torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3, 1, dtype=torch.int32)
            ),
            "bits must be pack_spikes",
        ),
        (lambda: F.spike_conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 4, 3, 3)), "take the 3"),
        (lambda: F.spike_conv2d(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), 0), "stride"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()
