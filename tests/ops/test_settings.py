"""Results and memory follow the input, whatever the process is set to; a batch may be empty."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from support.ops_calls import random_spikes

import stmixer_ops as so
from stmixer_ops import functional as F


@contextmanager
def default_device():
    with torch.device("meta"):
        yield


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


SETTINGS = [default_device, default_dtype, deterministic, one_thread]


def op_results():
    """Results and gradients of every op's kernels on the CPU."""
    with so.use_backend("cpu"):
        for function, inputs in op_calls():
            leaves = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
            out = function(*leaves)
            out = out if isinstance(out, tuple) else (out,)
            yield from out
            if out[0].requires_grad:
                yield from torch.autograd.grad(out[0].sum(), leaves)


def op_calls(batch=2):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)

    x, mean, var = random(3, batch, 8, 33), random(8), random(8).abs() + 0.1
    spikes = (random(3, batch, 8, 33) > 0.5).float()
    image, kernel = (random(3, batch, 8, 5, 5) > 0.5).float(), random(4, 8, 3, 3)
    words = F.pack_spikes((random(3, batch, 8, 33) > 0.5).float(), dim=2, backend="reference")
    return [
        (lambda x: F.lif(x, return_state=True, pack=True), [x]),
        (
            lambda x, w, b: F.bn_lif(x, w, b, mean, var, training=False, residual=x),
            [x, random(8), random(8)],
        ),
        (F.token_mix, [spikes, random(2, 33, 33)]),
        (F.token_mix_lif, [spikes, random(2, 33, 33)]),
        (F.spike_linear, [spikes, random(4, 33)]),
        (lambda s, w: F.spike_conv2d(s, w, 2, 1), [image, kernel]),
        (lambda s, w: F.conv_lif(s.detach(), w.detach(), pack=True), [image, kernel]),
        (lambda s, w: F.token_mix_lif(s, w, channels=8, pack="only"), [words, random(2, 33, 33)]),
        (F.pack_spikes, [spikes]),
        (lambda b: F.unpack_spikes(b, 8, 2), [words]),
    ]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.__name__)
def test_settings_of_the_process_change_no_op(setting):
    expected = list(op_results())
    with setting():
        found = list(op_results())
    for a, b in zip(found, expected, strict=True):
        assert a.device == b.device and a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.__name__)
def test_settings_of_the_process_change_no_model(setting):
    torch.manual_seed(0)
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1).eval()
    images = torch.randn(2, 3, 8, 8)
    networks = [model, so.optimize_for_inference(model), so.Engine.compile(model)]
    expected = [network(images) for network in networks]
    with setting():
        found = [network(images) for network in networks]
    assert all(map(torch.equal, found, expected))


def test_inference_mode_leaves_nothing_behind():
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1)
    images = torch.randn(4, 3, 8, 8)
    with torch.inference_mode():
        model.eval()(images)
    model.train()(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_without_memory_gives_shapes():
    model = so.create_model("stmixer_2_8_2", img_size=8, num_classes=3, downsample=1, sml=True)
    logits, aux = model.to("meta")(torch.empty(5, 3, 8, 8, device="meta"), return_aux=True)
    assert logits.is_meta and logits.shape == aux[0].shape == (5, 3)


# -- Empty batches --------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_op_takes_an_empty_batch(backend):
    with so.use_backend(backend):
        for (function, inputs), (_, full) in zip(op_calls(0), op_calls(2), strict=True):
            leaves = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
            out, like = function(*leaves), function(*full)
            out, like = (o if isinstance(o, tuple) else (o,) for o in (out, like))
            for a, b in zip(out, like, strict=True):
                assert a.numel() == 0
                assert a.dtype == b.dtype and [n or 2 for n in a.shape] == list(b.shape)
            if not out[0].requires_grad:
                continue
            gradients = torch.autograd.grad(out[0].sum(), leaves)
            assert all(not g.any() for g in gradients)


def test_models_take_an_empty_batch():
    model = so.create_model("stmixer_2_8_2", img_size=8, num_classes=3, downsample=1, sml=True)
    images = torch.zeros(0, 3, 8, 8, requires_grad=True)
    logits, aux = model.eval()(images, return_aux=True)
    assert logits.shape == aux[0].shape == (0, 3)
    (logits.sum() + aux[0].sum()).backward()
    assert images.grad.shape == images.shape
    assert model(torch.zeros(5, 0, 3, 8, 8)).shape == (0, 3)
    assert so.optimize_for_inference(model)(images).shape == (0, 3)
    assert so.STMBlock(8, 4, 2).eval()(torch.zeros(2, 0, 8, 4)).shape == (2, 0, 8, 4)
    with pytest.raises(ValueError, match="training needs more than one value per channel"):
        model.train()(images)
    with pytest.raises(ValueError, match=r"sequences \[T, B, 3, 8, 8\], got shape \(0, 2"):
        model(torch.zeros(0, 2, 3, 8, 8))


def test_the_engine_takes_an_empty_batch():
    model = so.create_model("stmixer_1_8_2", img_size=8, num_classes=3, downsample=1).eval()
    engine = so.Engine.compile(model)
    assert engine(np.zeros((0, 3, 8, 8), np.float32)).shape == (0, 3)
    result = engine.run(torch.zeros(2, 0, 3, 8, 8), record=True)
    assert result.logits.shape == (0, 3)
    assert all(s.shape[:2] == (2, 0) for s in result.spikes.values())
    assert result.stats.spikes == 0 and all(layer.rate == 0 for layer in result.stats)
    with pytest.raises(ValueError, match="with T >= 1, got shape"):
        engine(np.zeros((0, 2, 3, 8, 8), np.float32))
    with pytest.raises(ValueError, match="x must hold an image to time"):
        engine.profile(np.zeros((0, 3, 8, 8), np.float32))


def test_an_empty_batch_runs_compiled():
    torch.compiler.reset()
    x = random_spikes(2, 0, 4, 5).requires_grad_()
    out = torch.compile(F.lif, backend="aot_eager", fullgraph=True)(x)
    assert out.shape == x.shape
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape
