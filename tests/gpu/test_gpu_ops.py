"""Every op on every backend of a GPU against the reference in its own type and in float64."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from support.gpu_cases import DTYPES, LAYOUTS, OPS, REHEARSED, STEPS, needs_kernels, require_kernels
from support.ops_calls import (
    BNCase,
    check_nan,
    flips_outside,
    random_spikes,
    run_lif,
    run_token_mix_lif,
    state_type,
)
from support.ops_cases import LAYOUTS as LAY_OUT
from support.ops_cases import SURROGATES, TOLERANCE, error

from stmixer_ops import functional as F

OPTIONS = [(reset, detach) for reset in ("hard", "soft") for detach in (False, True)]


@contextmanager
def unless_unsupported(dtype):
    """float64 is the reference's; a backend may refuse it, and nothing else."""
    try:
        yield
    except RuntimeError as error:
        if dtype != torch.float64 or "cannot run this call" not in str(error):
            raise
        pytest.skip(str(error))


def same(native, expected, dtype, exact=3, factor=1):
    """The first ``exact`` results to the last bit, the others within the type's rounding."""
    for actual, wanted in zip(native[:exact], expected[:exact], strict=True):
        assert torch.equal(actual, wanted)
    for actual, wanted in zip(native[exact:], expected[exact:], strict=True):
        assert actual.dtype == wanted.dtype
        assert actual.device == wanted.device
        assert error(actual, wanted) <= factor * TOLERANCE[dtype]


# -- lif -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("lif")
def test_lif(device, backend, dtype, layout, steps):
    """Spikes, state and bits to the last bit; decay 0.9 shows a contracted multiply-add."""
    shape = (steps, 3, 7, 5, 33)
    x = LAY_OUT[layout](torch.randn(shape).to(device, dtype))
    v_init, gv = torch.randn(2, *shape[1:], dtype=state_type(dtype)).to(device)
    gs = torch.randn(shape).to(device, dtype)
    for reset, detach in OPTIONS:
        options = {"decay": 0.9, "reset": reset, "detach_reset": detach}
        native = run_lif(x, v_init, gs, gv, backend=backend, **options)
        same(native, run_lif(x, v_init, gs, gv, backend="reference", **options), dtype)
        assert native[0].stride() == F.lif(x, backend="reference").stride() or layout == "sliced"
    s = F.lif(x, decay=0.9, backend=backend)
    assert flips_outside(s, x) == 0


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
@needs_kernels("lif")
def test_lif_surrogates(device, backend, surrogate):
    x, gs = torch.randn(2, 4, 5, 70).to(device)
    options = {"surrogate": surrogate, "threshold": 0.7, "decay": 0.9}
    native = run_lif(x, gs=gs, backend=backend, **options)
    same(native, run_lif(x, gs=gs, backend="reference", **options), torch.float32)


@pytest.mark.parametrize("steps", [32, 33, 100])
@pytest.mark.parametrize("neurons", [1, 7, 63, 1025])
@needs_kernels("lif")
def test_lif_long(device, backend, steps, neurons):
    x = torch.randn(steps, neurons).to(device)
    native = run_lif(x, backend=backend, decay=0.9)
    same(native, run_lif(x, backend="reference", decay=0.9), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("lif")
def test_lif_of_one_image_repeated(device, backend, dtype):
    """A T-stride of 0 is read as it is."""
    image = torch.randn(3, 8, 7).to(device, dtype)
    x = image.expand(4, *image.shape)
    native, expected = run_lif(x, backend=backend), run_lif(x, backend="reference")
    same(native, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("lif")
def test_nan_passes_and_never_fires(device, backend, dtype):
    check_nan(dtype, backend, device)


# -- bn_lif ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("bn_lif")
def test_bn_lif(device, backend, dtype, layout, steps, training):
    """Statistics are sums in another order, so a spike may turn where the membrane is at the
    threshold; what is summed over a channel then differs by one term."""
    for residual in (True, False):
        case = BNCase((steps, 2, 20, 5, 7), dtype, layout, residual=residual, device=device)
        with unless_unsupported(dtype):
            native = case.run(backend, training, decay=0.9)
        expected = case.run("reference", training, decay=0.9)
        assert flips_outside(native[0], native[1], case.v_init) == 0
        assert error(native[1], expected[1]) <= 4 * TOLERANCE[dtype]
        if torch.equal(native[0], expected[0]):
            same(native, expected, dtype, exact=1, factor=8)


@pytest.mark.parametrize("channels", [1, 7, 63, 513])
@needs_kernels("bn_lif")
def test_bn_lif_channels_innermost(device, backend, channels):
    case = BNCase((3, 3, 2, channels), channel_dim=3, device=device)
    native, expected = case.run(backend, True), case.run("reference", True)
    if torch.equal(native[0], expected[0]):
        same(native, expected, torch.float32, exact=1, factor=10)
    assert flips_outside(native[0], native[1], case.v_init, decay=0.5) == 0


# -- Packing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 7, 31, 32, 33, 63, 64, 100, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("pack_spikes")
def test_pack(device, backend, dtype, length):
    s = random_spikes(5, 3, length).to(device, dtype)
    for dim in (-1, 0):
        moved = s.movedim(-1, dim)
        bits = F.pack_spikes(moved, dim, backend=backend)
        assert torch.equal(bits, F.pack_spikes(moved, dim, backend="reference"))
        back = F.unpack_spikes(bits, length, dim, dtype=dtype, backend=backend)
        assert torch.equal(back, moved)


# -- Products --------------------------------------------------------------------------------------

MIXERS = [(2, 6, 7, 2), (1, 32, 64, 2), (2, 34, 100, 17)]  # batch, channels, tokens, heads


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sizes", MIXERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("token_mix_lif")
def test_token_mix_lif(device, backend, dtype, sizes, steps):
    batch, channels, tokens, heads = sizes
    shape = (steps, batch, channels, tokens)
    for layout in ("contiguous", "channels_last"):
        s = LAY_OUT[layout](random_spikes(*shape, rate=0.2).to(device, dtype))
        weight = (torch.randn(heads, tokens, tokens) / 4).to(device, dtype)
        v_init = torch.zeros(shape[1:], dtype=state_type(dtype), device=device)
        gs, gv = torch.randn(shape).to(device), torch.randn(shape[1:]).to(device)
        operands = (s, weight, v_init, gs, gv)
        for reset in ("hard", "soft"):
            options = {"decay": 0.9, "reset": reset}
            with unless_unsupported(dtype):
                native = run_token_mix_lif(*operands, backend, **options)
            expected = run_token_mix_lif(*operands, "reference", **options)
            currents = F.token_mix(s.double(), weight.double(), backend="reference")
            assert flips_outside(native[0], currents, reset=reset) == 0
            assert torch.equal(native[1], F.pack_spikes(native[0], backend="reference"))
            if torch.equal(native[0], expected[0]):
                same(native, expected, dtype, exact=2, factor=10)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("sizes", [(2, 6, 7, 2), (33, 48, 64, 2), (2, 34, 100, 17)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("token_mix_lif")
@torch.no_grad()
def test_token_mix_lif_from_bits_to_bits(device, backend, dtype, sizes, steps):
    """One image and many (two to a program), heads inside words and across them."""
    batch, channels, tokens, heads = sizes
    batch = min(batch, 3) if REHEARSED else batch
    s = random_spikes(steps, batch, channels, tokens, rate=0.2).to(device, dtype)
    weight = (torch.randn(heads, tokens, tokens) / 4).to(device, dtype)
    words = LAY_OUT["channels_last"](F.pack_spikes(s, 2, backend="reference"))
    currents = F.token_mix(s.double(), weight.double(), backend="reference")
    for reset in ("hard", "soft"):
        bits, v = F.token_mix_lif(
            words, weight, channels=channels, pack="only", return_state=True, decay=0.9,
            reset=reset, backend=backend,
        )  # fmt: skip
        fired = F.unpack_spikes(bits, channels, 2, backend="reference")
        assert flips_outside(fired, currents, reset=reset) == 0
        assert torch.equal(bits, F.pack_spikes(fired, 2, backend="reference"))
        assert (v.shape, v.dtype) == (s.shape[1:], state_type(dtype))


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 7), (130, 64, 96)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("spike_linear")
def test_spike_linear(device, backend, dtype, shape):
    rows, inputs, outputs = shape
    s = random_spikes(2, rows, inputs).to(device, dtype)
    weight = torch.randn(outputs, inputs).to(device, dtype)
    g = torch.randn(2, rows, outputs).to(device, dtype)
    for bits in (None, F.pack_spikes(s, backend="reference")):
        a, b = s.detach().requires_grad_(), weight.detach().requires_grad_()
        with unless_unsupported(dtype):
            y = F.spike_linear(a, b, bits, backend=backend)
        gradients = torch.autograd.grad(y, (a, b), g)
        wanted = g.double().flatten(0, -2).t() @ s.double().flatten(0, -2)
        assert error(y, s.double() @ weight.double().t()) <= 4 * TOLERANCE[dtype]
        assert error(gradients[0], g.double() @ weight.double()) <= 4 * TOLERANCE[dtype]
        assert error(gradients[1], wanted) <= 4 * TOLERANCE[dtype]


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("spike_conv2d")
def test_spike_conv2d(device, backend, dtype, layout, stride, padding):
    s = LAY_OUT[layout](random_spikes(2, 2, 5, 9, 7).to(device, dtype))
    weight = torch.randn(4, 5, 3, 3).to(device, dtype)
    a, b = s.detach().requires_grad_(), weight.detach().requires_grad_()
    with unless_unsupported(dtype):
        y = F.spike_conv2d(a, b, stride, padding, backend=backend)
    c, d = s.detach().double().requires_grad_(), weight.double().requires_grad_()
    exact = torch.conv2d(c.flatten(0, 1), d, stride=stride, padding=padding).view_as(y)
    g = torch.randn(y.shape).to(device, dtype)
    assert error(y, exact) <= 4 * TOLERANCE[dtype]
    wanted = torch.autograd.grad(exact, (c, d), g.double())
    for actual, expected in zip(torch.autograd.grad(y, (a, b), g), wanted, strict=True):
        assert error(actual, expected) <= 4 * TOLERANCE[dtype]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@needs_kernels("conv_lif")
@torch.no_grad()
def test_conv_lif(device, backend, dtype, steps):
    s = LAY_OUT["channels_last"](random_spikes(steps, 2, 33, 6, 5).to(device, dtype))
    weight = (torch.randn(20, 33, 3, 3) / 4).to(device, dtype)
    bias = torch.randn(20).to(device, dtype)
    residual = LAY_OUT["channels_last"](torch.randn(steps, 2, 20, 6, 5).to(device, dtype))
    with unless_unsupported(dtype):
        out, total = F.conv_lif(
            s, weight, bias, 1, 1, residual=residual, return_sum=True, decay=0.9, backend=backend
        )
    exact = torch.conv2d(s.double().flatten(0, 1), weight.double(), bias.double(), padding=1)
    exact = exact.view(residual.shape) + residual.double()
    assert error(total, exact) <= 4 * TOLERANCE[dtype]
    # Whether the neurons see the sum before or after its rounding is the backend's affair.
    margin = max(1e-4, 4 * TOLERANCE[dtype] * float(exact.abs().max()))
    assert flips_outside(out, total.double(), margin=margin) == 0


# -- What must be there, and what a race detector can take -----------------------------------------


@pytest.mark.parametrize("op", OPS)
def test_small_shapes(device, backend, op):
    """Each op that this backend has, once and without excuses; for compute-sanitizer, too."""
    require_kernels(op, backend)
    s = random_spikes(3, 2, 34, 33).to(device, torch.bfloat16).requires_grad_()
    image = random_spikes(3, 2, 20, 5, 7).to(device, torch.bfloat16).requires_grad_()
    weight = torch.randn(34, 33, 33).to(s).requires_grad_()
    filters = torch.randn(9, 20, 3, 3).to(s).requires_grad_()
    channels = torch.ones(34, device=device, requires_grad=True)
    calls = {
        "lif": lambda: F.lif(s, backend=backend),
        "bn_lif": lambda: F.bn_lif(
            s, channels, channels, None, None, training=True, residual=s, backend=backend
        ),
        "pack_spikes": lambda: F.pack_spikes(s, backend=backend),
        "unpack_spikes": lambda: F.unpack_spikes(
            F.pack_spikes(s, backend="reference"), 33, backend=backend
        ),
        "token_mix": lambda: F.token_mix(s, weight, backend=backend),
        "token_mix_lif": lambda: F.token_mix_lif(s, weight, backend=backend),
        "spike_linear": lambda: F.spike_linear(s, weight[0], backend=backend),
        "spike_conv2d": lambda: F.spike_conv2d(image, filters, 1, 1, backend=backend),
        "conv_lif": lambda: F.conv_lif(
            image.detach(), filters.detach(), None, 1, 1, backend=backend
        ),
    }
    y = calls[op]()
    assert y.device == s.device
    if op == "token_mix_lif":
        words = F.pack_spikes(s, 2, backend="reference")
        F.token_mix_lif(words, weight, channels=34, pack="only", backend=backend)
    if y.requires_grad:
        y.float().sum().backward()
        assert all(t.grad is None or bool(t.grad.isfinite().all()) for t in (s, weight, filters))
