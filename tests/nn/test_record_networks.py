"""SOPs and MACs of networks that this library does not know, against loops over single spikes."""

from __future__ import annotations

import contextlib
import csv

import pytest
import torch
import torch.nn.functional as F
from support import sops as brute
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops.nn.embed import ConvBNLIF
from stmixer_ops.nn.layers import SpikeConv2d


def spiking(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(*shape) * 2


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


class Own(nn.Module):
    """Convolution, LIF, convolution, LIF, sums over 2x2, linear: nothing of it wired by anybody."""

    def __init__(self, T: int = 3) -> None:
        super().__init__()
        self.T = T
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.lif1 = so.LIF(threshold=0.2)
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.lif2 = so.LIF(threshold=0.3)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).expand(self.T, -1, -1, -1, -1)
        y = self.bn(self.conv(self.lif1(y).flatten(0, 1)))
        y = self.lif2(y.unflatten(0, (self.T, -1))).flatten(0, 1)
        y = F.avg_pool2d(y, 2, divisor_override=1)
        return self.head(self.drop(y).flatten(1)).unflatten(0, (self.T, -1)).mean(0)


def own(**options) -> Own:
    torch.manual_seed(0)
    return Own(**options)


def expected_of_own(r, images: int) -> tuple[dict, dict]:
    lif1, lif2 = (r.spikes[f"lif{i}"].flatten(0, 1) for i in (1, 2))
    pooled = lif2.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2))
    sops = {"lif1": brute.convolution(lif1, own().conv), "lif2": brute.linear(pooled, 5)}
    return sops, {"stem": images * 8 * 8 * 4 * 2 * 9}


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
            spikes = self.first.run((x.permute(0, 1, 3, 4, 2), None), pack="only")
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


# -- What is said rather than counted --------------------------------------------------------------


@torch.library.custom_op("stmixer_test::mystery", mutates_args=())
def mystery(x: Tensor) -> Tensor:
    return x @ x.mT


def _parts(layer: nn.Module, calls) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif, self.layer = so.LIF(), layer

        def forward(self, x: Tensor) -> Tensor:
            return calls(self.layer, self.lif(x))

    return Net()


UNCOUNTED = {
    "bilinear": (nn.Bilinear(6, 6, 3), lambda layer, s: layer(s, s), "layer", "_trilinear"),
    "foreign": (nn.Identity(), lambda layer, s: mystery(layer(s)), "(model)", "mystery"),
    "distances": (nn.Identity(), lambda layer, s: torch.cdist(s, s), "(model)", "cdist"),
    "sparse": (nn.Identity(), lambda _, s: s[0, 0].to_sparse() @ s[0, 0].mT, "(model)", "sparse"),
    "weights": (nn.Identity(), lambda layer, s: F.conv1d(s[0], s[0]), "(model)", "weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_nobody_can_count_is_listed(name):
    layer, calls, path, reason = UNCOUNTED[name]
    model = _parts(layer, calls)
    with so.record(model) as r:
        model(spiking(3, 2, 4, 6))
    assert set(r.uncounted) == {path} and reason in r.uncounted[path]
    assert f"uncounted: {path}" in r.table()


def test_an_image_of_zeros_costs_what_any_image_costs():
    model = own().eval()
    with so.record(model) as r:
        model(torch.zeros(1, 2, 8, 8))
    assert r.macs == {"stem": 8 * 8 * 4 * 2 * 9}


def test_nothing_but_the_model_counts():
    model, other = own().eval(), nn.Linear(3, 3)
    with so.record(model) as r:
        other(torch.rand(2, 3))
        y = model(torch.rand(1, 2, 8, 8))
        other(y[:, :3])
    assert set(r.macs) == {"stem"} and not r.uncounted
    with so.record(model) as r:
        model(torch.rand(1, 2, 8, 8)) @ torch.rand(5, 5)
    assert set(r.macs) == {"stem"}
    assert "outside" in r.uncounted["(model)"]


# -- Table, CSV, repr -----------------------------------------------------------------------------


def test_table_and_csv_add_up(tmp_path):
    model = own().eval()
    with so.record(model) as r:
        model(torch.rand(2, 2, 8, 8))
    r.to_csv(tmp_path / "cost.csv")
    rows = list(csv.DictReader((tmp_path / "cost.csv").read_text().splitlines()))
    assert [row["layer"] for row in rows] == ["stem", "lif1", "lif2"]
    assert [int(row["neurons"]) for row in rows] == [0, 4 * 64, 6 * 16]
    assert rows[0]["rate"] == "" and float(rows[1]["rate"]) == r.rates["lif1"]
    totals = {"macs": r.macs, "sops": r.sops, "spikes": r.counts}
    for field, values in totals.items():
        assert sum(float(row[field]) for row in rows) == sum(values.values()) / 2
    assert {row["layer"]: float(row["energy_pj"]) for row in rows} == pytest.approx(r.energies)
    assert sum(r.energies.values()) == pytest.approx(r.energy())
    lines = r.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "per",
        "─" * len(lines[1]),
        "stem",
        "lif1",
        "lif2",
        "total",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "cost.csv"]
    text = repr(r)
    assert text.startswith("record(2 LIFs, 2 images: rate 0.") and "uncounted" not in text
    empty = so.record(model)
    assert empty.energy() == 0 and "0 images" in repr(empty) and "total" in empty.table()


def test_engine_has_the_same_table(tmp_path):
    torch.manual_seed(0)
    model = so.STMixer(img_size=16, embed_dim=16, depth=2, num_heads=4, threshold=0.3).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad(), so.record(model) as r:
        model(x)
    stats = so.Engine.compile(model).run(x).stats
    assert stats.energies == pytest.approx(r.energies)
    assert stats.energy() == pytest.approx(r.energy(), rel=1e-12)
    assert sorted(stats.table().splitlines()) == sorted(r.table().splitlines())
    files = [tmp_path / "engine.csv", tmp_path / "torch.csv"]
    for source, path in zip((stats, r), files, strict=True):
        source.to_csv(path)
    engine, torch_ = (sorted(path.read_text().splitlines()) for path in files)
    assert engine == torch_


# -- Calls -----------------------------------------------------------------------------------------


def test_calls_of_different_length_and_batch_add_up():
    model = own().eval()
    x = torch.rand(4, 2, 8, 8)
    single = []
    for T, batch in ((3, x[:3]), (5, x[3:])):
        model.T = T
        with so.record(model) as r:
            model(batch)
        single.append(r)
    with so.record(model) as both:
        for T, batch in ((3, x[:3]), (5, x[3:])):
            model.T = T
            model(batch)
    for field in ("counts", "neuron_steps", "sops", "macs"):
        sums = [getattr(single[0], field), getattr(single[1], field)]
        assert getattr(both, field) == {p: sums[0][p] + sums[1][p] for p in sums[0]}, field
    assert both.images == 4
    assert both.dense_macs == single[0].dense_macs == single[1].dense_macs
    assert both.spikes["lif1"].shape[:2] == (5, 1)  # of the last call


def test_steps_one_by_one_are_one_image():
    class Stepwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lif, self.fc = so.LIF(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            state, outputs = None, []
            for step in x:
                s, state = self.lif(step[None], state, return_state=True)
                outputs.append(self.fc(s[0]))
            return torch.stack(outputs)

    model, x = Stepwise(), spiking(4, 3, 6)
    with so.record(model) as r:
        model(x)
    assert r.images == 3
    assert r.sops == {"lif": 5 * int(so.LIF()(x).sum())}
    assert r.dense_macs == {"lif": 30}


def test_recorders_nest_and_end_with_an_error():
    model = own().eval()
    with so.record(model) as outer:
        with pytest.raises(RuntimeError, match="channels"), so.record(model) as inner:
            model(torch.rand(1, 2, 8, 8))
            model(torch.rand(1, 3, 8, 8))
        model(torch.rand(1, 2, 8, 8))
    assert inner.images == 1 and outer.images == 2
    assert inner.macs["stem"] * 2 == outer.macs["stem"]
    assert not so.LIF.observers and not inner._stack
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
    assert torch._C._len_torch_dispatch_stack() == 0 == torch._C._len_torch_function_stack()
    with inner:  # once more: adds up
        model(torch.rand(1, 2, 8, 8))
        with pytest.raises(RuntimeError, match="recording already"):
            inner.__enter__()
    assert inner.images == 2


def test_what_a_checkpoint_computes_again_does_not_count():
    model = own()
    with so.record(model) as r:
        y = torch.utils.checkpoint.checkpoint(model, torch.rand(2, 2, 8, 8), use_reentrant=False)
        y.sum().backward()
    assert (r.sops, r.macs) == expected_of_own(r, 2)
    assert r.images == 2


def test_wrappers_leave_no_trace_in_paths():
    model = own().eval()
    with so.record(model) as plain:
        model(torch.rand(1, 2, 8, 8))
    model.conv = torch.compile(model.conv, backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(model))
    with so.record(averaged) as r:
        averaged(torch.rand(1, 2, 8, 8))
    assert set(r.macs) == set(plain.macs) and set(r.sops) == set(plain.sops)
    assert r.images == 1
