"""The recorder: what it sees and counts, against hooks and brute force."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import stmixer_ops as so


def small(**options) -> so.STMixer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 4, "T": 3}
    return so.STMixer(**sizes | options)


def spikformer() -> so.Spikformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 4, "T": 3}
    return so.Spikformer(**sizes, threshold=0.3, attn_threshold=0.1)


def images(B=2, size=16) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(B, 3, size, size)


@pytest.mark.parametrize("make", [small, spikformer])
@pytest.mark.parametrize("training", [False, True])
def test_spikes_are_those_that_hooks_see(make, training):
    model = make().double().train(training)
    hooked = copy.deepcopy(model)
    seen = {}
    for path, module in hooked.named_modules():
        if isinstance(module, so.LIF):
            module.register_forward_hook(
                lambda lif, args, s, path=path: seen.update({path: s.to(torch.uint8)})
            )
    hooked(images().double())
    with so.record(model) as recorded:
        model(images().double())
    assert list(recorded.spikes) == list(seen)  # order of execution too
    for path, spikes in recorded.spikes.items():
        assert spikes.dtype == torch.uint8 and spikes.shape[:2] == (3, 2)
        assert torch.equal(spikes, seen[path]), path
        assert recorded.rates[path] == pytest.approx(spikes.float().mean().item(), rel=1e-5)


def ones_conv(conv: nn.Conv2d, spikes: torch.Tensor) -> int:
    """Synaptic operations by convolving with ones: each window that sees a spike, once."""
    weight = torch.ones(conv.weight.shape, dtype=torch.float64)
    y = F.conv2d(spikes.flatten(0, 1).double(), weight, None, conv.stride, conv.padding)
    return int(y.sum())


@pytest.mark.parametrize("downsample", [2, 4])
def test_sops_of_stmixer_by_brute_force(downsample):
    model = small(downsample=downsample, img_size=32).eval()
    with so.record(model) as r, torch.no_grad():
        model(images(size=32))
    expected = {}
    for i in range(4):
        path = f"patch_embed.main.{i}.lif"
        expected[path] = ones_conv(model.patch_embed.main[i + 1].conv, r.spikes[path])
    tokens = model.num_tokens
    for i in range(2):
        fan_out = {
            "token_mixer.lif1": 16,
            "token_mixer.lif2": tokens,
            "token_mixer.lif3": 16,
            "channel_mlp.lif1": 64,
            "channel_mlp.lif2": 16,
        }
        for name, width in fan_out.items():
            path = f"blocks.{i}.{name}"
            expected[path] = int(r.spikes[path].sum()) * width
    assert r.sops == expected
    assert list(r.sops) == list(r.spikes)


def test_sops_of_spikformer_by_brute_force():
    model = spikformer().eval()
    stream = {}
    for path, module in model.named_modules():
        if path.endswith(("attn.q", "attn.k", "attn.v", "mlp.fc1")):
            module.register_forward_hook(
                lambda m, args, _, path=path: stream.update({path: int(args[0].sum())})
            )
    with so.record(model) as r, torch.no_grad():
        model(images())

    def pooled(path):
        s = r.spikes[path]
        return F.max_pool2d(s.flatten(0, 1).float(), 3, 2, 1).unflatten(0, s.shape[:2])

    embed = model.patch_embed
    for i in (0, 1):
        path = f"patch_embed.main.{i}.lif"
        assert r.sops[path] == ones_conv(embed.main[i + 1].conv, r.spikes[path])
    path = "patch_embed.main.2.lif"
    assert r.sops[path] == ones_conv(embed.main[3].conv, pooled(path))
    # The sources of the stream share what its readers cost.
    sources = ["patch_embed.main.3.lif", "patch_embed.position.lif"]
    sources += [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.proj_lif", "mlp.lif2")]
    position = ones_conv(embed.position.conv, pooled(sources[0]))
    readers = sum(total * (64 if "mlp" in path else 16) for path, total in stream.items())
    assert len(stream) == 8
    assert sum(r.sops.get(path, 0) for path in sources) == position + readers
    assert "blocks.1.mlp.lif2" not in r.sops  # only the readout follows, on a mean
    for i in (0, 1):
        s = {n: r.spikes[f"blocks.{i}.attn.{n}_lif"].unflatten(2, (4, -1)) for n in "qkv"}
        scores = torch.einsum("tbhcn,tbhcm->tbhnm", s["q"].double(), s["k"].double())
        assert r.sops[f"blocks.{i}.attn.k_lif"] == int(scores.sum()) > 0
        assert r.sops[f"blocks.{i}.attn.v_lif"] == int(s["v"].sum()) * model.num_tokens
        for name, width in (("attn.attn_lif", 16), ("mlp.lif1", 16)):
            path = f"blocks.{i}.{name}"
            assert r.sops[path] == int(r.spikes[path].sum()) * width


def test_macs_of_layers_on_real_numbers():
    model = small().eval()
    first = 16 * 16 * 9 * 3 * 2  # pixels, taps, input and output channels
    protect, head = 4 * 4 * (4 * 4 * 3) * 2, 16 * 10
    names = ["patch_embed.main.0.conv", "patch_embed.protect.conv", "head"]
    with so.record(model) as r:
        model(images(B=2))
    assert r.macs == dict(zip(names, [2 * first, 2 * protect, 2 * head], strict=True))
    with so.record(model) as r:
        model(images(B=2).repeat(5, 1, 1, 1, 1))  # a sequence is convolved at each step
    assert r.macs == dict(zip(names, [10 * first, 10 * protect, 2 * head], strict=True))


def test_dense_macs_are_the_published_ones():
    """Multiply-accumulates per image and step, by the field's convention (padding counted)."""

    def macs(name: str) -> tuple[float, float]:
        model = so.create_model(name, T=1).eval()
        with so.record(model, keep_spikes=False) as r, torch.no_grad():
            model(torch.rand(1, *model.default_cfg["input_size"]))
        assert not r.spikes
        return sum(r.dense_macs.values()) / 1e9, sum(r.macs.values()) / 1e9

    spikes, real = macs("stmixer_4_384_16")
    assert round(spikes + real, 3) == 0.842
    spikes, real = macs("stmixer_8_768_16")
    assert (round(spikes, 1), round(real, 3)) == (16.6, 0.145)


def test_energy_and_counters_add_up_over_calls():
    model = small().eval()
    x = images(B=4)
    with so.record(model) as once, torch.no_grad():
        model(x)
    with so.record(model) as twice, torch.no_grad():
        model(x[:1])
        model(x[1:])
    assert (once.images, twice.images) == (4, 4)
    assert once.counts == twice.counts
    assert once.neuron_steps == twice.neuron_steps
    assert once.sops == twice.sops
    assert once.rates == twice.rates
    assert twice.spikes["blocks.0.token_mixer.lif1"].shape[1] == 3  # of the last call
    expected = (4.6 * sum(once.macs.values()) + 0.9 * sum(once.sops.values())) / 4
    assert once.energy() == pytest.approx(expected, rel=1e-12)


@pytest.mark.compiles
def test_compiled_and_wrapped_models_have_the_same_paths():
    model = small().eval()
    with so.record(model) as plain, torch.no_grad():
        model(images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        compiled(images())
        with so.record(compiled) as r:
            compiled(images())
        after = compiled(images())
    assert r.sops == plain.sops
    assert list(r.spikes) == list(plain.spikes)
    assert after.shape == (2, 10)


def test_nothing_is_left_behind():
    model = small().eval()
    with pytest.raises(ValueError, match="x must be"), so.record(model):
        model(torch.zeros(1, 3, 8, 8))
    assert not so.LIF.observers
    assert not any(m._forward_hooks for m in model.modules())
    with so.record(model) as r:
        pass
    model(images())
    assert not r.counts


def test_only_the_recorded_model_is_seen():
    model, other = small(), small()
    with so.record(model.blocks[1]) as part, so.record(model) as whole:
        model(images())
        other(images())
    assert [f"blocks.1.{path}" for path in part.spikes] == [
        path for path in whole.spikes if path.startswith("blocks.1.")
    ]
    assert whole.images == 2


def test_plain_layers_count_too():
    model = nn.Sequential(nn.Linear(8, 8), so.LIF(), nn.Linear(8, 8), so.LIF())
    with so.record(model) as r:
        model(torch.randn(3, 2, 5, 8))
    assert list(r.spikes) == ["1", "3"]
    assert r.sops == {"1": 8 * r.counts["1"]}  # nothing reads the last spikes
    assert r.macs == {"0": 3 * 2 * 5 * 64}


def test_refuses_what_cannot_be_recorded():
    with pytest.raises(TypeError, match="model must be"):
        so.record(lambda x: x)
    with pytest.raises(ValueError, match="holds no LIF"):
        so.record(nn.Linear(2, 2))
