"""Models through the engine: it computes what PyTorch does, or refuses by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.engine_cases import TOLERANCE, Oracle, check_locally
from support.engine_models import MODELS, make_input, make_model
from support.paths import GOLDEN
from support.small_models import replaced
from torch import nn

import stmixer_ops as so
from stmixer_ops.engine.export import export


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sequence", [False, True])
def test_engine_computes_what_the_model_computes(name: str, sequence: bool) -> None:
    model = make_model(name)
    x = make_input(model, 4, model.T + 1 if sequence else None)
    result = so.Engine.compile(model).run(x, record=True)
    with so.record(model) as recorded, torch.no_grad():
        expected = model(x)
    assert list(result.spikes) == list(recorded.spikes)
    graph = export(model)
    check_locally(graph, x.numpy(), result)
    same = torch.ones(4, dtype=torch.bool)
    for path, spikes in recorded.spikes.items():
        assert result.spikes[path].shape == spikes.shape
        assert result.spikes[path].dtype == torch.uint8
        same &= (result.spikes[path] == spikes).flatten(2).all(2).all(0)
    assert same.sum() >= 2, "nearly every image flipped somewhere"
    torch.testing.assert_close(result.logits[same], expected[same], rtol=1e-4, atol=1e-5)
    assert torch.equal(result.logits[same].argmax(1), expected[same].argmax(1))


@pytest.mark.parametrize("name", MODELS)
def test_exported_graph_is_the_model_in_float64(name: str) -> None:
    """The folded graph, fed the float64 model's spikes, gives that model's membranes."""
    model = make_model(name)
    graph = export(model)
    x = make_input(model, 3)
    with so.record(model.double()) as recorded, torch.no_grad():
        expected = model(x.double())
    spikes = {path: s.numpy() for path, s in recorded.spikes.items()}
    oracle = Oracle(graph, x.numpy(), spikes)
    for path, u, fired in oracle.membranes():
        assert (((u >= 0) == (fired > 0)) | (np.abs(u) < TOLERANCE)).all(), path
    np.testing.assert_allclose(oracle.logits(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("stmixer_*.npz")), ids=lambda p: p.stem)
def test_golden_vectors(path: Path) -> None:
    with np.load(path) as file:
        config = json.loads(file["config"].item())
        tensors = {key: torch.from_numpy(file[key]) for key in file if key != "config"}
    options = {key: config[key] for key in ("img_size", "in_channels", "depth", "downsample", "T",
                                            "mlp_ratio", "reset")}  # fmt: skip
    model = so.STMixer(embed_dim=config["dim"], num_heads=config["heads"], batch_first=True,
                       num_classes=config["classes"], **options)  # fmt: skip
    official = {k[6:]: v for k, v in tensors.items() if k.startswith("param.")}
    model = so.load_official(model, official)
    x = tensors["input"].float()
    result = so.Engine.compile(model).run(x, record=True)
    check_locally(export(model), x.numpy(), result)
    images = len(x)
    same = torch.ones(images, dtype=torch.bool)
    for i, (name, spikes) in enumerate(result.spikes.items()):
        truth = tensors[f"spikes_eval.{i}"].reshape(spikes.shape)
        same &= (spikes == truth).flatten(2).all(2).all(0)
        assert (spikes != truth).float().mean() < 0.01, name
    assert same.any()
    torch.testing.assert_close(
        result.logits[same].double(), tensors["logits_eval"][same], rtol=1e-4, atol=1e-5
    )


def test_sops_macs_and_rates_are_the_recorders() -> None:
    model = make_model("odd_40")
    x = make_input(model, 3)
    stats = so.Engine.compile(model).run(x, record=True).stats
    with so.record(model) as recorded, torch.no_grad():
        model(x)
    if recorded.counts != {layer.name: layer.spikes for layer in stats if layer.neurons}:
        pytest.skip("a spike was rounded differently; the counts cannot be compared")
    assert recorded.sops == {layer.name: layer.sops for layer in stats if layer.neurons}
    assert recorded.rates == pytest.approx({s.name: s.rate for s in stats if s.neurons})
    assert recorded.macs == {layer.name: layer.macs for layer in stats if layer.macs}


def test_batch_first_model() -> None:
    model = make_model("events", batch_first=True)
    x = make_input(model, 2, 5)
    engine = so.Engine.compile(model)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-3, atol=1e-4)
    assert engine.run(x).stats.steps == 2  # x is [B, T, C, H, W]
    assert engine.run(x).stats.images == 5


def test_wrapped_models_other_dtypes_and_training_mode() -> None:
    model = make_model()
    x = make_input(model, 2)
    expected = so.Engine.compile(model)(x)
    assert torch.equal(so.Engine.compile(model.train())(x), expected)
    assert model.training, "compile must not change the model"
    assert torch.equal(so.Engine.compile(nn.DataParallel(model))(x), expected)
    assert torch.equal(so.Engine.compile(torch.compile(model))(x), expected)
    assert torch.equal(so.Engine.compile(model.double())(x), expected)
    so.Engine.compile(model.bfloat16())(x)


def test_later_changes_of_the_model_have_no_effect() -> None:
    model = make_model()
    x = make_input(model, 2)
    engine = so.Engine.compile(model)
    expected = engine(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(engine(x), expected)


def test_bn_variants() -> None:
    model = make_model()
    plain = nn.BatchNorm1d(32, affine=False)
    plain.running_mean, plain.running_var = torch.randn(32), torch.rand(32) + 0.5
    model.blocks[0].token_mixer.bn1 = plain
    model.blocks[1].channel_mlp.bn2 = nn.SyncBatchNorm(32)
    x = make_input(model, 2)
    with torch.no_grad():
        torch.testing.assert_close(
            so.Engine.compile(model)(x), model.eval()(x), rtol=1e-3, atol=1e-3
        )


class Doubled(so.LIF):
    def forward(self, x, *args, **kwargs):
        return super().forward(2 * x, *args, **kwargs)


class ScaledLinear(nn.Linear):
    def forward(self, x, *_):
        return 2 * super().forward(x)


class ScaledNorm(nn.BatchNorm1d):
    def forward(self, y):
        return 2 * super().forward(y)


def _replace_forward(model: nn.Module) -> None:
    block = model.blocks[0]
    forward = block.forward
    block.forward = lambda x: 2 * forward(x)


REFUSED = {
    "a wrapped layer": (replaced("blocks.0.token_mixer.fc1", nn.Sequential(nn.Linear(32, 32))),
                        r"blocks\.0\.token_mixer\.fc1 \(Sequential\); merge adapters"),
    "a subclass of a layer": (replaced("blocks.0.token_mixer.fc1", ScaledLinear(32, 32)),
                              r"blocks\.0\.token_mixer\.fc1 \(ScaledLinear\)"),
    "a subclass of a norm": (replaced("blocks.0.token_mixer.bn1", ScaledNorm(32)),
                             r"blocks\.0\.token_mixer\.bn1 \(ScaledNorm\)"),
    "a hook": (lambda m: m.blocks[1].register_forward_hook(lambda m, args, y: 2 * y),
               r"blocks\.1 \(STMBlock\): it has forward hooks.*remove them"),
    "a hook before": (lambda m: m.head.register_forward_pre_hook(lambda m, args: None),
                      r"head \(Linear\): it has forward hooks"),
    "another forward": (_replace_forward, r"blocks\.0 \(STMBlock\): its forward was replaced"),
    "a subclass": (replaced("blocks.1.token_mixer.lif2", Doubled()),
                   r"blocks\.1\.token_mixer\.lif2 \(Doubled\)"),
    "another activation": (replaced("blocks.0.channel_mlp.lif1", nn.ReLU()),
                           r"blocks\.0\.channel_mlp\.lif1 \(ReLU\)"),
    "another norm": (replaced("blocks.0.channel_mlp.bn1", nn.LayerNorm(128)),
                     r"blocks\.0\.channel_mlp\.bn1 \(LayerNorm\)"),
    "another block": (replaced("blocks.1", nn.Identity()), r"blocks\.1 \(Identity\)"),
    "an addition": (replaced("blocks.1.drop", nn.Dropout(0.1)), r"blocks\.1\.drop \(Dropout\)"),
    "batch statistics": (
        replaced("blocks.0.channel_mlp.bn1", nn.BatchNorm1d(128, track_running_stats=False)),
        r"blocks\.0\.channel_mlp\.bn1 \(BatchNorm1d\) without running statistics"),
    "groups": (replaced("patch_embed.main.1.conv", nn.Conv2d(4, 8, 3, 1, 1, groups=2)),
               r"patch_embed\.main\.1\.conv \(Conv2d\)"),
    "another head": (replaced("head", nn.Sequential(nn.Linear(32, 10))), r"head \(Sequential\)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_path(what: str) -> None:
    model = make_model()
    change, message = REFUSED[what]
    change(model)
    with pytest.raises(ValueError, match=f"cannot express {message}"):
        so.Engine.compile(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: so.STMixer(16, embed_dim=32, num_heads=4, depth=1, mixer="ssa"),
         r"'blocks\.0\.token_mixer\.ssa' \(spike_product\)"),
        (lambda: so.STMixer(16, embed_dim=32, num_heads=4, depth=1, patch_embed="sps"),
         r"'patch_embed\.main\.2\.pool\.out' \(graded values\), .*\.pool' \(max_pool\)"),
        (lambda: so.Spikformer(16, embed_dim=32, num_heads=4, depth=1),
         r".*'blocks\.0\.attn' \(spike_product\)"),
        (lambda: nn.Sequential(so.LIF()), r"the model \(Sequential\)"),
    ],
)  # fmt: skip
def test_other_families_are_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=f"cannot express {message}"):
        so.Engine.compile(make())


@pytest.mark.parametrize(
    "name",
    ["patch_embed.main.2.conv.weight", "blocks.1.token_mixer.stm.weight", "head.bias",
     "blocks.0.channel_mlp.bn2.running_var", "patch_embed.protect.bn.weight"],
)  # fmt: skip
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    model = make_model()
    model.state_dict()[name].view(-1)[3] = value
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        so.Engine.compile(model)


def test_compile_arguments() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="int16_layers"):
        so.Engine.compile(model, int16_layers=["head"])
    with pytest.raises(ValueError, match="precision must be"):
        so.Engine.compile(model, precision="fp16")
    with pytest.raises(ValueError, match="calibration"):
        so.Engine.compile(model, calibration=make_input(model, 2))
    with pytest.raises(TypeError, match="Module"):
        so.Engine.compile("model")
    assert so.Engine.compile(model, num_threads=1).num_threads == 1


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 3, 16, 15), ValueError, r"\[B, 3, 16, 16\].*\[2, 3, 16, 15\]"),
        (torch.zeros(3, 16, 16), ValueError, "got shape"),
        (torch.zeros(2, 1, 16, 16), ValueError, "got shape"),
        (torch.zeros(0, 3, 16, 15), ValueError, "got shape"),
        (torch.zeros(0, 2, 3, 16, 16), ValueError, r"T >= 1, got shape \[0, 2"),
        (torch.zeros(0, 0, 3, 16, 16), ValueError, r"T >= 1, got shape \[0, 0"),
        (torch.zeros(1, 2, 2, 3, 16, 16), ValueError, "got shape"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.float64), TypeError, "float32.*float64"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, "float32.*uint8"),
        (torch.zeros(2, 3, 16, 16, device="meta"), ValueError, "CPU.*meta"),
        (np.zeros((2, 3, 16, 16)), TypeError, "float32.*float64"),
        (np.zeros((2, 3, 16, 16), ">f4"), TypeError, "float32"),
        ([[1.0]], TypeError, "list"),
        (torch.full((2, 3, 16, 16), float("nan")), ValueError, "not finite"),
        (np.full((2, 3, 16, 16), np.inf, np.float32), ValueError, "not finite"),
    ],
    ids=range(15),
)
def test_bad_input_is_refused(x, error: type[Exception], message: str) -> None:
    engine = so.Engine.compile(make_model())
    with pytest.raises(error, match=message):
        engine(x)
    with pytest.raises(error, match=message):
        engine.run(x, record=True)
    engine(torch.zeros(1, 3, 16, 16))  # and is none the worse for it


def test_results_are_of_the_kind_of_the_input() -> None:
    engine = so.Engine.compile(make_model())
    x = torch.randn(2, 3, 16, 16, requires_grad=True)
    result = engine.run(x.detach().numpy(), record=True)
    assert isinstance(result.logits, np.ndarray)
    assert all(isinstance(s, np.ndarray) for s in result.spikes.values())
    np.testing.assert_array_equal(engine(x).numpy(), result.logits)
    flipped = torch.randn(2, 3, 16, 16)
    assert torch.equal(engine(flipped.flip(-1)), engine(flipped.flip(-1).contiguous()))
    channels_last = flipped.contiguous(memory_format=torch.channels_last)
    assert torch.equal(engine(channels_last), engine(flipped))
