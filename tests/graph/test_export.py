"""Spikformer and the ablations as graphs: what they say is what the modules compute."""

from __future__ import annotations

import pytest
import torch
from support.golden import Golden
from support.small_models import images, replaced, settle, spikformer, stmixer
from torch import nn

import stmixer_ops as so
from stmixer_ops.graph import Graph
from stmixer_ops.graph.export import export
from stmixer_ops.graph.reference import run_reference

SPIKFORMERS = {
    "plain": {},
    "soft": {"reset": "soft"},
    "neuron": {"decay": 0.75, "input_scale": 1.0, "v_reset": -0.125},
    "no pools": {"downsample": 0, "depth": 1, "img_size": 8},
    "four pools": {"downsample": 4, "depth": 1},
    "no biases": {"variant": "imagenet", "in_channels": 2, "downsample": 1, "num_classes": 3},
    "no head": {"num_classes": 0, "mlp_ratio": 2.5, "img_size": (8, 16)},
}
STMIXERS = {
    "ssa": {"mixer": "ssa"},
    "sps": {"patch_embed": "sps", "downsample": 3},
    "both": {"mixer": "ssa", "patch_embed": "sps", "reset": "soft"},
}


def small(**options) -> so.Spikformer:
    sizes = {"img_size": 16, "embed_dim": 40, "depth": 2, "num_heads": 4, "T": 3,
             "threshold": 0.3, "attn_threshold": 0.1}  # fmt: skip
    torch.manual_seed(0)
    return settle(so.Spikformer(**sizes | options))


def input_of(model: nn.Module, *lead: int) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(*lead, model.in_channels, *model.img_size)


def assert_is_the_model(graph: Graph, model: nn.Module, x: torch.Tensor) -> None:
    """In float64, spike for spike where the float32 weights of the graph leave no doubt."""
    with so.record(model.double()) as recorded, torch.no_grad():
        logits = model(x.double())
    reference = run_reference(graph, x, recorded.spikes, distances=True)
    assert list(reference.spikes) == list(recorded.spikes)
    for path, spikes in recorded.spikes.items():
        own, distances = reference.spikes[path], reference.distances[path]
        assert own.shape == spikes.shape
        wrong = torch.from_numpy(own) != spikes
        assert (abs(distances[wrong]) < 1e-5).all() and wrong.double().mean() < 1e-3, path
        assert 0.005 < spikes.double().mean() < 0.995, path
    torch.testing.assert_close(torch.from_numpy(reference.logits), logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SPIKFORMERS)
def test_spikformer(name: str) -> None:
    model = small(**SPIKFORMERS[name])
    assert_is_the_model(export(model), model, input_of(model, 2))


def test_spikformer_for_sequences() -> None:
    model = small(batch_first=True, variant="dvs", downsample=2, num_classes=5)
    assert_is_the_model(export(model), model, input_of(model, 2, 4))


@pytest.mark.parametrize("name", STMIXERS)
def test_ablations_of_stmixer(name: str) -> None:
    model = stmixer(**STMIXERS[name])
    assert_is_the_model(export(model), model, images())


def test_spikformer_of_the_official_code() -> None:
    golden = Golden("spikformer_T2")
    graph = export(golden.model().eval())
    x, truth = golden["input"], golden.spikes()
    populations = [p["name"] for p in graph.populations if p["kind"] == "lif"]
    # The float64 spikes of the official code, population by population, from its own upstream.
    given = dict(zip(populations, truth, strict=True))
    reference = run_reference(graph, x, given, distances=True)
    for path, spikes in given.items():
        own, distances = reference.spikes[path].reshape(spikes.shape), reference.distances[path]
        wrong = torch.from_numpy(own) != spikes
        assert (abs(distances.reshape(spikes.shape)[wrong]) < 1e-5).all(), path
    logits = torch.from_numpy(reference.logits)
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=1e-6, atol=1e-6)


def test_a_folded_model_is_the_same_graph() -> None:
    model = small()
    plain, folded = export(model), export(so.optimize_for_inference(model))
    assert folded.description() == plain.description()
    for name, value in plain.tensors.items():
        assert abs(folded.tensors[name] - value).max() < 1e-6, name


class Doubled(so.LIF):
    def forward(self, x, *args, **kwargs):
        return super().forward(2 * x, *args, **kwargs)


REFUSED = {
    "another pool": (replaced("patch_embed.pool", nn.AvgPool2d(3, 2, 1)),
                     r"patch_embed\.pool \(AvgPool2d\); it knows MaxPool2d"),
    "a pool of another rule": (replaced("patch_embed.pool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
                               r"patch_embed\.pool \(MaxPool2d\): it knows one size"),
    "a pool of two sizes": (replaced("patch_embed.pool", nn.MaxPool2d((3, 1), 2, 1)),
                            r"patch_embed\.pool \(MaxPool2d\): it knows one size"),
    "a hook": (lambda m: m.patch_embed.pool.register_forward_hook(lambda m, args, y: 2 * y),
               r"patch_embed\.pool \(MaxPool2d\): it has forward hooks"),
    "attention of the mixer": (replaced("blocks.1.attn", so.SSA(40, 4, stage="mixer")),
                               r"blocks\.1\.attn \(SSA\) of stage 'mixer'; it knows 'block'"),
    "other neurons": (replaced("blocks.0.attn.attn_lif", Doubled()),
                      r"blocks\.0\.attn\.attn_lif \(Doubled\)"),
    "another mlp": (replaced("blocks.0.mlp", nn.Identity()), r"blocks\.0\.mlp \(Identity\)"),
    "another block": (replaced("blocks.1", nn.Identity()), r"blocks\.1 \(Identity\)"),
    "an addition": (replaced("blocks.1.drop", nn.Dropout(0.1)), r"blocks\.1\.drop \(Dropout\)"),
    "another embedding": (replaced("patch_embed", so.IPSPS(3, 40)), r"patch_embed \(IPSPS\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_path(what: str) -> None:
    model = spikformer()
    change, message = REFUSED[what]
    change(model)
    with pytest.raises(ValueError, match=f"cannot express {message}"):
        export(model)
