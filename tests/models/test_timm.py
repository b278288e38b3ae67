"""timm's keywords and idioms: taken where they mean something here, refused with what to do."""

import copy
import importlib

import numpy as np
import pytest
import torch
from models.test_stmixer import BOTH, images, small, small_spikformer

import stmixer_ops as so

HARMLESS = {
    "pretrained": False, "checkpoint_path": "", "drop_rate": 0.0, "drop_path_rate": 0.0,
    "global_pool": "avg", "features_only": False, "scriptable": False, "exportable": None,
}  # fmt: skip


@BOTH
def test_keywords_that_ask_for_nothing_are_taken(make):
    model = make(**HARMLESS)
    assert [p.shape for p in model.parameters()] == [p.shape for p in make().parameters()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, r"STMixer: pretrained must be False .*load_pretrained\(model, path"),
        ({"checkpoint_path": "x"}, "STMixer: checkpoint_path .*load_pretrained"),
        ({"drop_path_rate": 0.1}, "STMixer: drop_path_rate must be 0 .*stochastic depth.*got 0.1"),
        ({"drop_rate": 0.1}, "STMixer: drop_rate must be 0 .*no dropout"),
        ({"global_pool": "max"}, "STMixer: global_pool must be 'avg'"),
        ({"features_only": True}, "STMixer: features_only .*forward_intermediates"),
        ({"in_channels": 2, "in_chans": 3}, "in_channels and in_chans are the same, got 2 and 3"),
        ({"num_classes": True}, "num_classes must be an integer of at least 0, got True"),
        ({"img_size": 16.0}, "img_size must be a positive integer, got 16.0"),
        ({"img_size": (16, 16, 3)}, r"img_size must be an integer or two, got \(16, 16, 3\)"),
        ({"T": np.bool_(True)}, "T must be a positive integer, got"),
    ],
)
def test_keywords_that_cannot_be_met_say_what_can(options, message):
    with pytest.raises(ValueError, match=message):
        so.create_model("stmixer_1_16_2", **{"img_size": 16, **options})


def test_unknown_keywords_are_refused_by_the_models_name():
    makers = {
        "STMixer": lambda **o: so.create_model("stmixer_1_16_2", **o),
        "Spikformer": lambda **o: so.create_model("spikformer_1_16", num_heads=2, **o),
        "STMBlock": lambda **o: so.STMBlock(16, 4, 2, **o),
        "TokenMixer": lambda **o: so.TokenMixer(16, 4, 2, **o),
        "ChannelMLP": lambda **o: so.ChannelMLP(16, **o),
        "IPSPS": lambda **o: so.IPSPS(3, 16, **o),
        "SPS": lambda **o: so.SPS(3, 16, **o),
        "SSA": lambda **o: so.SSA(16, 2, **o),
    }
    for name, make in makers.items():
        with pytest.raises(TypeError, match=f"^{name} got unexpected arguments: foo; .*threshold"):
            make(foo=1)
        with pytest.raises(TypeError, match="decay_from_tau"):
            make(tau=2.0)


@BOTH
def test_numpys_numbers_are_numbers(make, tmp_path):
    """As sizes, as neurons' constants, in the engine's file: as if they were Python's."""
    plain = {"img_size": 8, "in_chans": 3, "num_classes": 5, "embed_dim": 16, "depth": 1,
             "num_heads": 4, "T": 2, "downsample": 2}  # fmt: skip
    numpy = {name: np.int64(value) for name, value in plain.items()}
    model = make(**numpy, mlp_ratio=np.float32(2), threshold=np.float32(0.5), decay=np.float64(0.5))
    model.reset_classifier(np.int64(3))
    model.T = np.int32(3)
    for name, value in vars(model).items():
        assert not isinstance(value, np.generic), name
    assert type(model.T) is int
    expected = make(**plain, mlp_ratio=2.0, threshold=0.5)
    expected.reset_classifier(3)
    expected.T = 3
    expected.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(images()), expected.eval()(images()))
    if isinstance(model, so.STMixer):
        a, b = (so.Engine.compile(m, num_threads=np.int64(1)) for m in (model, expected))
        assert torch.equal(a(images()), b(images()))
        a.save(tmp_path / "a.stmx")
        b.save(tmp_path / "b.stmx")
        assert (tmp_path / "a.stmx").read_bytes() == (tmp_path / "b.stmx").read_bytes()
    with pytest.raises(ValueError, match="T must be a positive integer, got 0"):
        model.T = 0


@BOTH
def test_intermediate_features(make):
    model = make(depth=3).double().eval()
    x, seen = images().double(), []
    for block in model.blocks:
        block.register_forward_hook(lambda m, args, y: seen.append(y))
    stream, features = model.forward_intermediates(x)
    assert torch.equal(model.forward_head(stream), model(x))
    assert len(features) == 3
    for y, kept in zip(features, seen, strict=False):
        if kept.shape[2] != 16:  # Spikformer's blocks have the channels last
            kept = kept.transpose(2, 3)
        torch.testing.assert_close(y, kept.mean(0).unflatten(2, (2, 2)), rtol=1e-12, atol=1e-12)
    options = {"indices": [0, -1], "output_fmt": "NLC", "intermediates_only": True}
    for y, expected in zip(model.forward_intermediates(x, **options), features[::2], strict=True):
        torch.testing.assert_close(y.transpose(1, 2).unflatten(2, (2, 2)), expected)
    seen.clear()
    early, (first,) = model.forward_intermediates(x, indices=[0], stop_early=True)
    torch.testing.assert_close(early.mean(0).unflatten(2, (2, 2)), first)
    assert len(seen) == 1
    assert [info["module"] for info in model.feature_info] == ["blocks.0", "blocks.1", "blocks.2"]
    with pytest.raises(ValueError, match="indices must be an integer from -3 to 2, got 3"):
        model.forward_intermediates(x, indices=[3])
    with pytest.raises(ValueError, match="output_fmt must be"):
        model.forward_intermediates(x, output_fmt="NHWC")


@BOTH
def test_grad_checkpointing_changes_nothing(make):
    """Not even the running statistics, which see the batch once, nor what a recorder counts."""
    plain = make().train()
    again = copy.deepcopy(plain)
    again.set_grad_checkpointing()
    found = []
    for model in (plain, again):
        with so.record(model) as r:
            y = model(images())
            y.square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((y, gradients, dict(model.named_buffers()), r.counts))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_grad_checkpointing_keeps_less():
    def kept(enable):
        model, storages = small(depth=3).train(), {}
        model.set_grad_checkpointing(enable)

        def keep(t):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = model(images(8))
        return sum(storages.values()), y

    (less, _), (all_of_it, _) = kept(True), kept(False)
    assert less < 0.7 * all_of_it


def test_inside_timm():
    timm = pytest.importorskip("timm")
    from timm.models._features import FeatureGetterNet
    from timm.optim import create_optimizer_v2

    model = small(depth=3).eval()
    features = FeatureGetterNet(model, [0, 2])
    assert features.feature_info.channels() == [16, 16]
    assert features.feature_info.reduction() == [4, 4]
    assert [y.shape for y in features(images())] == [(2, 16, 2, 2)] * 2
    # Layer-wise learning rates: each parameter in one group, deeper ones faster.
    optimizer = create_optimizer_v2(model, "sgd", lr=1.0, layer_decay=0.5)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    depths = (
        "patch_embed.main.0.conv",
        "blocks.0.token_mixer.fc1",
        "blocks.2.channel_mlp.fc1",
        "head",
    )
    found = [scales[id(model.get_submodule(name).weight)] for name in depths]
    assert found == sorted(set(found)) and found[-1] == 1.0
    assert len(scales) == len(list(model.parameters()))

    importlib.import_module("stmixer_ops.models.timm")
    names = {"img_size": 16, "num_classes": 3, "drop_path_rate": None}
    made = timm.create_model("stmixer_2_256_8", in_chans=2, **names)
    assert type(made) is so.STMixer and (made.num_classes, made.img_size) == (3, (16, 16))
    tagged = timm.create_model("stmixer_2_256_16.cifar10dvs", img_size=16)
    assert tagged.patch_embed.in_channels == 2  # the tag's defaults
    shallow = timm.create_model("stmixer_2_256_16", features_only=True, img_size=16, T=1)
    assert len(shallow(torch.rand(2, 2, 16, 16))) == 2
    backbone = timm.create_model("spikformer_2_256", features_only=True, out_indices=(1,), T=1)
    assert backbone.feature_info.channels() == [256]
    assert set(so.list_models()) <= set(timm.list_models())
    with pytest.raises(ValueError, match="stochastic depth"):
        timm.create_model("stmixer_2_256_8", drop_path_rate=0.1)


def test_symbolic_tracing_is_told_what_works():
    for make in (small, small_spikformer):
        with pytest.raises(TypeError, match=r"torch\.fx.*forward_intermediates"):
            torch.fx.symbolic_trace(make())
