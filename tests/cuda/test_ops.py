"""The CUDA backend on the cases of the cpu backend: on a GPU where there is one, and everywhere
with its kernels compiled for the CPU, where they agree with the cpu backend to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import cuda_host
from support.drawn import drawn_case
from support.ops_calls import BNCase, check_nan, check_threshold, run_lif
from support.ops_cases import (
    DTYPES,
    LAYOUTS,
    OPTIONS,
    SURROGATES,
    TOLERANCE,
    check_results,
    count_saved,
    error,
)
from support.pairs import pairwise

from stmixer_ops import functional as F
from stmixer_ops.ops import _cuda

pytestmark = pytest.mark.compiles
DEVICES = ["emulated", *(["gpu"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the tensors of a test live, with kernels for them."""
    if request.param == "emulated":
        cuda_host.library()
        monkeypatch.setattr(_cuda, "RUNTIME", cuda_host.EMULATED)
        return "cpu"
    if isinstance(_cuda.RUNTIME, str):
        pytest.skip(_cuda.RUNTIME)
    return "cuda"


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda_host.library()
    monkeypatch.setattr(_cuda, "RUNTIME", cuda_host.EMULATED)


def move(device, *tensors):
    return [None if t is None else t.to(device) for t in tensors]


def lif(device, x, v_init=None, gs=None, gv=None, **options):
    """One call on the CUDA backend; results on the CPU."""
    moved = move(device, x, v_init, gs, gv)
    return [t.cpu() for t in run_lif(*moved, backend="cuda", **options)]


# -- lif ------------------------------------------------------------------------------------------


@pairwise(
    device=DEVICES, layout=LAYOUTS, dtype=DTYPES, steps=[1, 2, 4, 5, 8, 9, 31], option=OPTIONS
)
def test_lif_is_the_reference(device, layout, dtype, steps, option):
    x = LAYOUTS[layout](torch.randn(steps, 3, 7, 9, 7).to(dtype))
    state = torch.float64 if dtype == torch.float64 else torch.float32
    v_init, gv = torch.randn(2, 3, 7, 9, 7, dtype=state)
    gs = torch.randn(x.shape).to(dtype)
    options = dict(zip(("reset", "detach_reset"), option, strict=True)) | {"decay": 0.9}
    actual = lif(device, x, v_init, gs, gv, **options)
    expected = run_lif(x, v_init, gs, gv, backend="reference", **options)
    check_results(actual, expected, TOLERANCE[dtype], exact=3)


@pairwise(dtype=DTYPES, option=OPTIONS, surrogate=SURROGATES)
def test_lif_is_the_cpu_backend_to_the_last_bit(emulated, dtype, option, surrogate):
    x, gs = torch.randn(2, 11, 3, 5, 64).to(dtype)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    v_init, gv = torch.randn(2, 3, 5, 64, dtype=state)
    options = {
        "threshold": 0.7,
        "decay": 0.9,
        "reset": option[0],
        "detach_reset": option[1],
        "surrogate": surrogate,
    }
    actual = lif("cpu", x, v_init, gs, gv, **options)
    expected = run_lif(x, v_init, gs, gv, backend="cpu", **options)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.name)
def test_surrogates_follow_float64(device, surrogate):
    """On a GPU exponentials and quotients are approximate: within the tolerance of the type."""
    x = (3 * torch.randn(4000)).repeat(2, 1)
    gradients = []
    for place, dtype, backend in ((device, torch.float32, "cuda"),
                                  ("cpu", torch.float64, "reference")):  # fmt: skip
        leaf = x.to(place, dtype).requires_grad_()
        s = F.lif(leaf, decay=0.9, detach_reset=True, surrogate=surrogate, backend=backend)
        gradients.append(torch.autograd.grad(s[0].sum(), leaf)[0].cpu())
    assert error(*gradients) <= 2 * TOLERANCE[torch.float32]


@pairwise(device=DEVICES, steps=[1, 8, 40, 1000], neurons=[1, 7, 63, 64, 1025])
def test_lif_of_every_length(device, steps, neurons):
    x = torch.randn(steps, neurons)
    actual = lif(device, x, decay=0.9)
    expected = run_lif(x, backend="reference", decay=0.9)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[2], expected[2])
    assert error(actual[3], expected[3]) <= TOLERANCE[torch.float32]


def test_long_runs_need_scratch_only_where_shared_memory_is_too_small():
    """x and a membrane every 8 steps in shared memory; beyond, half a byte a neuron and step."""
    from stmixer_ops import _C

    neuron, neurons = _C.Neuron(1.0, 0.5, True, False, 0, 2.5), 4096
    for steps, shared, scratch in ((8, 0, 0), (32, 128 * 8 * (32 * 2 + 3 * 4), 0),
                                   (1000, 0, 124 * 4 * neurons)):  # fmt: skip
        call = _C.LifBackward(2, steps, neurons, neurons, neuron, *[0] * 6)
        ((_, _, _, _, used, _),) = call.cuda_plan(0)
        assert (used, call.cuda_scratch_bytes()) == (shared, scratch)


def test_one_image_repeated_over_time(device):
    for steps in (4, 11):
        image = torch.randn(3, 8, 7).requires_grad_()
        results = []
        for place, backend in ((device, "cuda"), ("cpu", "reference")):
            leaf = image.detach().to(place).requires_grad_()
            s = F.lif(leaf.expand(steps, 3, 8, 7), backend=backend)
            results.append([s.cpu(), torch.autograd.grad(s.sum(), leaf)[0].cpu()])
        assert torch.equal(results[0][0], results[1][0])
        assert error(results[0][1], results[1][1]) <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_membrane_at_the_threshold_fires(device, dtype):
    check_threshold(dtype, "cuda", device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_passes_and_never_fires(device, dtype):
    check_nan(dtype, "cuda", device)


def test_empty_batch(device):
    x = torch.empty(4, 0, 8, device=device, requires_grad=True)
    s = F.lif(x, backend="cuda")
    s.sum().backward()
    assert s.shape == x.shape == x.grad.shape


def test_results_that_nobody_asked_for_are_not_written(device):
    x = torch.randn(2, 3, 64, device=device, requires_grad=True)
    assert torch.equal(F.lif(x, backend="cuda").cpu(), F.lif(x.cpu(), backend="reference"))
    v = F.lif(x, return_state=True, backend="cuda")[1]
    (gradient,) = torch.autograd.grad(v.sum(), x)  # no gradient of the spikes
    leaf = x.detach().cpu().requires_grad_()
    expected = F.lif(leaf, return_state=True, backend="reference")[1]
    assert error(gradient.cpu(), torch.autograd.grad(expected.sum(), leaf)[0]) <= 1e-6


def test_saves_its_input_and_nothing_else(device):
    x = torch.randn(4, 8, 32, 64, device=device).bfloat16().requires_grad_()
    with count_saved() as saved:
        F.lif(x, pack=True, backend="cuda")
        assert saved() == {x.untyped_storage().data_ptr(): x.numel() * 2}


# -- bn_lif ---------------------------------------------------------------------------------------


class PlacedCase(BNCase):
    """A case whose results come back to the CPU."""

    def run(self, backend, training, cast=None, device="cpu", **options):
        kept = dict(self.__dict__)
        try:
            for name, value in kept.items():
                if isinstance(value, torch.Tensor):
                    setattr(self, name, value.to(device))
            return [t.cpu() for t in super().run(backend, training, cast, **options)]
        finally:
            self.__dict__.update(kept)


@pairwise(
    device=DEVICES,
    layout=LAYOUTS,
    dtype=DTYPES,
    training=[True, False],
    steps=[3, 7, 8, 9],
    residual=[True, False],
)
def test_bn_lif_is_the_reference(device, layout, dtype, training, steps, residual):
    case = PlacedCase((steps, 2, 20, 5, 7), dtype, layout, residual=residual)
    actual = case.run("cuda", training, device=device, decay=0.9)
    expected = case.run("reference", training, decay=0.9)
    assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[3], expected[3])
    check_results(actual, expected, 4 * TOLERANCE[dtype])


@pairwise(steps=[4, 5, 8, 14], dtype=DTYPES, reset=["hard", "soft"])
def test_bn_lif_is_the_cpu_backend_to_the_last_bit(emulated, steps, dtype, reset):
    """With given statistics all but the sums over a channel, whose order is another."""
    case = PlacedCase((steps, 4, 24, 32), dtype)
    actual = case.run("cuda", False, decay=0.9, reset=reset)
    expected = case.run("cpu", False, decay=0.9, reset=reset)
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        sums = i in (7, 8)  # gradients of weight and bias
        assert error(a, b) <= 1e-5 if sums else torch.equal(a, b)


@pytest.mark.parametrize("channel_dim", [1, 2, 3, -1])
def test_any_channel_dimension(device, channel_dim):
    case = PlacedCase((2, 6, 5, 7), channel_dim=channel_dim)
    actual, expected = case.run("cuda", True, device=device), case.run("reference", True)
    assert all(error(a, b) <= 2e-5 for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("channels", [1, 7, 63, 513, 1536])
@pytest.mark.parametrize("steps", [1, 7, 33])
def test_any_number_of_channels_innermost(device, channels, steps):
    case = PlacedCase((steps, 3, 2, channels), channel_dim=3)
    actual, expected = case.run("cuda", True, device=device), case.run("reference", True)
    assert torch.equal(actual[0], expected[0])
    assert all(error(a, b) <= 3e-5 for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("batch", "tokens"), [(1, 9000), (300, 3), (40, 64)])
def test_many_blocks(device, batch, tokens):
    """Sums over parts and over tiles of a step, and rows that threads go down."""
    for layout in ("contiguous", "channels_last"):
        case = PlacedCase((2, batch, 16, tokens), layout=layout)
        actual, expected = case.run("cuda", True, device=device), case.run("reference", True)
        assert all(error(a, b) <= 2e-5 for a, b in zip(actual, expected, strict=True))


def test_the_same_input_gives_the_same_bits(device):
    case = PlacedCase((2, 16, 24, 64))
    first, second = (case.run("cuda", True, device=device) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_large_mean_keeps_its_variance(device):
    x = torch.randn(2, 8, 16, 100) * 0.1 + 1000
    _, total = F.bn_lif(x.to(device), None, None, None, None, training=True, return_sum=True,
                        backend="cuda")  # fmt: skip
    wanted = torch.nn.functional.batch_norm(
        x.double().movedim(2, 1), None, None, training=True
    ).movedim(1, 2)
    assert error(total.cpu(), wanted) < 1e-3


def test_static_current_repeated_over_time(device):
    step = torch.randn(1, 4, 6, 8, 8)
    results = []
    for place, backend in ((device, "cuda"), ("cpu", "reference")):
        leaf = step.to(place).requires_grad_()
        x = leaf.expand(3, -1, -1, -1, -1)
        s = F.bn_lif(x, None, None, None, None, training=True, backend=backend)
        (gradient,) = torch.autograd.grad((s * s.cumsum(-1)).sum(), leaf)
        results.append((s.cpu(), gradient.cpu()))
    assert torch.equal(results[0][0], results[1][0])
    assert error(results[0][1], results[1][1]) <= 1e-5


@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_bn_lif_of_any_shape_and_layout(emulated, data):
    case = drawn_case(data, PlacedCase)
    actual, expected = case.run("cuda", True), case.run("reference", True)
    assert all(error(a, b) <= 1e-9 for a, b in zip(actual, expected, strict=True))


# -- pack and unpack ------------------------------------------------------------------------------


@pairwise(device=DEVICES, dtype=DTYPES, last=[1, 7, 31, 32, 33, 63, 64, 100, 600], dim=[-1, 0])
def test_pack_and_unpack(device, dtype, last, dim):
    s = (torch.rand(3, 5, last) < 0.3).to(dtype)
    s[0, 0, 0] = float("nan")
    s[0, 1, 0] = -1  # neither of them is a spike
    s = s.movedim(-1, dim)
    bits = F.pack_spikes(s.to(device), dim, backend="cuda").cpu()
    assert torch.equal(bits, F.pack_spikes(s, dim, backend="reference"))
    back = F.unpack_spikes(bits.to(device), last, dim, dtype=dtype, backend="cuda").cpu()
    assert torch.equal(back, (s > 0).to(dtype))


def test_pack_of_a_misaligned_row(device):
    s = (torch.rand(129) < 0.5).float()[1:].to(device)
    bits = F.pack_spikes(s, backend="cuda").cpu()
    assert torch.equal(bits, F.pack_spikes(s.cpu(), backend="reference"))
