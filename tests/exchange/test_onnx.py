"""``so.exchange.to_onnx``: what the file computes, for which models, and what is refused."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import stmixer_ops as so
from stmixer_ops.exchange.plain import Plain
from stmixer_ops.measure.rates import fit_rates

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

onnx = pytest.importorskip("onnx")

MODELS = {
    "stmixer": {},
    "soft": {"reset": "soft", "decay": 0.7},
    "scaled": {"v_reset": -0.2, "input_scale": 0.9},
    "patch 16, surrogate modules": {"img_size": 32, "downsample": 4, "sml": True},
    "events, batch first": {"in_channels": 2, "batch_first": True},
    "ablation": {"mixer": "ssa", "patch_embed": "sps"},
    "ablation of the embedding": {"patch_embed": "sps", "downsample": 4, "img_size": 16},
    "spikformer": {"spikformer": True},
    "no readout": {"num_classes": 0},
}


def make(T: int = 2, spikformer: bool = False, **options) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": 16, "num_classes": 5, "T": T} | options
    if spikformer:
        return so.Spikformer(**options, embed_dim=32, depth=2, num_heads=2).eval()
    return so.create_model("stmixer_2_32_4", **options).eval()


def inputs(model, sequences: bool = False, count: int = 3) -> torch.Tensor:
    shape = [count, model.in_channels, *model.img_size]
    if sequences:
        shape.insert(1 if model.batch_first else 0, model.T)
    weight = next(model.parameters())
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(weight)


def run(path, x: torch.Tensor) -> dict[str, np.ndarray]:
    """By ONNX Runtime where it is installed, else by the reference evaluator of onnx."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        session = ReferenceEvaluator(str(path))
        names, name = session.output_names, session.input_names[0]
    else:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        name = session.get_inputs()[0].name
    return dict(zip(names, session.run(None, {name: x.numpy()}), strict=True))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sequences", [False, True])
def test_the_plain_network_is_the_same_in_float64(name, sequences):
    model = make(T=3, **MODELS[name]).double()
    x = inputs(model, sequences)
    fit_rates(model, x, rate=0.3)
    with torch.no_grad(), so.use_backend("reference"), so.record(model) as seen:
        expected = model(x)
    with torch.no_grad():
        logits, rates = Plain(model, rates=True)(x)
    assert min(seen.rates.values()) > 0, "a silent population proves nothing"
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(rates.float(), torch.tensor(list(seen.rates.values())))


@pytest.mark.parametrize("name", MODELS)
def test_a_file_takes_any_batch(name, tmp_path):
    model = make(**MODELS[name])
    sequences = model.batch_first
    fit_rates(model, inputs(model, sequences, 8))
    path = tmp_path / "m.onnx"
    so.exchange.to_onnx(model, path, rates=True, sequences=sequences)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    onnx.checker.check_model(str(path))
    for count in (1, 3):
        x = inputs(model, sequences, count)
        with torch.no_grad(), so.record(model) as seen:
            expected = model(x)
        found = run(path, x)
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found["rates"], list(seen.rates.values()), atol=2e-3)


def test_a_file_of_one_batch_size_holds_no_transposes(tmp_path):
    model = make(T=1)
    so.exchange.to_onnx(model, tmp_path / "m.onnx", batch_size=4)
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Conv"] == 6 + 2 * 4 and kinds["MatMul"] == 2 and not kinds["Transpose"]
    assert {node.domain for node in graph.node} == {""}
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [4, 3, 16, 16]


@pytest.mark.parametrize("opset", [13, 20])
def test_other_operator_sets(opset, tmp_path):
    model = make()
    fit_rates(model, inputs(model, count=8))
    so.exchange.to_onnx(model, tmp_path / "m.onnx", opset=opset)
    assert onnx.load(str(tmp_path / "m.onnx")).opset_import[0].version == opset
    x = inputs(model)
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "m.onnx", x)["logits"], model(x), atol=1e-4)


def test_the_model_is_left_as_it_is(tmp_path):
    model = make().train()
    model.blocks[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    so.exchange.to_onnx(nn.DataParallel(model), tmp_path / "m.onnx")
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_parametrised_weights_are_written(tmp_path):
    model = make()
    fc1 = model.blocks[0].token_mixer.fc1
    nn.utils.parametrizations.weight_norm(fc1)
    with torch.no_grad():
        fc1.parametrizations.weight.original0.mul_(3)
    x = inputs(model)
    fit_rates(model, x)
    so.exchange.to_onnx(model, tmp_path / "m.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run(tmp_path / "m.onnx", x)["logits"], model(x), atol=1e-4)


class Custom(so.LIF):
    pass


def replaced(model):
    model.blocks[0].token_mixer.fc1 = nn.Sequential(model.blocks[0].token_mixer.fc1)


def hooked(model):
    model.blocks[1].channel_mlp.register_forward_hook(lambda *_: None)


def derived(model):
    model.blocks[0].token_mixer.lif2 = Custom()


def smooth(model):
    model.patch_embed.main[0].lif.surrogate = torch.sigmoid


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced, "blocks.0.token_mixer.fc1: Sequential is no part"),
        (hooked, "blocks.1.channel_mlp: it has hooks"),
        (derived, "blocks.0.token_mixer.lif2: Custom is no part"),
        (smooth, "patch_embed.main.0.lif: its surrogate .*sigmoid.* does not fire exactly"),
    ],
)
def test_what_cannot_be_written_is_named(change, message, tmp_path):
    model = make()
    change(model)
    with pytest.raises(ValueError, match=message):
        so.exchange.to_onnx(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_other_models_and_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must be an STMixer or a Spikformer, got Linear"):
        so.exchange.to_onnx(nn.Linear(2, 2), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        so.exchange.to_onnx(make(), tmp_path / "m.onnx", batch_size=0)
    with pytest.raises(FileNotFoundError, match="expected the folder .*nowhere"):
        so.exchange.to_onnx(make(), tmp_path / "nowhere" / "m.onnx")


def test_missing_onnx_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"an ONNX file needs onnx.*stmixer-ops\[onnx\]"):
        so.exchange.to_onnx(make(), tmp_path / "m.onnx")
