"""STMixer and Spikformer: published sizes, inputs, outputs, and what timm's tools expect."""

import copy
import io
import warnings

import pytest
import torch
import torch.distributed
from torch import nn

import stmixer_ops as so


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def small(**options) -> so.STMixer:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 4, "T": 3}
    return so.STMixer(**sizes | options)


def small_spikformer(**options) -> so.Spikformer:
    torch.manual_seed(0)
    sizes = {"img_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 4, "T": 3}
    return so.Spikformer(**sizes | options)


BOTH = pytest.mark.parametrize("make", [small, small_spikformer])


def images(B=2) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(B, 3, 8, 8)


@pytest.mark.parametrize(
    ("name", "millions"),
    # 8_768_32 is published as 66.09; the other three widths of its row fix it.
    list({
        "stmixer_4_384_8.cifar10": "8.093", "stmixer_4_384_16.cifar10": "8.224",
        "stmixer_4_384_32.cifar10": "8.486", "stmixer_4_384_8.cifar100": "8.127",
        "stmixer_4_384_16.cifar100": "8.258", "stmixer_4_384_32.cifar100": "8.520",
        "stmixer_8_768_8.in1k": "58.71", "stmixer_8_768_12.in1k": "59.94",
        "stmixer_8_768_16.in1k": "61.17", "stmixer_8_768_32.in1k": "66.08",
        "stmixer_2_256_8.cifar10dvs": "2.308", "stmixer_2_256_16.cifar10dvs": "2.373",
        "stmixer_2_256_32.cifar10dvs": "2.504", "spikformer_4_384.cifar10": "9.330874",
        "spikformer_8_768.in1k": "66.363208", "spikformer_2_256.cifar10dvs": "2.568714",
    }.items()),
)  # fmt: skip
def test_published_parameter_counts(name, millions):
    with torch.device("meta"):
        model = so.create_model(name)
    digits = len(millions.partition(".")[2])
    assert f"{parameters(model) / 1e6:.{digits}f}" == millions


@BOTH
def test_an_image_is_a_constant_sequence(make):
    model = make().double().eval()
    x = images().double()
    y = model(x)
    torch.testing.assert_close(model(x.repeat(3, 1, 1, 1, 1)), y, rtol=1e-10, atol=1e-12)
    # The T of a sequence is its own.
    longer = model(x.repeat(5, 1, 1, 1, 1))
    model.T = 5
    torch.testing.assert_close(model(x), longer, rtol=1e-10, atol=1e-12)


@BOTH
def test_batch_first_sequences(make):
    model, other = make().eval(), make(batch_first=True).eval()
    torch.manual_seed(2)
    x = torch.rand(4, 2, 3, 8, 8)
    assert torch.equal(model(x), other(x.transpose(0, 1)))
    assert torch.equal(model(x[0]), other(x[0]))


@pytest.mark.parametrize("sml", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_type_of_the_output_is_asked_for(sml, training):
    model = small(sml=sml).train(training)
    assert isinstance(model(images()), torch.Tensor)
    logits, aux = model(images(), return_aux=True)
    assert logits.shape == (2, 10)
    assert [a.shape for a in aux] == [(2, 10)] * int(sml)


def test_spikformer_has_no_aux():
    logits, aux = small_spikformer()(images(), return_aux=True)
    assert logits.shape == (2, 10) and aux == []


@BOTH
def test_surface_for_timm(make):
    model = make(in_chans=2, num_classes=7).eval()
    x = torch.rand(2, 2, 8, 8)
    assert model.in_chans == model.in_channels == 2
    assert model.num_features == model.head_hidden_size == 16
    assert model.default_cfg["input_size"] == (2, 8, 8)
    assert model.default_cfg["num_classes"] == 7
    assert model.pretrained_cfg == model.default_cfg
    first = model.get_submodule(model.default_cfg["first_conv"])
    assert isinstance(first, nn.Conv2d) and first.in_channels == 2
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    features = model.forward_features(x)
    assert features.shape == (3, 2, 16, 4)
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.mean((0, 3)))
    assert torch.equal(model.forward_head(features), model(x))
    assert torch.equal(model.head(pooled), model(x))
    assert model.no_weight_decay() == set()


@BOTH
def test_reset_classifier(make):
    model = make().double().eval()
    model.reset_classifier(5)
    x = images().double()
    assert model(x).shape == (2, 5)
    assert model.num_classes == model.default_cfg["num_classes"] == 5
    model.reset_classifier(0, "avg")
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(5, "max")


def test_reset_classifier_reaches_the_surrogates():
    model = small(depth=4, sml=True)
    model.reset_classifier(5)
    logits, aux = model(images(), return_aux=True)
    assert [y.shape for y in (logits, *aux)] == [(2, 5)] * 3


def test_hooked_and_replaced_blocks_see_the_stream():
    """Fusion across blocks steps aside where it would be noticed."""
    model = small(depth=3).double().train()
    plain, x = copy.deepcopy(model), images().double()
    shapes = []
    model.blocks[1].register_forward_hook(
        lambda m, args, out: shapes.append((args[0].shape, out.shape))
    )
    torch.testing.assert_close(model(x), plain(x), rtol=1e-10, atol=1e-12)
    assert shapes == [((3, 2, 16, 4), (3, 2, 16, 4))]
    plain.eval()
    plain.blocks[1] = nn.Identity()
    shorter = copy.deepcopy(plain)
    del shorter.blocks[1]
    torch.testing.assert_close(plain(x), shorter(x), rtol=1e-10, atol=1e-12)


def test_fusion_across_blocks_changes_nothing():
    model = small(depth=3, sml=True).double().train()
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        block.register_forward_hook(lambda m, args, out: None)
    results = []
    for m in (model, plain):
        logits, aux = m(images().double(), return_aux=True)
        so.SMLLoss()((logits, aux), torch.tensor([1, 2])).backward()
        results.append((logits, {k: p.grad for k, p in m.named_parameters()}))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("ablation", "without_synapses"),
    [
        # Nothing but the stream reads the last spikes of SPS; q's products are counted at k.
        ({"patch_embed": "sps"}, {"patch_embed.position.lif"}),
        ({"mixer": "ssa"}, {f"blocks.{i}.token_mixer.ssa.q_lif" for i in (0, 1)}),
    ],
)
def test_ablations_train(ablation, without_synapses):
    model = small(**ablation, threshold=0.3, sml=True).train()
    output = model(images(4), return_aux=True)
    so.SMLLoss()(output, torch.arange(4)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    with so.record(model) as r:
        model(images())
    assert r.spikes.keys() - r.sops.keys() == without_synapses


@BOTH
def test_neurons_take_their_options(make):
    model = make(threshold=0.7, decay=0.9, surrogate=so.surrogate.ATan(3.0), reset="soft")
    for path, lif in model.named_modules():
        if isinstance(lif, so.LIF) and not path.endswith("attn_lif"):
            assert (lif.threshold, lif.decay, lif.reset_mode) == (0.7, 0.9, "soft"), path
            assert lif.surrogate == so.surrogate.ATan(3.0)


@pytest.mark.compiles
@BOTH
def test_compiles_without_a_graph_break(make):
    model = make().double().train()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    x = images().double()
    y, y2 = model(x), compiled(x)
    torch.testing.assert_close(y2, y, rtol=1e-10, atol=1e-12)
    y.sum().backward()
    y2.sum().backward()
    for (key, p), p2 in zip(model.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(p.grad, p2.grad, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.slow
@BOTH
def test_exports_to_plain_onnx(make):
    """The reference backend is plain operations; a peer runtime gives the same logits."""
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference")
    model, file = make().eval(), io.BytesIO()
    with so.use_backend("reference"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecation notes
        torch.onnx.export(model, (images(),), file, dynamo=False)
        expected = model(images())
    graph = onnx.load_from_string(file.getvalue())
    assert {node.domain for node in graph.graph.node} == {""}
    # Other runtimes refuse negative dimensions, which the evaluator below forgives.
    orders = [n.attribute[0].ints for n in graph.graph.node if n.op_type == "Transpose"]
    assert orders and all(sorted(o) == list(range(len(o))) for o in orders)
    run = evaluator.ReferenceEvaluator(graph).run
    (logits,) = run(None, {graph.graph.input[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-6)


@BOTH
def test_autocast(make):
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(images())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name


@BOTH
def test_distributed_data_parallel_trains_without_searching_unused(make, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = make(sml=True) if make is small else make()
        parallel = nn.parallel.DistributedDataParallel(model.train())
        for _ in range(3):
            output = parallel(images(), return_aux=True)
            so.SMLLoss()(output, torch.tensor([0, 1])).backward()
    finally:
        torch.distributed.destroy_process_group()


@BOTH
@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 9), (2, 2, 8, 8), (3, 8, 8), (2, 3, 3, 8, 8, 1), (0, 3, 8, 9)]
)
def test_wrong_shapes_are_named(make, shape):
    with pytest.raises(ValueError, match=r"images \[B, 3, 8, 8\] or sequences \[T, B, 3, 8, 8\]"):
        make()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"sequences \[B, T, 3, 8, 8\]"):
        make(batch_first=True)(torch.zeros(shape))


@BOTH
def test_wrong_dtypes_are_named(make):
    with pytest.raises(TypeError, match="floating-point tensor, got torch.uint8"):
        make()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="floating-point tensor, got ndarray"):
        make()(torch.zeros(2, 3, 8, 8).numpy())


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {"T": 0},
        {"num_heads": 5},
        {"num_heads": 0},
        {"depth": 0},
        {"embed_dim": 20},
        {"in_channels": 0},
        {"num_classes": -1},
        {"img_size": 10},
        {"img_size": (8, 0)},
        {"downsample": 5},
        {"downsample": -1},
        {"reset": "none"},
    ],
)
def test_wrong_arguments_are_named(make, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        make(**options)


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match="patch_embed"):
        small(patch_embed="conv")
    with pytest.raises(ValueError, match="mixer"):
        small(mixer="conv")
    with pytest.raises(ValueError, match="variant"):
        small_spikformer(variant="cifar")
    with pytest.raises(TypeError, match="decay_from_tau"):
        small(tau=2.0)


def test_images_need_not_be_square():
    model = small(img_size=(8, 16)).eval()
    assert model.grid_size == (2, 4)
    assert model(torch.rand(2, 3, 8, 16)).shape == (2, 10)
