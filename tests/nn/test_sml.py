"""Surrogate module learning: the loss, written out, and the side networks."""

import math

import pytest
import torch
import torch.nn.functional as F

import stmixer_ops as so
from stmixer_ops.nn.sml import surrogate_depths


def outputs(n=3, dtype=torch.float64):
    torch.manual_seed(0)
    logits = [torch.randn(4, 5, dtype=dtype, requires_grad=True) for _ in range(n + 1)]
    return logits[0], logits[1:], torch.tensor([0, 3, 2, 1])


def by_hand(y0, aux, target, T, alpha, lam):
    """The published formula, one sample and class at a time."""
    soft = [[(r - r.logsumexp(0)).tolist() for r in y.detach() / T] for y in (y0, *aux)]

    def kl(p, q):
        return sum(
            math.exp(a) * (a - b)
            for rp, rq in zip(p, q, strict=True)
            for a, b in zip(rp, rq, strict=True)
        ) / len(p)

    def ce(y):
        rows = zip(y.detach(), target, strict=True)
        return sum((row.logsumexp(0) - row[t]).item() for row, t in rows) / len(target)

    n = len(aux)
    supervised = (ce(y0) + alpha * sum(map(ce, aux))) / (1 + n * alpha)
    mutual = sum(kl(soft[0], q) + kl(q, soft[0]) for q in soft[1:]) / (2 * n)
    return (1 - lam) * supervised + lam * mutual


@pytest.mark.parametrize(
    ("T", "alpha", "lam"), [(3.0, 0.5, 0.9), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0), (4.0, 0.3, 0.4)]
)
def test_loss_is_the_published_formula(T, alpha, lam):
    y0, aux, target = outputs()
    loss = so.SMLLoss(temperature=T, alpha=alpha, lam=lam)((y0, aux), target)
    # The official code divides by 2N + 1e-8.
    assert loss.item() == pytest.approx(by_hand(y0, aux, target, T, alpha, lam), rel=1e-8)


def test_teachers_get_no_gradient():
    """With the supervised part off, each network only follows the other's fixed output."""
    y0, (y1,), target = outputs(1)
    so.SMLLoss(lam=1.0)((y0, [y1]), target).backward()

    def pull(student, teacher):
        student = student.detach().requires_grad_()
        p = (teacher.detach() / 3).softmax(1)
        ((p * (p.log() - (student / 3).log_softmax(1))).sum(1).mean() / 2).backward()
        return student.grad

    torch.testing.assert_close(y0.grad, pull(y0, y1), rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(y1.grad, pull(y1, y0), rtol=1e-7, atol=1e-12)


def test_plain_outputs_take_the_criterion_alone():
    y0, _, target = outputs()
    expected = F.cross_entropy(y0, target)
    assert torch.equal(so.SMLLoss()(y0, target), expected)
    assert torch.equal(so.SMLLoss()((y0, []), target), expected)


def test_soft_targets_and_custom_criteria():
    y0, aux, target = outputs()
    soft = F.one_hot(target, 5).double()
    hard = so.SMLLoss()((y0, aux), target)
    torch.testing.assert_close(so.SMLLoss()((y0, aux), soft), hard, rtol=1e-12, atol=0)
    mixed = 0.3 * soft + 0.7 * soft.flip(0)
    assert so.SMLLoss()((y0, aux), mixed) != hard
    constant = so.SMLLoss(lam=0.0, criterion=lambda y, t: y.sum() * 0 + 2.0)
    assert constant((y0, aux), target).item() == pytest.approx(2.0)


def test_narrow_logits_are_softened_in_float32():
    y0, aux, target = outputs(dtype=torch.float32)
    narrow = [y.bfloat16() for y in (y0, *aux)]
    wide = [y.float() for y in narrow]
    loss = so.SMLLoss(lam=1.0)
    assert torch.equal(loss((narrow[0], narrow[1:]), target), loss((wide[0], wide[1:]), target))


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"alpha": -1.0}, {"lam": 1.5}])
def test_loss_refuses_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        so.SMLLoss(**options)


def test_depths_are_the_published_ones():
    published = {2: [1], 4: [2, 1], 6: [3, 2, 1], 8: [3, 2, 1, 1], 10: [3, 2, 1, 1, 1]}
    assert {depth: surrogate_depths(depth) for depth in published} == published
    assert surrogate_depths(1) == []


def test_surrogates_read_the_mean_over_time():
    torch.manual_seed(0)
    model = so.STMixer(img_size=8, embed_dim=16, depth=4, num_heads=2, T=4, sml=True).double()
    streams = [model.patch_embed(model.sequence(torch.rand(2, 3, 8, 8, dtype=torch.float64)))]
    module = model.surrogates[0].eval()
    stream = streams[0].flatten(3)
    torch.testing.assert_close(
        module(stream), module(stream.mean(0, keepdim=True)), rtol=1e-10, atol=1e-12
    )
    # Samples do not mix.
    torch.testing.assert_close(module(stream)[1:], module(stream[:, 1:]), rtol=1e-10, atol=1e-12)


def test_every_parameter_learns_from_the_sml_loss():
    torch.manual_seed(0)
    model = so.STMixer(img_size=8, embed_dim=16, depth=5, num_heads=2, T=2, sml=True).train()
    assert [len(s.blocks) for s in model.surrogates] == [2, 1]
    output = model(torch.rand(4, 3, 8, 8), return_aux=True)
    so.SMLLoss()(output, torch.arange(4)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
