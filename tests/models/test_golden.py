"""Exactness: the official code's spikes, logits, losses and gradients, in float64 and float32."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from support.golden import Golden, assert_spikes_by_the_local_rule

import stmixer_ops as so
from stmixer_ops.models.official import spikformer_name, stmixer_name, translate

NAMES = [
    "spikformer_T2",
    "stmixer_T1_hard",
    "stmixer_T1_sml",
    "stmixer_T2_hard",
    "stmixer_T4_hard",
    "stmixer_T4_soft",
    "stmixer_dvs_T3",
]


@pytest.fixture(params=NAMES)
def golden(request) -> Golden:
    return Golden(request.param)


@pytest.fixture(params=["reference", None], ids=["reference", "automatic"])
def backend(request):
    with so.use_backend(request.param) if request.param else contextlib.nullcontext():
        yield


def test_eval_spikes_and_logits(golden, backend):
    model = golden.model().double().eval()
    with so.record(model) as recorded:
        logits = model(golden["input"])
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=0, atol=1e-9)
    expected = golden.spikes()
    assert len(recorded.spikes) == len(expected)
    for (path, spikes), truth in zip(recorded.spikes.items(), expected, strict=True):
        assert spikes.dtype == torch.uint8
        assert torch.equal(spikes, truth), path


def test_eval_without_recorder_and_without_grad(golden, backend):
    """The calls that inference makes: no bits packed, no hooks, no recorder."""
    model = golden.model().double().eval()
    with torch.no_grad():
        logits = model(golden["input"])
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=0, atol=1e-9)


def test_train_logits_loss_and_gradients(golden, backend):
    model = golden.model().double().train()
    logits, aux = model(golden["input"], return_aux=True)
    torch.testing.assert_close(logits, golden["logits_train"], rtol=0, atol=1e-9)
    expected_aux = golden.part("aux_train")
    assert len(aux) == len(expected_aux)
    for i, value in enumerate(aux):
        torch.testing.assert_close(value, expected_aux[str(i)], rtol=0, atol=1e-9)
    loss = so.SMLLoss()((logits, aux), golden["target"])
    torch.testing.assert_close(loss, golden["loss_train"], rtol=1e-9, atol=0)
    loss.backward()

    name = spikformer_name if golden.spikformer else stmixer_name
    expected = translate(golden.part("grad"), name, "golden gradients")
    parameters = dict(model.named_parameters())
    assert expected.keys() == {k for k, p in parameters.items() if p.requires_grad}
    scale = max(g.abs().max() for g in expected.values())
    for key, truth in expected.items():
        # A bias before BN has no gradient but rounding: hence the absolute part.
        torch.testing.assert_close(
            parameters[key].grad,
            truth.double(),
            rtol=1e-7,
            atol=1e-12 * float(scale),
            msg=lambda text, key=key: f"{key}: {text}",
        )


def test_surrogate_modules_do_not_change_the_model():
    golden = Golden("stmixer_T1_sml")
    model = golden.model(sml=False).double().eval()
    torch.testing.assert_close(model(golden["input"]), golden["logits_eval"], rtol=0, atol=1e-9)
    logits = golden.model(sml=False).double().train()(golden["input"])
    loss = F.cross_entropy(logits, golden["target"])
    torch.testing.assert_close(logits, golden["logits_train"], rtol=0, atol=1e-9)
    assert loss.isfinite()


def test_float32_spikes_by_the_local_rule(golden, backend):
    tested = golden.model().eval()
    with so.record(tested) as recorded, torch.no_grad():
        tested(golden["input"].float())
    assert_spikes_by_the_local_rule(golden.model(), recorded, golden["input"])
