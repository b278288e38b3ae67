"""SOPs and MACs of networks that this library does not know, against loops over single spikes."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from support import sops as brute
from support.networks import expected_of_own, own, spiking
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops.nn.embed import ConvBNLIF
from stmixer_ops.nn.fused import Spikes
from stmixer_ops.nn.layers import SpikeConv2d


def reader(layer: nn.Module) -> nn.Module:
    """Neurons, and a layer that takes their spikes ``[T, B, ...]`` as ``[T * B, ...]``."""
    return nn.Sequential(so.LIF(), nn.Flatten(0, 1), layer)


CONVOLUTIONS = {
    "1d": nn.Conv1d(4, 6, 3, stride=2, padding=1),
    "1d same": nn.Conv1d(4, 6, 4, padding="same", bias=False),
    "2d": nn.Conv2d(4, 6, 3),
    "2d uneven": nn.Conv2d(4, 2, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
    "2d grouped": nn.Conv2d(4, 8, 3, stride=2, padding=2, groups=2),
    "2d depthwise": nn.Conv2d(4, 4, 5, padding=2, groups=4),
    "3d": nn.Conv3d(4, 2, 3, stride=2, padding=1, dilation=2),
    "1d transposed": nn.ConvTranspose1d(4, 3, 4, stride=3, padding=2, output_padding=1),
    "2d transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_any_kind(name):
    conv = CONVOLUTIONS[name]
    size = {"1": (9,), "2": (7, 6), "3": (5, 4, 5)}[name[0]]
    with so.record(reader(conv)) as r:
        r._model(spiking(2, 3, 4, *size))
    spikes = r.spikes["0"].flatten(0, 1)
    assert r.sops == {"0": brute.convolution(spikes, conv)} and r.sops["0"] > 0
    assert not r.macs and not r.uncounted
    y = conv(spikes.float())
    dense = (spikes if "Transpose" in type(conv).__name__ else y).numel() * conv.weight[0].numel()
    if name != "1d same":  # PyTorch pads an even kernel by hand, which is the same work
        assert r.dense_macs == {"0": dense // 6}


MODES = {
    "train": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "reference": lambda: so.use_backend("reference"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_network_of_ones_own(mode):
    model = own()
    model.train(mode == "train")
    with MODES[mode](), so.record(model) as r:
        y = model(torch.rand(2, 2, 8, 8))
        if y.requires_grad:
            y.sum().backward()  # gradients are products too, but no forward pass
    assert (r.sops, r.macs) == expected_of_own(r, 2)
    assert min(r.sops.values()) > 0 and not r.uncounted and r.images == 2
    assert r.dense_macs == {"lif1": 4 * 4 * 6 * 4 * 9, "lif2": 24 * 5}
    energy = (4.6 * r.macs["stem"] + 0.9 * sum(r.sops.values())) / 2
    assert r.energy() == pytest.approx(energy, rel=1e-12)


def test_own_stem_and_head_around_a_block():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 4, stride=4)
            self.block = so.STMBlock(16, 16, 4, threshold=0.3)
            self.head = nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.stem(x).expand(2, -1, -1, -1, -1)).mean((0, 3, 4)))

    torch.manual_seed(0)
    model = Net().eval()
    for tested in (model, so.optimize_for_inference(model)):
        with so.record(tested) as r:
            tested(torch.rand(3, 3, 16, 16))
        assert r.macs == {"stem": 3 * 16 * 16 * 48, "head": 3 * 160}
        fan_out = [16, 16, 16, 64, 16]
        assert list(r.sops.values()) == [
            brute.linear(s, n) for s, n in zip(r.spikes.values(), fan_out, strict=True)
        ]
        assert not r.uncounted


# -- What stays integers from spikes --------------------------------------------------------------

STAY = {
    "reshape": lambda s: s.reshape(-1, 4, 6).permute(2, 0, 1),
    "slices": lambda s: torch.cat([s[:, :1], s.flip(0)[:, 1:]], 1),
    "stack": lambda s: torch.stack([s[t] for t in range(len(s))]),
    "index": lambda s: s[:, [1, 0, 1]].repeat(2, 1, 1, 1),
    "pad": lambda s: F.pad(s, (1, 2)),
    "circular": lambda s: F.pad(s.flatten(0, 1), (1, 1), mode="circular"),
    "sum over time": lambda s: s.sum(0),
    "pooling sums": lambda s: F.avg_pool2d(s, 2, divisor_override=1),
    "max-pool": lambda s: F.max_pool2d(s, 2),
    "max-pool 1d": lambda s: F.max_pool1d(s.flatten(0, 1), 3),
    "any over time": lambda s: s.amax(0),
    "twice": lambda s: s + s,
    "times 3": lambda s: 3 * s,
    "float64": lambda s: s.double(),
    "bool": lambda s: s.bool().float(),
    "positive": lambda s: (s > 0).to(s),
    "relu": F.relu,
    "clamp": lambda s: (3 * s).clamp(0, 2).clamp(max=1),
    "dropout in eval": lambda s: F.dropout(s, 0.5, training=False),
    "masked": lambda s: s * (torch.arange(s.shape[-1]) > 1),
    "gate": lambda s: s * s.roll(1, 0),
    "masked_fill": lambda s: s.masked_fill(torch.arange(s.shape[-1]) > 1, 0.0),
    "nearest": lambda s: F.interpolate(s, scale_factor=2),
    "accumulated": lambda s: sum(s.unbind(0)),
    "buffer": lambda s: _filled(torch.empty(len(s), *s.shape[1:]), s),
    "zeros": lambda s: torch.zeros_like(s).add_(s),
    "unfold": lambda s: F.unfold(s, 3, padding=1),
    "bits": lambda s: so.functional.unpack_spikes(so.functional.pack_spikes(s), s.shape[-1]),
}
BECOME_REAL = {
    "average": lambda s: F.avg_pool2d(s, 2),
    "mean": lambda s: s.mean(0),
    "scaled": lambda s: 0.5 * s,
    "cut to a half": lambda s: s.clamp(max=0.5),
    "cut to a tensor": lambda s: s.clamp(max=torch.tensor(0.5)),
    "below zero": lambda s: s.clamp(-1, -1),
    "times infinity": lambda s: (s * float("inf")).nan_to_num(0.0, posinf=1.0),
    "complex": lambda s: (s * 1j).imag,
    "complement": lambda s: 1 - s,
    "difference": lambda s: s[1:] - s[:-1],
    "normalised": lambda s: F.layer_norm(s, s.shape[-1:]),
    "dropout in training": lambda s: F.dropout(s, 0.5, training=True),
    "with an image": lambda s: torch.cat([s, torch.rand_like(s)]),
    "overwritten": lambda s: s.clone().mul_(0.5),
    "buffer": lambda s: _filled(torch.rand(1, *s.shape[1:]).repeat(len(s), 1, 1, 1), s[:1]),
}


def _filled(buffer: Tensor, s: Tensor) -> Tensor:
    for t in range(len(s)):
        buffer[t] = s[t]
    return buffer


class Between(nn.Module):
    def __init__(self, change) -> None:
        super().__init__()
        self.lif = so.LIF()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        y = self.change(self.lif(x))
        self.read = y.detach().clone()
        return F.linear(y, torch.ones(7, y.shape[-1], dtype=y.dtype))


@pytest.mark.parametrize("name", STAY)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_spikes_that_are_moved_and_added_stay_spikes(name, mode):
    model = Between(STAY[name])
    with mode(), so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    assert r.sops == {"lif": brute.linear(model.read, 7)} and r.sops["lif"] > 0
    assert not r.macs and not r.uncounted


@pytest.mark.parametrize("name", BECOME_REAL)
def test_anything_else_makes_real_numbers_of_them(name):
    model = Between(BECOME_REAL[name])
    with so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    assert r.macs == {"": model.read.numel() * 7}
    assert not r.sops and not r.uncounted


# -- Several populations ---------------------------------------------------------------------------


class Residual(nn.Module):
    """Two populations whose spikes are added (as in SEW-ResNet) before layers read them."""

    def __init__(self, join) -> None:
        super().__init__()
        self.a, self.b = so.LIF(), so.LIF(threshold=0.6)
        self.fc = nn.Linear(6, 5)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.join(self.a(x), self.b(x)))


def _in_place(a: Tensor, b: Tensor) -> Tensor:
    total = a.clone()
    total[1:] += b[1:]
    return total


def _assembled(a: Tensor, b: Tensor) -> Tensor:
    buffer = torch.zeros(2, *a.shape)
    buffer[0], buffer[1] = a, b
    return buffer.sum(0)


# Name -> how they are joined, and how much of a and b the layer reads.
JOINS = {
    "sum": (lambda a, b: a + b, lambda a, b: (a, b)),
    "strides": (lambda a, b: (a.transpose(1, 2) + b.transpose(1, 2)), lambda a, b: (a, b)),
    "sums of sums": (lambda a, b: (a + b) + 2 * b, lambda a, b: (a, 3 * b)),
    "cat": (lambda a, b: torch.cat([a, b[:1]]), lambda a, b: (a, b[:1])),
    "views": (lambda a, b: (a + b)[1:, :, ::2].mT.mT, lambda a, b: (a[1:, :, ::2], b[1:, :, ::2])),
    "in place": (_in_place, lambda a, b: (a, b[1:])),
    "assembled": (_assembled, lambda a, b: (a, b)),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_summed_spikes_count_for_the_population_they_come_from(name):
    join, parts = JOINS[name]
    model = Residual(join)
    with so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    read = parts(*(r.spikes[path].long() for path in "ab"))
    assert r.sops == {p: brute.linear(s, 5) for p, s in zip("ab", read, strict=True)}
    assert not r.macs and not r.uncounted


def test_what_cannot_be_told_apart_is_counted_for_both():
    model = Residual(lambda a, b: torch.maximum(a, b))
    with so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    assert r.sops == {"a + b": brute.linear(r.spikes["a"] | r.spikes["b"], 5)}


# -- Attention -------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.q, self.k, self.v = so.LIF(0.8), so.LIF(1.1), so.LIF(0.9)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.q(x), self.k(x.flip(-1)), self.v(x))


ATTENTION = {
    "matmul": lambda q, k, v: (q @ k.transpose(-1, -2)) @ v,
    "einsum": lambda q, k, v: torch.einsum(
        "tbhnm,tbhmc->tbhnc", torch.einsum("tbhnc,tbhmc->tbhnm", q, k), v
    ),
    "bmm": lambda q, k, v: torch.bmm(
        torch.bmm(*(x.flatten(0, 2) for x in (q, k.mT))).softmax(-1), v.flatten(0, 2)
    ),
    "kernel": F.scaled_dot_product_attention,
    "kernel, masked": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.rand(3, 3).to(q).requires_grad_()
    ),
    "kernel, grouped": lambda q, k, v: F.scaled_dot_product_attention(
        q, k[:, :, :1], v[:, :, :1], enable_gqa=True
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_spiking_attention(name):
    model = Attention(ATTENTION[name])
    with so.record(model) as r:
        model(spiking(2, 2, 2, 3, 4))
    q, k, v = r.spikes.values()
    if "grouped" in name:
        k, v = (x[:, :, :1].expand_as(x) for x in (k, v))
    assert r.sops == {"k": brute.pairs(q, k), "v": brute.linear(v, 3)}
    assert min(r.sops.values()) > 0 and not r.macs and not r.uncounted


def test_dense_attention_is_multiply_accumulates():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), so.LIF()).eval()
    with torch.no_grad(), so.record(model) as r:
        model(torch.randn(2, 5, 8))
    attention = 2 * 2 * 2 * 5 * 5 * 4  # batch, heads, products, queries, keys, channels per head
    linear = [10 * 8 * 24, 10 * 8 * 8, 10 * 8 * 16, 10 * 8 * 16]
    assert sum(r.macs.values()) == attention + sum(linear)
    assert not r.uncounted


# -- Fused paths, replaced layers ------------------------------------------------------------------


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.Linear(base.in_features, 2, bias=False)
        self.b = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


@pytest.mark.parametrize("path", ["token_mixer.fc1", "token_mixer.fc2", "channel_mlp.fc2"])
def test_a_wrapped_layer_is_counted_as_what_it_computes(path):
    def model() -> so.STMixer:
        torch.manual_seed(0)
        return so.STMixer(
            img_size=16, embed_dim=16, depth=2, num_heads=4, T=2, threshold=0.3
        ).eval()

    wrapped = model()
    branch, name = path.split(".")
    lora = LoRA(getattr(getattr(wrapped.blocks[0], branch), name))
    nn.init.zeros_(lora.b.weight)  # the same spikes as without
    setattr(getattr(wrapped.blocks[0], branch), name, lora)
    with so.record(model()) as plain:
        model_output = plain._model(spiking(2, 3, 16, 16))
    with so.record(wrapped) as r:
        assert torch.equal(wrapped(spiking(2, 3, 16, 16)), model_output)
    source = {"token_mixer.fc1": "lif1", "token_mixer.fc2": "lif3", "channel_mlp.fc2": "lif2"}
    lif = f"blocks.0.{branch}.{source[path]}"
    spikes = int(r.spikes[lif].sum())
    assert r.sops == plain.sops | {lif: spikes * (lora.base.out_features + 2)}
    assert spikes > 0 and not r.uncounted
    added = {f"blocks.0.{path}.b": 2 * 2 * 16 * 2 * lora.base.out_features}
    assert r.macs == plain.macs | added


@pytest.mark.parametrize("backend", [None, "reference"])
def test_fused_paths_outside_of_the_models(backend):
    """A folded convolution that reads bits, token mixing called as a function."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = ConvBNLIF(SpikeConv2d(3, 40, 3, 2, 1), so.LIF(0.1))
            self.second = ConvBNLIF(SpikeConv2d(40, 8, 3, 1, 1), so.LIF(0.1))
            self.register_buffer("mix", torch.rand(2, 9, 9))

        def forward(self, x: Tensor) -> Tensor:
            spikes = self.first.run(Spikes(x.permute(0, 1, 3, 4, 2)), pack="only")
            s, _ = self.second.run(spikes)
            tokens = s.flatten(2, 3).transpose(2, 3)
            y = so.functional.token_mix(tokens, self.mix)
            return y.sum() + so.functional.token_mix_lif(tokens, self.mix).sum()

    torch.manual_seed(0)
    model = so.optimize_for_inference(Net().eval())
    with so.use_backend(backend) if backend else contextlib.nullcontext(), so.record(model) as r:
        model(spiking(2, 1, 3, 6, 6))
    first, second = r.spikes["first.lif"], r.spikes["second.lif"]
    conv = SpikeConv2d(40, 8, 3, 1, 1)
    assert r.sops == {
        "first.lif": brute.convolution(first.flatten(0, 1), conv),
        "second.lif": brute.linear(second, 2 * 9),
    }
    assert min(r.sops.values()) > 0 and not r.uncounted
    assert list(r.macs.values()) == [2 * 3 * 3 * 40 * 27]
