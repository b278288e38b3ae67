"""token_mix_lif from bits to bits: against sums in float64, and against dense spikes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.compile_cases import compiler
from support.launches import Recorder
from support.ops_calls import flips_outside, random_spikes, state_type
from support.ops_cases import BACKENDS, KERNELS, LAYOUTS, TOLERANCE, error
from support.pairs import in_full, pairwise
from support.triton_aot import compile_for
from torch.library import opcheck

from stmixer_ops import functional as F

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

# T, batch, channels, tokens, heads: words of one head, of two, of eight, and a last one of a bit
SHAPES = [
    (2, 2, 64, 7, 2),
    (3, 1, 48, 21, 2),
    (2, 3, 40, 16, 10),
    (1, 1, 33, 1, 3),
    (1, 1, 32, 63, 1),
]
NEURON = {"threshold": 0.4, "decay": 0.9}


def case(shape, dtype=torch.float32):
    steps, batch, channels, tokens, heads = shape
    s = random_spikes(steps, batch, channels, tokens).to(dtype)
    weight = (torch.randn(heads, tokens, tokens) * 2 / tokens**0.5).to(dtype)
    return s, weight, torch.randn(batch, channels, tokens, dtype=state_type(dtype))


def exact_currents(s, weight):
    """One channel after the other."""
    per_head, s, weight = s.shape[2] // len(weight), s.double(), weight.double()
    mixed = [s[:, :, c] @ weight[c // per_head].T for c in range(s.shape[2])]
    return torch.stack(mixed, 2)


def exact_state(fired, currents, v, reset):
    for s, y in zip(fired.double(), currents, strict=True):
        v = 0.9 * v + y
        v = v * (1 - s) if reset == "hard" else v - 0.4 * s
    return v


@pairwise(backend=BACKENDS, shape=SHAPES, dtype=TOLERANCE, reset=["hard", "soft"])
def test_float64(backend, shape, dtype, reset):
    """Products of spikes with narrow weights are exact, so the band holds in every dtype."""
    s, weight, v_init = case(shape, dtype)
    words, currents = F.pack_spikes(s, 2), exact_currents(s, weight)
    bits, v = F.token_mix_lif(
        words, weight, channels=s.shape[2], v_init=v_init, return_state=True, pack="only",
        reset=reset, backend=backend, **NEURON,
    )  # fmt: skip
    assert (bits.shape, bits.dtype) == (words.shape, torch.int32)
    assert (v.shape, v.dtype) == (v_init.shape, v_init.dtype)
    fired = F.unpack_spikes(bits, s.shape[2], 2, backend="reference")
    assert flips_outside(fired, currents, v_init, reset=reset, **NEURON) == 0
    assert error(v, exact_state(fired, currents, v_init.double(), reset)) <= 1e-5
    # No bit is set beyond the last channel.
    assert torch.equal(F.pack_spikes(fired, 2, backend="reference"), bits)
    assert 0 < fired.mean() < 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(backend, layout):
    s, weight, v_init = case(SHAPES[1])
    words = F.pack_spikes(s, 2)
    expected = F.token_mix_lif(
        s, weight, v_init=v_init, return_state=True, backend="reference", **NEURON
    )
    options = {"channels": 48, "pack": "only", "return_state": True, "backend": backend, **NEURON}
    for given in (v_init, LAYOUTS["channels_last"](v_init[None])[0]):
        bits, v = F.token_mix_lif(LAYOUTS[layout](words), weight, v_init=given, **options)
        assert torch.equal(bits, F.pack_spikes(expected[0], 2))
        assert error(v, expected[1]) <= TOLERANCE[torch.float32]
        if backend != "reference":  # ready for the layer that follows, without a copy
            assert bits.transpose(2, 3).is_contiguous()


def test_one_step_repeated(backend):
    s, weight, _ = case((1, *SHAPES[1][1:]))
    words = F.pack_spikes(s, 2)
    options = {"channels": 48, "pack": "only", "backend": backend, **NEURON}
    shown = F.token_mix_lif(words.expand(4, *words.shape[1:]), weight, **options)
    assert torch.equal(shown, F.token_mix_lif(words.repeat(4, 1, 1, 1), weight, **options))


def test_every_mixture_of_bits_and_dense(backend):
    """Bits or spikes in, bits or spikes out; bits beside the spikes go along the tokens."""
    s, weight, v_init = case(SHAPES[1], torch.bfloat16)
    words = F.pack_spikes(s, 2)
    options = {"v_init": v_init, "return_state": True, "backend": backend, **NEURON}
    out, v, along_tokens = F.token_mix_lif(s, weight, pack=True, **options)
    assert torch.equal(along_tokens, F.pack_spikes(out, -1))
    for given in (s, words):
        only, state = F.token_mix_lif(given, weight, channels=48, pack="only", **options)
        assert torch.equal(only, F.pack_spikes(out, 2))
        assert error(state, v) <= 1e-6
    again = F.token_mix_lif(words, weight, channels=48, pack=True, **options)
    assert all(torch.equal(a, b) for a, b in zip(again, (out, v, along_tokens), strict=True))
    assert again[0].dtype == torch.bfloat16
    assert torch.equal(F.token_mix_lif(words, weight, channels=48, **options)[0], out)


def test_gradients_are_those_of_dense_spikes(backend):
    """Words have none; weight and state have theirs, unless bits are all that is asked for."""
    s, weight, v_init = case(SHAPES[1])
    gs, gradients = torch.randn(s.shape), []
    for given in (s, F.pack_spikes(s, 2)):
        leaves = [weight.clone().requires_grad_(), v_init.clone().requires_grad_()]
        out = F.token_mix_lif(given, leaves[0], channels=48, v_init=leaves[1], backend=backend)
        gradients.append(torch.autograd.grad(out, leaves, gs))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    for given in (s, F.pack_spikes(s, 2)):
        bits, v = F.token_mix_lif(
            given, leaves[0], channels=48, pack="only", return_state=True, backend=backend
        )
        assert not bits.requires_grad
        assert not v.requires_grad


def test_a_surrogate_of_ones_own(backend):
    """Runs on the reference, from bits too; an explicit kernel refuses."""
    s, weight, _ = case(SHAPES[0])
    options = {"channels": 64, "pack": "only", "surrogate": lambda u: (u >= 0).to(u.dtype)}
    expected = F.token_mix_lif(F.pack_spikes(s, 2), weight, channels=64, pack="only")
    assert torch.equal(F.token_mix_lif(F.pack_spikes(s, 2), weight, **options), expected)
    if backend != "reference":
        with pytest.raises(RuntimeError, match="token_mix_lif: backend=.* the surrogate"):
            F.token_mix_lif(F.pack_spikes(s, 2), weight, backend=backend, **options)


def test_nan_never_fires(backend):
    s, weight, v_init = case(SHAPES[1])
    v_init[0, 40, 3] = float("nan")
    bits, v = F.token_mix_lif(
        F.pack_spikes(s, 2), weight, channels=48, v_init=v_init, return_state=True, pack="only",
        reset="soft", backend=backend,
    )  # fmt: skip
    assert not F.unpack_spikes(bits, 48, 2)[:, 0, 40, 3].any()
    assert v[0, 40, 3].isnan()
    assert v.isnan().sum() == 1


def test_empty_batch(backend):
    words = torch.zeros(3, 0, 2, 5, dtype=torch.int32)
    options = {"channels": 40, "pack": "only", "return_state": True, "backend": backend}
    bits, v = F.token_mix_lif(words, torch.randn(4, 5, 5), **options)
    assert (bits.shape, v.shape) == ((3, 0, 2, 5), (0, 40, 5))


def test_nothing_dense_reaches_memory(monkeypatch):
    """1/8 + 1/8 byte per neuron-step and the weights: all that the one launch gets."""
    if "triton" not in KERNELS:
        pytest.skip("triton does not run here")
    from stmixer_ops.ops.token_mix import triton_bits

    s, weight, _ = case((2, 2, 64, 32, 4), torch.bfloat16)
    words = F.pack_spikes(s, 2)
    recorder = Recorder(triton_bits._forward_bits)
    monkeypatch.setattr(triton_bits, "_forward_bits", recorder)
    with torch.profiler.profile() as profile:
        bits = F.token_mix_lif(words, weight, channels=64, pack="only", backend="triton")
    ours = [event.name for event in profile.events() if event.name.startswith("stmixer::")]
    assert ours == ["stmixer::token_mix_lif_bits"]
    (given,) = recorder.launches
    assert [t.data_ptr() for t in given] == [t.data_ptr() for t in (words, weight, bits)]
    sizes = [t.numel() * t.element_size() for t in given]
    assert sizes == [s.numel() / 8, 2 * weight.numel(), s.numel() / 8]


@pytest.mark.compiles
def test_compiled_and_checked(backend, full):
    s, weight, v_init = case(SHAPES[1])
    words = F.pack_spikes(s, 2)

    def run(words, weight):
        return F.token_mix_lif(words, weight, channels=48, pack="only", backend=backend)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend=compiler(backend, full))
    assert torch.equal(compiled(words, weight), run(words, weight))
    if backend != "reference":
        for v, asked in ((None, False), (v_init, True)):
            arguments = (words, weight, v, 48, 1.0, 0.9, "soft", asked, backend)
            results = opcheck(torch.ops.stmixer.token_mix_lif_bits.default, arguments)
            assert set(results.values()) == {"SUCCESS"}


WORDS, WEIGHT = torch.zeros(2, 1, 2, 4, dtype=torch.int32), torch.zeros(5, 4, 4)


@pytest.mark.parametrize(
    ("s", "weight", "options", "message"),
    [
        (WORDS, WEIGHT, {}, "channels must be how many are packed in s, at least 1, got None"),
        (WORDS, WEIGHT, {"channels": 0}, "channels must be .* got 0"),
        (WORDS, WEIGHT, {"channels": 70}, r"s must be \[T, B, 3, N\], 3 words for 70 channels"),
        (WORDS, WEIGHT, {"channels": 48}, r"heads of weight \(5\) must divide .*\(48\)"),
        (WORDS, WEIGHT[:0], {"channels": 40}, r"heads of weight \(0\) must divide .*\(40\)"),
        (WORDS[0], WEIGHT, {"channels": 40}, r"s must be \[T, B, C, N\], got shape \(1, 2, 4\)"),
        (WORDS[:0], WEIGHT, {"channels": 40}, r"s must have T >= 1 time steps, got shape \(0,"),
        (WORDS, WEIGHT[:, 1:], {"channels": 40}, r"weight must be \[heads, 4, 4\]"),
        (WORDS, WEIGHT.int(), {"channels": 40}, "weight must be float32, float64, .*int32"),
        (WORDS.long(), WEIGHT, {"channels": 40}, "s must be float32, float64, .*int64"),
        (
            WORDS, WEIGHT, {"channels": 40, "v_init": torch.zeros(1, 64, 4)},
            r"v_init must have the shape of one time step, \(1, 40, 4\), got \(1, 64, 4\)",
        ),
        (
            WORDS, WEIGHT, {"channels": 40, "v_init": torch.zeros(1, 40, 4).double()},
            "v_init must be torch.float32 for torch.float32 input, got torch.float64",
        ),
        (
            torch.zeros(2, 1, 10, 4), WEIGHT, {"channels": 5},
            r"channels must be left out or be the 10 of dense s .*, got 5",
        ),
        (WORDS, WEIGHT, {"channels": 40, "pack": "both"}, "pack must be False, True or 'only'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(s, weight, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        F.token_mix_lif(s, weight, **options)


def test_channels_may_be_numpys():
    words = F.pack_spikes((torch.rand(2, 1, 40, 4) > 0.5).float(), 2)
    out = F.token_mix_lif(words, WEIGHT, channels=np.int64(40))
    assert torch.equal(out, F.token_mix_lif(words, WEIGHT, channels=40))


# -- The kernel ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "index"),
    [*((torch.bfloat16, i) for i in range(3)), *((torch.float32, i) for i in (0, 1))],
)
def test_every_tile(monkeypatch, dtype, index):
    """Of one image and of two, the last of which is half empty."""
    if "triton" not in KERNELS:
        pytest.skip("triton does not run here")
    from stmixer_ops.ops.token_mix import triton_bits

    s, weight, v_init = case((2, 3, 48, 50, 2), dtype)
    tile = triton_bits.tiles(dtype, 50)[index]
    monkeypatch.setattr(triton_bits, "choose_tile", lambda *_: tile)
    bits, v = F.token_mix_lif(
        F.pack_spikes(s, 2), weight, channels=48, v_init=v_init, return_state=True, pack="only",
        backend="triton", **NEURON,
    )  # fmt: skip
    fired, currents = F.unpack_spikes(bits, 48, 2), exact_currents(s, weight)
    assert flips_outside(fired, currents, v_init, **NEURON) == 0
    assert error(v, exact_state(fired, currents, v_init.double(), "hard")) <= 1e-5


LAUNCHERS = """if True:
    import torch
    from stmixer_ops.ops.token_mix import triton_bits as kernels

    def launch(dtype, tokens, channels, heads, batch=256, state=False):
        words = torch.zeros(4, batch, tokens, -(-channels // 32), dtype=torch.int32)
        weight = torch.zeros(heads, tokens, tokens, dtype=dtype)
        v = torch.zeros(batch, tokens, channels).transpose(1, 2) if state else None
        call = kernels.BitsCall(
            words.transpose(2, 3), weight, v, channels, 1.0, 0.9, "hard", state
        )
        return lambda: kernels.token_mix_lif_bits(call)

    launches = []
"""


@pytest.mark.compiles
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("capability", "sizes"),
    [
        (90, [(64, 384, 16), (49, 40, 4)]),
        *in_full(
            (90, [(196, 768, 16), (25, 64, 2), (16, 32, 8)]),
            (80, [(64, 384, 16), (196, 768, 16), (49, 40, 4), (25, 64, 2), (16, 32, 8)]),
        ),
    ],
)
def test_registers_shared_memory_and_contraction(capability, sizes, dtype):
    """Every tile, for heads of whole words and others; on tensor cores, nothing contracted."""
    code = f"""
    def fixed(tile, call):
        def run():
            kernels.choose_tile = lambda *_: tile
            call()
        return run

    for tokens, channels, heads in {sizes}:
        for tile in kernels.tiles({dtype}, tokens):
            for state in (False, True):
                call = launch({dtype}, tokens, channels, heads, state=state)
                launches.append(fixed(tile, call))
"""
    results = compile_for(capability, LAUNCHERS, code)
    tiles = [2 if dtype == torch.float32 or tokens == 16 else 3 for tokens, _, _ in sizes]
    assert len(results) == 2 * sum(tiles)
    for (kernel,) in results:
        assert kernel["spilled"] == 0, kernel
        assert kernel["fma"] == 0, kernel
        assert kernel["mma"] > 0, kernel
        assert kernel["shared"] <= 48 * 1024, kernel


@pytest.mark.compiles
def test_one_kernel_for_every_batch_size():
    code = """
    for batch in (64, 65, 100):
        launches.append(launch(torch.bfloat16, 64, 384, 16, batch))
"""
    results = compile_for(90, LAUNCHERS, code)
    assert [len(kernels) for kernels in results] == [1, 0, 0]
