"""What the Triton kernels of token mixing need; their results: ``test_token_mix.py``."""

from __future__ import annotations

import pytest
import torch
from support.pairs import in_full
from support.triton_aot import compile_for

LAUNCHERS = """if True:
    import torch
    from stmixer_ops.ops.token_mix import triton as mix

    def launches_for(dtype, steps, tokens, heads=4, channels_last=True, batch=2):
        s = torch.zeros((steps, batch, 64, tokens), dtype=dtype)
        if channels_last:
            s = s.transpose(2, 3).contiguous().transpose(2, 3)
        weight = torch.zeros(heads, tokens, tokens, dtype=dtype)
        state = torch.float64 if dtype == torch.float64 else torch.float32
        v = torch.zeros_like(s[0], dtype=state)
        neuron = (1.0, 0.9, "hard")
        return [
            lambda: mix.token_mix(s, weight),
            lambda: mix.token_mix_lif(mix.LIFCall(s, weight, v, True, True, *neuron)),
            lambda: mix.token_mix_lif_backward(
                s, v, s, weight, v, *neuron, False, "dspike", 2.5
            ),
        ]
"""


@pytest.mark.compiles
@pytest.mark.parametrize(
    ("capability", "dtype", "cases"),
    [
        # All of up to 8 steps in registers, then in runs.
        (80, torch.bfloat16, [(8, 64), (16, 49)]),
        (90, torch.bfloat16, [(8, 16), (8, 196)]),
        (90, torch.float32, [(8, 64), (16, 16)]),
        *in_full(
            (80, torch.bfloat16, [(4, 64), (5, 64), (8, 49), (8, 16)]),
            (90, torch.bfloat16, [(4, 64), (8, 64), (1, 16), (4, 1024)]),
            (80, torch.float32, [(4, 64), (5, 64), (8, 196), (8, 16), (16, 64)]),
            (90, torch.float32, [(4, 64), (5, 64), (7, 196), (8, 16)]),
            (90, torch.float64, [(2, 64), (8, 64)]),
        ),
    ],
)
def test_no_spills_and_little_shared_memory(capability, dtype, cases):
    code = f"""
    launches = [
        launch
        for steps, tokens in {cases}
        for launch in launches_for({dtype}, steps, tokens, channels_last=tokens % 2 == 0)
    ]
"""
    results = compile_for(capability, LAUNCHERS, code)
    compiled = [kernel for kernels in results for kernel in kernels]
    names = [kernel["name"] for kernel in compiled]
    assert set(names) == {"_mix", "_forward", "_backward"}  # the first two are one for every T
    assert names.count("_backward") == len(cases)
    for kernel in compiled:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= 48 * 1024, kernel
        if dtype == torch.bfloat16:  # on the tensor cores, and nothing contracted beside them
            assert kernel["mma"] > 0, kernel
            assert kernel["fma"] == 0, kernel
    # Elsewhere products are made of them: the neurons add none to those of the product alone.
    products, neurons = (
        [kernel["fma"] for kernel in compiled if kernel["name"] == name]
        for name in ("_mix", "_forward")
    )
    assert products == neurons


@pytest.mark.compiles
def test_one_kernel_for_every_batch_size():
    code = """
    launches = [
        launch
        for batch in (1, 3, 5, 32)
        for launch in launches_for(torch.bfloat16, 4, 64, batch=batch)
    ]
"""
    results = compile_for(90, LAUNCHERS, code)
    counts = [len(kernels) for kernels in results]
    assert counts[:3] == [1, 1, 1]
    assert counts[3:] == [0] * 9
