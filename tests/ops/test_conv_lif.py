"""conv_lif: against float64 convolution and scalar rules, from dense spikes and from bits."""

from __future__ import annotations

import pytest
import torch
from support.compile_cases import compiler
from support.ops_cases import BACKENDS, LAYOUTS, TOLERANCE, error
from support.pairs import covering, in_full, pairwise, product
from support.triton_aot import compile_for
from torch.library import opcheck

from stmixer_ops import functional as F

# kernel, stride, padding, channels in and out, height, width: small, since Triton's interpreter
# takes a hundredth of a second for each tile, step, tap and block of channels
GEOMETRIES = {
    "one pixel": (1, 1, 0, 1, 1, 1, 1),
    "pointwise": (1, 1, 0, 100, 63, 7, 1),
    "strided": (3, 2, 1, 40, 35, 5, 7),
    "whole words": (3, 1, 1, 64, 64, 3, 4),
    "few channels": (3, 1, 0, 3, 33, 5, 5),
    "even window": (2, 2, 1, 40, 35, 4, 5),
    "large window": (5, 3, 2, 33, 7, 5, 8),
    "pointwise with a stride": (1, 2, 1, 32, 65, 6, 5),
}
LARGER = GEOMETRIES | {
    "strided": (3, 2, 1, 40, 35, 9, 7),
    "whole words": (3, 1, 1, 64, 96, 5, 6),
    "few channels": (3, 1, 0, 3, 33, 8, 5),
    "large window": (5, 3, 2, 33, 7, 11, 10),
}
BAND = 1e-4


def spikes(*shape, rate=0.3, dtype=torch.float32):
    return (torch.rand(shape) < rate).to(dtype)


def case(geometry, steps=2, batch=2, dtype=torch.float32, sizes=GEOMETRIES):
    kernel, stride, padding, channels, outputs, height, width = sizes[geometry]
    s = spikes(steps, batch, channels, height, width, dtype=dtype)
    weight = (torch.randn(outputs, channels, kernel, kernel) / (channels**0.5 * kernel)).to(dtype)
    return s, weight * 2, torch.randn(outputs), stride, padding


def exact_currents(s, weight, bias, stride, padding):
    y = torch.conv2d(s.flatten(0, 1).double(), weight.double(), bias.double(), stride, padding)
    return y.unflatten(0, s.shape[:2])


def exact_lif(fired, currents, v, *, threshold, decay, reset):
    """The float64 membrane along the tested spikes; those outside the band must be its own."""
    for s, y in zip(fired.double(), currents, strict=True):
        v = decay * v + y
        clear = (v - threshold).abs() >= BAND
        assert torch.equal(s[clear] > 0, v[clear] >= threshold)
        v = v * (1 - s) if reset == "hard" else v - threshold * s
    return v


@pairwise(
    backend=BACKENDS,
    geometry=GEOMETRIES,
    packed=[False, True],
    dtype=[torch.float32, torch.bfloat16, torch.float16],
    reset=["hard", "soft"],
    decay=[0.9, 0.5],
)
def test_float64(backend, geometry, packed, dtype, reset, decay, full):
    """Products of spikes with narrow weights are exact, so the band holds in every dtype."""
    sizes, steps = (LARGER, 3) if full else (GEOMETRIES, 2)
    s, weight, bias, stride, padding = case(geometry, steps, dtype=dtype, sizes=sizes)
    exact = exact_currents(s, weight, bias, stride, padding)
    v_init = torch.randn(exact.shape[1:])
    neuron = {"threshold": 0.8, "decay": decay, "reset": reset}
    out, state, bits = F.conv_lif(
        F.pack_spikes(s, 2) if packed else s, weight, bias, stride, padding,
        v_init=v_init, return_state=True, pack=True, backend=backend, **neuron,
    )  # fmt: skip
    assert (out.dtype, state.dtype, bits.dtype) == (dtype, torch.float32, torch.int32)
    v = exact_lif(out, exact, v_init.double(), **neuron)
    assert error(state, v) <= 1e-5
    assert 0 < out.mean() < 1 or out.numel() < 20
    assert torch.equal(bits, F.pack_spikes(out, 2, backend="reference"))


@pairwise(
    backend=BACKENDS,
    geometry=["strided", "pointwise", "whole words"],
    dtype=TOLERANCE,
    allowed=lambda backend, dtype, **_: (backend, dtype) != ("triton", torch.float64),
)
def test_residual_and_sum(backend, geometry, dtype):
    """The sum is rounded once, and the neurons integrate what is returned.

    Triton has no tensor-core product in float64.
    """
    s, weight, bias, stride, padding = case(geometry, dtype=dtype)
    exact = exact_currents(s, weight, bias, stride, padding)
    residual = torch.randn(exact.shape).to(dtype)
    options = {"residual": residual, "return_sum": True, "backend": backend, "decay": 0.9}
    out, total, state, bits = F.conv_lif(
        s, weight, bias, stride, padding, return_state=True, pack=True, **options
    )
    assert total.dtype == dtype
    assert error(total, exact + residual.double()) <= TOLERANCE[dtype]
    expected, membrane = F.lif(total, decay=0.9, return_state=True, backend="reference")
    assert torch.equal(out, expected)
    assert torch.equal(state, membrane)
    only, same = F.conv_lif(s, weight, bias, stride, padding, pack="only", **options)
    assert torch.equal(only, bits)
    assert torch.equal(same, total)


def test_without_bias_and_in_every_form(backend):
    s, weight, _, stride, padding = case("even window")
    out = F.conv_lif(s, weight, None, stride, padding, backend=backend)
    exact_lif(
        out,
        exact_currents(s, weight, torch.zeros(len(weight)), stride, padding),
        torch.zeros(out.shape[1:], dtype=torch.float64),
        threshold=1.0, decay=0.5, reset="hard",
    )  # fmt: skip
    # Bias in another dtype, weight in another layout: the same numbers.
    wide = F.conv_lif(s, weight, torch.zeros(len(weight)).double(), stride, padding)
    turned = weight.contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide, F.conv_lif(s, turned, None, stride, padding, backend="cpu"))
    assert error(out, F.conv_lif(s, turned, None, stride, padding, backend=backend)) == 0


@pairwise(backend=BACKENDS, layout=LAYOUTS, packed=[False, True])
def test_layouts(backend, layout, packed):
    s, weight, bias, stride, padding = case("even window")
    given = F.pack_spikes(s, 2) if packed else s
    residual = torch.randn(2, 2, 35, 3, 3)
    plain = F.conv_lif(given, weight, bias, stride, padding, residual=residual, backend=backend)
    turned = F.conv_lif(
        LAYOUTS[layout](given), weight, bias, stride, padding,
        residual=LAYOUTS[layout](residual), backend=backend,
    )  # fmt: skip
    assert torch.equal(turned, plain)
    if backend != "reference":
        assert turned.movedim(2, -1).is_contiguous()


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "bits"])
def test_one_image_repeated_over_time(backend, packed):
    s, weight, bias, stride, padding = case("even window", steps=1)
    given = F.pack_spikes(s, 2) if packed else s
    residual = torch.randn(1, 2, 35, 3, 3)
    args = (weight, bias, stride, padding)
    shown = F.conv_lif(
        given.expand(3, *given.shape[1:]), *args,
        residual=residual.expand(3, *residual.shape[1:]), backend=backend,
    )  # fmt: skip
    copied = F.conv_lif(
        given.repeat(3, 1, 1, 1, 1), *args,
        residual=residual.repeat(3, 1, 1, 1, 1), backend=backend,
    )  # fmt: skip
    assert torch.equal(shown, copied)


def test_bit_identical_over_isas_and_threads(same_bits_everywhere):
    s, weight, bias, stride, padding = case("strided")
    out = F.conv_lif(s, weight, bias, stride, padding, backend="cpu")
    residual, v_init = torch.randn(out.shape), torch.randn(out.shape[1:])
    same_bits_everywhere(
        lambda: F.conv_lif(
            F.pack_spikes(s, 2, backend="cpu"), weight, bias, stride, padding, residual=residual,
            v_init=v_init, return_sum=True, return_state=True, pack=True, backend="cpu",
        )
    )  # fmt: skip


def test_nan_passes_and_never_fires(backend):
    s, weight, bias, _, _ = case("pointwise", steps=3)
    residual = torch.full((3, 2, 63, 7, 1), 5.0)
    residual[1, 0, 4, 2, 0] = float("nan")
    out, state = F.conv_lif(
        s, weight, bias, residual=residual, return_state=True, reset="soft", backend=backend
    )
    assert not out[1:, 0, 4, 2, 0].any()
    assert state[0, 4, 2, 0].isnan()
    assert state.isnan().sum() == 1


def test_empty_batch(backend):
    s, weight = torch.zeros(3, 0, 4, 5, 5), torch.randn(6, 4, 3, 3)
    out, bits = F.conv_lif(s, weight, pack=True, backend=backend)
    assert (out.shape, bits.shape) == ((3, 0, 6, 3, 3), (3, 0, 1, 3, 3))


def test_gradients_are_the_reference_s():
    s, weight, bias, stride, padding = case("strided")
    leaves = [t.requires_grad_() for t in (s, weight, bias)]
    out = F.conv_lif(*leaves, stride, padding)
    y = F.spike_conv2d(s, weight, stride, padding, backend="reference") + bias[:, None, None]
    expected = F.lif(y, backend="reference")
    g = torch.randn_like(out)
    pairs = zip(torch.autograd.grad(out, leaves, g), torch.autograd.grad(expected, leaves, g),
                strict=True)  # fmt: skip
    assert all(error(a, b) <= 1e-6 for a, b in pairs)
    with pytest.raises(RuntimeError, match="conv_lif: backend='cpu' .* for inference"):
        F.conv_lif(*leaves, stride, padding, backend="cpu")


@pytest.mark.compiles
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "bits"])
def test_compiled_and_checked(backend, packed, full):
    s, weight, bias, stride, padding = case("pointwise with a stride")
    s = F.pack_spikes(s, 2) if packed else s
    residual = torch.randn(2, 2, 65, 4, 4)

    def run(s, residual):
        return F.conv_lif(
            s, weight, bias, stride, padding,
            residual=residual, return_sum=True, pack="only", backend=backend,
        )  # fmt: skip

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend=compiler(backend, full))
    bits, total = compiled(s, residual)
    expected, exact = run(s, residual)
    assert torch.equal(bits, expected)
    assert error(total, exact) <= 1e-6
    if backend != "reference":
        arguments = (s, weight, bias, residual, None, stride, padding, 1.0, 0.9, "soft")
        for asked in ((True, True, True, True), (False, False, False, True)):
            results = opcheck(torch.ops.stmixer.conv_lif.default, (*arguments, *asked, backend))
            assert set(results.values()) == {"SUCCESS"}


S, W = torch.zeros(2, 1, 3, 4, 4), torch.zeros(5, 3, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((S[0], W), {}, r"s must be \[T, B, C, H, W\]"),
        ((S, W[0]), {}, r"weight \[O, C, K, K\]"),
        ((S, W[:, :, :2]), {}, r"weight \[O, C, K, K\]"),
        ((S, W, None, 0), {}, "stride must be >= 1"),
        ((S[:, :, :2], W), {}, "weight must take the 2 channels"),
        ((S.double(), W), {}, "s must be torch.float32 like weight"),
        ((S, W.int()), {}, "weight must be float32, float64"),
        ((torch.zeros(2, 1, 2, 4, 4, dtype=torch.int32), W), {}, "length 3 takes 1 words"),
        ((S[..., :2], W), {}, "must fit in s of shape"),
        ((S, W, torch.zeros(4)), {}, r"bias must have shape \(5,\)"),
        ((S, W), {"residual": S}, r"residual must be torch.float32 of shape \(2, 1, 5, 2, 2\)"),
        ((S, W), {"v_init": torch.zeros(1, 5, 4, 4)}, "v_init must have the shape"),
        ((S, W), {"pack": "both"}, "pack must be False, True or 'only'"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        F.conv_lif(*arguments, **options)


LAUNCHERS = """if True:
    import torch
    from stmixer_ops.ops.conv_lif import triton as kernels

    def launch(dtype, packed, channels, outputs, size, kernel, batch=64, state=False):
        image = (4, batch, -(-channels // 32) if packed else channels, size, size)
        s = torch.zeros(image, dtype=torch.int32 if packed else dtype).movedim(2, -1)
        s = s.contiguous().movedim(-1, 2)
        weight = torch.zeros(outputs, channels, kernel, kernel, dtype=dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        stream = torch.zeros(4, batch, size, size, outputs, dtype=dtype).movedim(-1, 2)
        v = torch.zeros(batch, outputs, size, size) if state else None
        return lambda: kernels.conv_lif(kernels.Call(
            s, weight, torch.zeros(outputs), stream, v, 1, kernel // 2, 1.0, 0.9, "hard",
            state, True, state, True,
        ))

    launches = []
"""


@pytest.mark.compiles
@pytest.mark.parametrize("capability", [90, *in_full((80,))])
@pytest.mark.parametrize("packed", [False, True], ids=["dense", "bits"])
def test_registers_shared_memory_and_contraction(capability, packed, full):
    """Every tile, with everything that can be asked for; products on tensor cores."""
    rows = product(
        {
            "dtype": ["bfloat16", "float16", "float32"],
            "batch and state": [(64, False), (64, True), (1, True)],
            "size": [(96, 192, 32, 3), (384, 384, 8, 1)],
        }
    )
    code = f"""
    for dtype, batch_and_state, size in {rows if full else covering(rows)}:
        launches.append(launch(getattr(torch, dtype), {packed}, *size, *batch_and_state))
"""
    results = compile_for(capability, LAUNCHERS, code)
    compiled = [kernel for kernels in results for kernel in kernels]
    assert len(compiled) >= (12 if full else 8)
    for kernel in compiled:
        assert kernel["spilled"] == 0, kernel
        assert kernel["fma"] == 0, kernel
        assert kernel["mma"] > 0, kernel
        assert kernel["shared"] <= 80 * 1024, kernel  # two programs on a multiprocessor


@pytest.mark.compiles
def test_one_kernel_for_every_batch_size():
    code = """
    for batch in (64, 65, 100):
        launches.append(launch(torch.bfloat16, True, 96, 192, 16, 3, batch=batch))
"""
    results = compile_for(90, LAUNCHERS, code)
    assert [len(kernels) for kernels in results] == [1, 0, 0]
