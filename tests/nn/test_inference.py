"""optimize_for_inference: the same spikes as the model, in fewer passes, and clear refusals."""

from __future__ import annotations

import copy

import pytest
import torch
from support.golden import Golden, assert_spikes_by_the_local_rule
from support.small_models import images, settle, spikformer, stmixer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import stmixer_ops as so
from stmixer_ops.nn.inference import Folded


def ipsps(**lif):
    torch.manual_seed(0)
    return settle(so.IPSPS(3, 40, **lif)), torch.rand(1, 3, 8, 8).expand(2, 1, 3, 8, 8)


def mlp(**lif):
    torch.manual_seed(0)
    return settle(so.ChannelMLP(33, 2.0, **lif)), torch.randn(3, 2, 33, 7) * 2


def block():
    torch.manual_seed(0)
    return settle(so.STMBlock(36, 9, 3, 2.0)), torch.randn(2, 2, 36, 9) * 2


PARTS = {
    "block": block,
    "ipsps": ipsps,
    "mlp": mlp,
    "scaled soft mlp": lambda: mlp(input_scale=0.5, reset="soft", decay=0.9),
}
MODELS = {
    "hard reset": stmixer,
    "soft reset": lambda: stmixer(reset="soft", decay=0.9),
    "scaled input": lambda: stmixer(input_scale=0.5, v_reset=0.1, threshold=0.4),
    "sps": lambda: stmixer(patch_embed="sps"),
    "ssa": lambda: stmixer(mixer="ssa"),
    "spikformer": spikformer,
    "surrogate modules": lambda: stmixer(sml=True),
}


@pytest.mark.parametrize("make", PARTS)
def test_parts_by_the_local_rule(make, backend):
    """Small enough for Triton's interpreter, on which every op of theirs runs."""
    module, x = PARTS[make]()
    optimized = so.optimize_for_inference(module)
    with so.use_backend(backend), so.record(optimized) as recorded, torch.no_grad():
        y = optimized(x)
    assert all(0 < rate < 1 for rate in recorded.rates.values()), recorded.rates
    assert_spikes_by_the_local_rule(module, recorded, x)
    expected = y.clone()
    with so.use_backend(backend), torch.no_grad():
        assert torch.equal(optimized(x), expected)  # recording changes nothing


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_float32_by_the_local_rule(name, backend):
    model = MODELS[name]()
    optimized = so.optimize_for_inference(model)
    with so.use_backend(backend), so.record(optimized) as recorded, torch.no_grad():
        logits = optimized(images())
    assert all(0 < rate < 1 for rate in recorded.rates.values()), recorded.rates
    assert_spikes_by_the_local_rule(model, recorded, images())
    with torch.no_grad(), so.record(model) as unfused:
        expected = model(images())
    assert list(recorded.spikes) == list(unfused.spikes)
    if all(torch.equal(s, unfused.spikes[path]) for path, s in recorded.spikes.items()):
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        assert recorded.sops == unfused.sops
        assert recorded.energy() == pytest.approx(unfused.energy())


@pytest.mark.parametrize("name", ["stmixer_T1_sml", "stmixer_T4_soft", "stmixer_dvs_T3",
                                  "spikformer_T2"])  # fmt: skip
def test_golden_vectors(name):
    """In float64 the official code's spikes, every one."""
    golden = Golden(name)
    optimized = so.optimize_for_inference(golden.model().double().eval())
    with so.record(optimized) as recorded, torch.no_grad():
        logits = optimized(golden["input"])
    torch.testing.assert_close(logits, golden["logits_eval"], rtol=0, atol=1e-9)
    for spikes, truth in zip(recorded.spikes.values(), golden.spikes(), strict=True):
        assert torch.equal(spikes, truth)


def test_the_model_is_untouched_and_the_copy_is_ready():
    model = stmixer(sml=True)
    before = copy.deepcopy(model.state_dict())
    optimized = so.optimize_for_inference(model)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(p.requires_grad for p in model.parameters())
    assert type(optimized) is so.STMixer
    assert not optimized.training
    assert not any(p.requires_grad for p in optimized.parameters())
    kept = {k for k in before if "bn" not in k and not k.startswith("surrogates")}
    added = {k for k in optimized.state_dict() if k.endswith("bias")} - kept
    assert set(optimized.state_dict()) == kept | added
    assert len(added) == 2 * 4 + 6
    _, aux = optimized(images(), return_aux=True)
    assert aux == []
    other = so.optimize_for_inference(stmixer(T=1))
    other.load_state_dict(optimized.state_dict())


def watch(monkeypatch):
    """Per call of an op that takes and gives spikes: its name, and whether both were words."""
    seen = []

    def wrap(name):
        run = getattr(so.functional, name)

        def call(s, *args, **options):
            out = run(s, *args, **options)
            first = out[0] if isinstance(out, tuple) else out
            seen.append((name, s.dtype == torch.int32, first.dtype == torch.int32))
            return out

        monkeypatch.setattr(so.functional, name, call)

    for name in ("conv_lif", "token_mix_lif"):
        wrap(name)
    return seen


def test_nothing_but_bits_between_layers(monkeypatch):
    """From LIF to LIF spikes are words; only the last layer, which has no neurons, reads others."""
    seen = watch(monkeypatch)
    optimized = so.optimize_for_inference(stmixer())
    with torch.no_grad():
        optimized(images())
    layer, mixer = ("conv_lif", True, True), ("token_mix_lif", True, True)
    last = ("conv_lif", True, False)
    stages = [layer, layer, last]  # main.4 has no neurons behind it
    block = [layer, mixer, layer, layer]  # fc1, stm, fc2, fc1
    assert seen == [*stages, *block, layer, *block[:-1], last]


@pytest.mark.parametrize("hooked", ["lif2", "stm", "lif3", "fc1"])
def test_around_a_hooked_layer_spikes_are_dense(monkeypatch, hooked):
    """What is called on its own takes and gives dense spikes; all others keep to bits."""
    optimized = so.optimize_for_inference(settle(so.STMBlock(40, 16, 4)))
    x, dtypes = torch.randn(3, 2, 40, 16) * 2, []
    with torch.no_grad():
        expected = optimized(x)
        module = optimized.token_mixer.get_submodule(hooked)
        module.register_forward_hook(lambda m, args, y: dtypes.append(y.dtype))
        seen = watch(monkeypatch)
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-5)
    assert dtypes == [torch.float32]
    mixed = [(given, made) for name, given, made in seen if name == "token_mix_lif"]
    assert mixed == {"lif2": [(False, True)], "fc1": [(True, True)]}.get(hooked, [])


def test_block_alone_and_twice():
    torch.manual_seed(0)
    block = settle(so.STMBlock(16, 9, 4)).double()
    x = torch.randn(3, 2, 16, 3, 3, dtype=torch.float64) * 2
    optimized = so.optimize_for_inference(block)
    torch.testing.assert_close(optimized(x), block(x), rtol=1e-10, atol=1e-10)
    again = so.optimize_for_inference(optimized)
    assert torch.equal(again(x), optimized(x))
    for branch in ("token_mixer", "channel_mlp"):  # called on its own, as anyone's module
        y = getattr(optimized, branch)(x)
        torch.testing.assert_close(y, getattr(block, branch)(x), rtol=1e-10, atol=1e-10)


def test_inside_a_foreign_model_and_behind_wrappers():
    torch.manual_seed(0)
    inner = nn.Sequential(settle(so.STMBlock(16, 9, 4)), nn.Flatten(3)).eval()
    model = torch.compile(inner, backend="eager")
    x = torch.randn(2, 1, 16, 9) * 2
    optimized = so.optimize_for_inference(model)
    assert type(optimized) is nn.Sequential
    torch.testing.assert_close(optimized(x), inner(x), rtol=1e-4, atol=1e-5)


def test_hooked_children_are_called():
    optimized = so.optimize_for_inference(stmixer().double())
    with torch.no_grad():
        expected = optimized(images(dtype=torch.float64))
    called = []
    for path, module in optimized.named_modules():
        if isinstance(module, (so.LIF, so.nn.SpikeLinear, so.nn.SpikeConv2d)):
            module.register_forward_hook(lambda *_, path=path: called.append(path))
    with torch.no_grad():
        y = optimized(images(dtype=torch.float64))
    assert len(called) == 14 + 8 + 4
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


def test_affine_free_and_frozen_norms_and_sync():
    model = stmixer().double()
    mixer = model.blocks[0].token_mixer
    mixer.bn1 = nn.BatchNorm1d(40, affine=False, momentum=None).double().eval()
    mixer.bn1.running_var += 0.3
    model.blocks[1].channel_mlp = nn.SyncBatchNorm.convert_sync_batchnorm(
        model.blocks[1].channel_mlp
    )
    optimized = so.optimize_for_inference(model)
    plain = copy.deepcopy(model)
    plain.blocks[1].channel_mlp = stmixer().double().blocks[1].channel_mlp
    x = images(dtype=torch.float64)
    torch.testing.assert_close(optimized(x), plain(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_networks(dtype):
    """Both round differently, so only the rates are compared; autocast runs the same path."""
    model = stmixer()
    optimized = so.optimize_for_inference(copy.deepcopy(model).to(dtype))
    assert {p.dtype for p in optimized.parameters()} == {dtype}
    with so.record(optimized) as r, torch.no_grad():
        assert optimized(images(dtype=dtype)).isfinite().all()
    with so.record(model) as wide, torch.no_grad():
        model(images())
    for path, rate in wide.rates.items():
        assert r.rates[path] == pytest.approx(rate, abs=0.05), path
    if dtype == torch.bfloat16:
        with torch.no_grad(), torch.autocast("cpu", dtype):
            assert so.optimize_for_inference(model)(images()).isfinite().all()


@pytest.mark.compiles
@pytest.mark.parametrize("make", [stmixer, lambda: settle(so.STMBlock(40, 16, 4))])
def test_full_graph(make):
    optimized = so.optimize_for_inference(make())
    x = images() if isinstance(optimized, so.STMixer) else torch.randn(3, 2, 40, 16) * 2
    torch.compiler.reset()
    with torch.no_grad():
        expected = optimized(x)
        # Its own compiler only for the small one, which takes a minute otherwise.
        compiler = "aot_eager" if isinstance(optimized, so.STMixer) else "inductor"
        compiled = torch.compile(optimized, fullgraph=True, backend=compiler)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_no_host_reads():
    """Fake tensors have no values: a call that looks at one, which on a GPU is a wait, fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    optimized = so.optimize_for_inference(stmixer())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        logits = optimized(mode.from_tensor(images()))
    assert logits.shape == (2, 10)


def test_engine_takes_it():
    model = stmixer()
    optimized = so.optimize_for_inference(model)
    a, b = (so.Engine.compile(m).run(images(), record=True) for m in (model, optimized))
    torch.testing.assert_close(torch.as_tensor(a.logits), torch.as_tensor(b.logits))
    assert list(a.spikes) == list(b.spikes)


class Doubled(nn.BatchNorm1d):
    def forward(self, y):
        return 2 * super().forward(y)


class Shifted(nn.Module):
    def forward(self, u):
        return (u > 0).to(u.dtype)


def change(path, value):
    def apply(model):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, value)

    return apply


REFUSED = {
    "training": (lambda m: m.train(), r"patch_embed\.main\.0\.bn \(BatchNorm2d\): .*model\.eval"),
    "sync in training": (
        change("blocks.1.token_mixer.bn1", nn.SyncBatchNorm(40)),
        r"blocks\.1\.token_mixer\.bn1 \(SyncBatchNorm\): it is in training mode",
    ),
    "no statistics": (
        change("blocks.0.channel_mlp.bn2", nn.BatchNorm1d(40, track_running_stats=False).eval()),
        r"blocks\.0\.channel_mlp\.bn2 \(BatchNorm1d\): without running statistics",
    ),
    "negative variance": (
        lambda m: m.blocks[0].token_mixer.bn2.running_var.fill_(-1),
        r"blocks\.0\.token_mixer\.bn2 \(BatchNorm1d\): whose running_var \+ eps",
    ),
    "subclass": (
        change("blocks.0.token_mixer.bn1", Doubled(40).eval()),
        r"blocks\.0\.token_mixer\.bn1 \(Doubled\): it is no batch norm of PyTorch",
    ),
    "another norm": (
        change("blocks.0.channel_mlp.bn2", nn.LayerNorm(40)),
        r"blocks\.0\.channel_mlp\.bn2 \(LayerNorm\): it is no batch norm",
    ),
    "hooks": (
        lambda m: m.blocks[0].token_mixer.bn2.register_forward_hook(lambda *_: None),
        r"blocks\.0\.token_mixer\.bn2 \(BatchNorm1d\): it has hooks",
    ),
    "another layer": (
        change("blocks.0.token_mixer.fc1", nn.Linear(40, 40)),
        r"blocks\.0\.token_mixer\.fc1 \(Linear\): it is no layer of this library",
    ),
    "a shared layer": (
        lambda m: setattr(m.blocks[1].token_mixer, "fc1", m.blocks[0].token_mixer.fc1),
        r"blocks\.1\.token_mixer\.fc1 \(SpikeLinear\): it is used in two places",
    ),
    "a wrapped layer": (
        change("blocks.0.token_mixer.fc1", nn.Sequential(nn.Linear(40, 40))),
        r"blocks\.0\.token_mixer\.fc1 \(Sequential\): it is no layer.*merge adapters",
    ),
    "a norm of someone else in training": (
        change("head", nn.Sequential(nn.BatchNorm1d(40), nn.Linear(40, 10))),
        r"head\.0 \(BatchNorm1d\): it is in training mode",
    ),
    "another step": (
        lambda m: setattr(m.blocks[0].token_mixer.lif1, "surrogate", Shifted()),
        r"blocks\.0\.token_mixer\.lif1 \(LIF\): its surrogate Shifted\(\) does not fire exactly",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_folded_is_refused_by_path(what):
    model = stmixer()
    apply, message = REFUSED[what]
    apply(model)
    with pytest.raises(ValueError, match=f"cannot fold {message}"):
        so.optimize_for_inference(model)
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        so.optimize_for_inference(lambda x: x)


def test_custom_surrogates_are_fine():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = nn.Parameter(torch.ones(1))

        def forward(self, u):
            return (u >= 0).to(u.dtype)

    model = stmixer(surrogate=Step())
    optimized = so.optimize_for_inference(model)
    assert not any(k.endswith("width") for k in optimized.state_dict())
    with so.use_backend("cpu"), torch.no_grad():  # a custom surrogate would not run on it
        torch.testing.assert_close(optimized(images()), model_on_reference(model), rtol=1e-3,
                                   atol=1e-4)  # fmt: skip


def test_the_default_device_does_not_matter():
    model = stmixer()
    with torch.device("meta"):
        optimized = so.optimize_for_inference(model)
    assert torch.equal(optimized(images()), so.optimize_for_inference(model)(images()))


def model_on_reference(model):
    with so.use_backend("reference"), torch.no_grad():
        return model(images())


def test_folded_norms_are_all_that_changed():
    optimized = so.optimize_for_inference(stmixer())
    changed = {path for path, m in optimized.named_modules() if isinstance(m, Folded)}
    assert changed == {path for path, m in stmixer().named_modules() if isinstance(m, _BatchNorm)}


@pytest.mark.parametrize("strict", [True, False])
def test_weights_with_batch_norms_do_not_go_into_a_folded_copy(strict):
    """Without them the layers' weights mean something else: no silent mixture, strict or not."""
    optimized, other = so.optimize_for_inference(stmixer()), stmixer()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    again = r"main\.0\.bn\.\w+ is among .*optimize_for_inference again"
    with pytest.raises(RuntimeError, match=again):
        optimized.load_state_dict(other.state_dict(), strict=strict)
    optimized.load_state_dict(so.optimize_for_inference(other).state_dict(), strict=strict)
    with torch.no_grad():
        assert torch.equal(optimized(images()), so.optimize_for_inference(other)(images()))


def test_modules_of_others_stay_as_they_are():
    """A network of one's own with batch norms before and behind a block of this library."""
    torch.manual_seed(0)
    block = settle(so.STMBlock(16, 9, 4))
    stem = settle(nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), so.LIF()))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.block, self.norm = stem, block, settle(nn.BatchNorm1d(16))

        def forward(self, x):
            y = self.stem[2](self.stem[1](self.stem[0](x)).expand(2, *x.shape[:1], 16, 3, 3))
            return self.norm(self.block(y).mean((0, 3, 4)))

    net = Net().double().eval()
    optimized = so.optimize_for_inference(net)
    x = torch.randn(4, 3, 3, 3, dtype=torch.float64) * 3
    with torch.no_grad(), so.record(net) as r:
        expected = net(x)
    assert min(r.rates.values()) > 0
    with torch.no_grad():
        torch.testing.assert_close(optimized(x), expected, rtol=1e-10, atol=1e-10)
    assert type(optimized.stem[1]) is nn.BatchNorm2d and type(optimized.norm) is nn.BatchNorm1d
    assert type(optimized.block.token_mixer.bn1) is Folded
