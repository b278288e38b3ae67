"""SSA and patch splitting against the published definitions, written out in plain PyTorch."""

import copy

import pytest
import torch
import torch.nn.functional as F

import stmixer_ops as so
from stmixer_ops.surrogate import Sigmoid

DIM, HEADS, TOKENS = 16, 4, 9
NEURON = {"decay": 0.5, "input_scale": 0.5, "detach_reset": True, "surrogate": Sigmoid(4.0)}


def linear_bn(fc, bn, x):
    """Linear map and BN of ``[T, B, C, N]``."""
    y = F.linear(x.transpose(2, 3), fc.weight, fc.bias).transpose(2, 3)
    return bn(y.flatten(0, 1)).unflatten(0, x.shape[:2])


def plain_ssa(m: so.SSA, x: torch.Tensor) -> torch.Tensor:
    def heads(name):
        fc, bn, lif = (getattr(m, name + part) for part in ("", "_bn", "_lif"))
        return lif(linear_bn(fc, bn, x)).unflatten(2, (HEADS, -1)).transpose(3, 4)

    q, k, v = heads("q"), heads("k"), heads("v")
    scores = (q @ k.transpose(-1, -2)) * 0.125
    s = m.attn_lif((scores @ v).transpose(3, 4).flatten(2, 3))
    y = linear_bn(m.proj, m.proj_bn, s)
    return m.proj_lif(y) if m.stage == "block" else y


def plain_mixer(m: so.TokenMixer, x: torch.Tensor) -> torch.Tensor:
    s = m.lif2(linear_bn(m.fc1, m.bn1, m.lif1(x)))
    return linear_bn(m.fc2, m.bn2, m.lif3(plain_ssa(m.ssa, s)))


def assert_same(m, plain, x):
    other = copy.deepcopy(m)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, y2 = m(a), plain(other, b)
    torch.testing.assert_close(y, y2, rtol=1e-10, atol=1e-10)
    assert 0 < y.count_nonzero() < y.numel() or y.unique().numel() > 2
    gradient = torch.randn(y.shape, dtype=y.dtype)
    y.backward(gradient)
    y2.backward(gradient)
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11)
    for (key, p), p2 in zip(m.named_parameters(), other.parameters(), strict=True):
        assert p.grad.abs().sum() > 0, key
        torch.testing.assert_close(p.grad, p2.grad, rtol=1e-9, atol=1e-11, msg=key)


@pytest.mark.parametrize("training", [True, False])
def test_ssa_of_spikformer(training):
    torch.manual_seed(0)
    m = so.SSA(
        DIM, HEADS, qkv_bias=True, proj_bias=True, threshold=0.2, attn_threshold=0.1, **NEURON
    )
    x = torch.randint(0, 3, (3, 2, DIM, TOKENS)).double()
    assert_same(m.double().train(training), plain_ssa, x)


def test_ssa_in_the_place_of_stm():
    torch.manual_seed(0)
    m = so.TokenMixer(DIM, TOKENS, HEADS, mixer="ssa", threshold=0.2).double().train()
    assert_same(m, plain_mixer, torch.randn(3, 2, DIM, TOKENS).double())


def plain_stage(stage, x):
    y = F.conv2d(x.flatten(0, 1), stage.conv.weight, None, stage.conv.stride, stage.conv.padding)
    y = stage.bn(y).unflatten(0, x.shape[:2])
    return y if stage.lif is None else stage.lif(y)


def plain_ipsps(m: so.IPSPS, x: torch.Tensor) -> torch.Tensor:
    y = x
    for stage in m.main:
        y = plain_stage(stage, y)
    return torch.cat([plain_stage(m.protect, x), y], 2)


def plain_sps(m: so.SPS, x: torch.Tensor) -> torch.Tensor:
    for i, stage in enumerate(m.main):
        x = plain_stage(stage, x)
        if i >= 4 - m.downsample:
            x = F.max_pool2d(x.flatten(0, 1), 3, 2, 1).unflatten(0, x.shape[:2])
    return x + plain_stage(m.position, x)


@pytest.mark.parametrize("kind", ["ipsps", "sps"])
@pytest.mark.parametrize("downsample", [2, 4])
@pytest.mark.parametrize("static", [True, False])
def test_patch_splitting(kind, downsample, static):
    torch.manual_seed(0)
    make, plain = {"ipsps": (so.IPSPS, plain_ipsps), "sps": (so.SPS, plain_sps)}[kind]
    m = make(3, 16, downsample, threshold=0.3).double().train()
    x = torch.rand(1 if static else 3, 2, 3, 32, 32, dtype=torch.float64)
    x = x.expand(3, *x.shape[1:])
    y = m(x)
    assert y.shape == (3, 2, 16, 32 >> downsample, 32 >> downsample)
    assert_same(copy.deepcopy(m), plain, x)


def test_static_images_are_convolved_once_but_normalised_as_T_images():
    torch.manual_seed(0)
    m = so.IPSPS(3, 16).double().train()
    calls = []
    for conv in (m.main[0].conv, m.protect.conv):
        conv.register_forward_pre_hook(lambda _, args: calls.append(args[0].stride(0)))
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    other = copy.deepcopy(m)
    y = m(x.expand(4, *x.shape))
    assert calls[:2] == [0, 0]
    torch.testing.assert_close(y, other(x.repeat(4, 1, 1, 1, 1)), rtol=1e-10, atol=1e-10)
    for a, b in zip(m.buffers(), other.buffers(), strict=True):  # unbiased over T images too
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [so.IPSPS, so.SPS])
def test_patch_splitting_refuses_by_name(make):
    with pytest.raises(ValueError, match=r"x must be \[T, B, 3, H, W\]"):
        make(3, 16)(torch.zeros(2, 2, 2, 8, 8))
    with pytest.raises(ValueError, match="multiples of 4"):
        make(3, 16)(torch.zeros(2, 2, 3, 8, 10))
    with pytest.raises(TypeError, match="floating-point"):
        make(3, 16)(torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="embed_dim must be a multiple of 8"):
        make(3, 20)
    with pytest.raises(ValueError, match="downsample"):
        make(3, 16, 5)


def test_ssa_refuses_by_name():
    with pytest.raises(ValueError, match="num_heads"):
        so.SSA(16, 3)
    with pytest.raises(ValueError, match="stage"):
        so.SSA(16, 4, stage="stm")
    with pytest.raises(ValueError, match="x must be"):
        so.SSA(16, 4)(torch.zeros(1, 1, 8, 4))
