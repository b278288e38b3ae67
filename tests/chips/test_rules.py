"""What any chip asks of a network, and the figures that are counted for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.chip_networks import conv, fired, joined, one_layer
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops.chips.network import Synapses
from stmixer_ops.graph.quantize import quantize


def found(report: so.chips.Report, rule: str) -> dict[str, so.chips.Finding]:
    return {f.layer: f for f in report.findings if f.rule == rule}


def small(**options: object) -> so.STMixer:
    torch.manual_seed(0)
    defaults = {"img_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 4}
    return so.STMixer(**{**defaults, **options}).eval()  # type: ignore[arg-type]


# -- Counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((6, 6), 3, 1, 1), ((7, 5), 3, 2, 1), ((8, 8), 4, 4, 0), ((4, 6), 5, 1, 2), ((9, 9), 2, 3, 0)],
)
def test_synapses_of_a_convolution(
    size: tuple[int, int], kernel: int, stride: int, padding: int
) -> None:
    """Against the matrix of the convolution, written out by PyTorch: what it does to each pixel."""
    channels, out = 3, 5
    pixels = torch.eye(size[0] * size[1]).view(-1, 1, *size)
    reached = nn.functional.conv2d(
        pixels, torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding
    ).flatten(1)  # [pixel, output]
    grid = nn.functional.conv2d(
        torch.zeros(1, 1, *size), torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding
    ).shape[2:]
    synapses = Synapses(
        "x", "conv", "input", np.ones((out, channels, kernel, kernel)), np.ones((1, 1, 1, 1)),
        (channels, *size), (out, *grid), stride, padding,
    )  # fmt: skip
    assert synapses.count == int(reached.sum()) * channels * out
    assert synapses.fan_in == int(reached.sum(0).max()) * channels
    expected = reached.sum(1).view(size) * out
    np.testing.assert_array_equal(synapses.fan_out, expected.numpy())


def test_layers_of_a_small_stmixer() -> None:
    """2-32 at 16x16: figures by hand. The stream adds up what all blocks before brought."""
    rows = {row.path: row for row in so.check_async(small(depth=2)).layers}
    assert len(rows) == 4 + 2 * 5
    assert [r.neurons for r in list(rows.values())[:4]] == [4 * 256, 8 * 256, 16 * 256, 32 * 64]
    hidden = rows["blocks.0.channel_mlp.lif2"]
    assert (hidden.neurons, hidden.weights, hidden.fan_in) == (128 * 16, 32 * 128, 32)
    assert hidden.synapses == 16 * 32 * 128
    mixed = rows["blocks.1.token_mixer.lif3"]
    assert (mixed.weights, mixed.synapses, mixed.fan_in) == (4 * 16 * 16, 32 * 16 * 16, 16)
    protected, main = 3 * 4 * 4, 9 * 32  # of an inner token: 4x4 pixels, 3x3 of 32 channels
    last = rows["blocks.1.channel_mlp.lif1"]
    assert last.fan_in == protected + main + 32 + 128 + 32
    assert last.kernel == 4
    # Two branches of block 1 and the second of block 0 read what block 0's token mixer adds.
    assert rows["blocks.0.token_mixer.lif3"].fan_out == 3 * 32
    assert rows["blocks.1.channel_mlp.lif2"].fan_out == 0  # the readout counts nowhere
    assert rows["patch_embed.main.0.lif"].fan_out == 9 * 8


def test_weights_against_the_threshold() -> None:
    """Of 0.5, 1, 2 and -3 thresholds two fire alone, and one of these reaches two."""
    for scale, threshold, factor in ((1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (1.0, 4.0, 4.0)):
        weight = np.array([[0.5, 1.0], [2.0, -3.0]]) * factor
        report = so.check_async(one_layer(weight, input_scale=scale, threshold=threshold))
        finding = found(report, "weights")["layer"]
        assert finding.need == 2.0 and finding.severity == "note"
        assert "of 4 each of 2 makes lif fire alone, and 1 reach 2 thresholds" in finding.fits
        assert "fires on every later input" in finding.fits
    per_channel = one_layer([[0.5, 0.9], [2.0, 3.0]], threshold=[1.0, 4.0])
    report = so.check_async(per_channel)
    assert report.layers[0].largest_weight == pytest.approx(0.9)
    assert "layer" not in found(report, "weights")


def test_thresholds_of_concatenated_layers() -> None:
    graph = one_layer([[0.5, 0.5], [0.0, 0.0]], threshold=[1.0, 4.0])
    first = graph.currents[0]["projections"][0]
    graph.tensors["layer.weight"] = graph.tensors["layer.weight"][:1]
    second = graph.projection("other", "linear", "input", [[3.0, 3.0]], channel_offset=1)
    graph.currents[0]["projections"] = [first, second]
    report = so.check_async(graph)
    assert report.layers[0].largest_weight == 0.75 and "other" not in found(report, "weights")


def test_biases_and_leak_need_a_clock() -> None:
    graph = one_layer([[0.5], [0.25]], bias=[0.0, -0.5], threshold=2.0, decay=0.75)
    report = so.check_async(graph)
    assert not report.ok and not report.of("blocks")
    bias, leak = found(report, "bias")["sum"], found(report, "leak")["lif"]
    assert (bias.need, bias.allowed, bias.severity) == (0.25, 0, "needs a clock")
    assert (leak.need, leak.allowed, leak.severity) == (0.75, 1, "needs a clock")
    speck = so.check_async(graph, "speck2f")
    assert not speck.ok and "slow clock" in found(speck, "leak")["lif"].fits
    stepped = so.check_async(graph, "loihi2")
    assert stepped.ok and not found(stepped, "bias") and not found(stepped, "leak")
    assert so.check_async(one_layer([[0.5]], bias=[0.0])).ok


def test_constants_that_only_the_readout_sums() -> None:
    model = small(decay=1.0, reset="soft")
    model.blocks[0].channel_mlp.bn2.bias.data.fill_(0.3)
    report = so.check_async(model)
    assert report.ok and found(report, "bias")["blocks.0.channel_mlp"].severity == "note"
    model.blocks[0].token_mixer.bn2.bias.data.fill_(0.3)
    report = so.check_async(model)
    assert not report.ok and found(report, "bias")["blocks.0.token_mixer"].need == pytest.approx(
        0.3
    )


def test_stmixer_without_leak_and_bias_needs_no_clock() -> None:
    report = so.check_async(small(decay=1.0, reset="soft", in_channels=2))
    assert report.ok and not found(report, "reset") and not found(report, "input")
    hard = so.check_async(small(decay=1.0))
    assert len(found(hard, "reset")) == 9 and found(hard, "input")["input"].need == 3


def test_an_int8_network() -> None:
    """The same figures as the real one's, weights as near as 8 bits are."""
    graph = so.Engine.compile(small()).graph
    integer = quantize(graph, int16_layers=["blocks.0.token_mixer.fc1"])
    real, report = so.check_async(graph), so.check_async(integer)
    for a, b in zip(real.layers, report.layers, strict=True):
        assert b.largest_weight == pytest.approx(a.largest_weight, rel=0.02)
        assert (a.path, a.neurons, a.synapses, a.fan_in) == (
            b.path,
            b.neurons,
            b.synapses,
            b.fan_in,
        )
    assert found(real, "weight bits")[""].need == 32
    engine = so.Engine(graph)
    assert so.check_async(engine).to_json() == real.to_json()
    assert {path: f.need for path, f in found(report, "weight bits").items()} == {
        "blocks.0.token_mixer.fc1": 16
    }
    assert found(report, "leak")["patch_embed.main.0.lif"].need == 0.5
    assert not so.check_async(integer, "loihi2").ok
    assert so.check_async(quantize(graph), "loihi2").ok


def test_biases_of_an_int8_network() -> None:
    model = small()
    model.patch_embed.main[1].bn.bias.data.fill_(0.25)
    model.blocks[0].token_mixer.bn2.bias.data.fill_(-0.5)
    biases = found(so.check_async(so.Engine.compile(model, "int8").graph), "bias")
    assert set(biases) == {"patch_embed.main.1.bn", "blocks.0.token_mixer"}
    assert biases["patch_embed.main.1.bn"].need == pytest.approx(0.25, rel=0.01)
    assert biases["blocks.0.token_mixer"].need == pytest.approx(0.5, rel=0.01)


# -- Networks with other operations, and modules that no graph holds ---------------------------


class Foreign(nn.Module):
    """Layers in no order that can be known, neurons, and something that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif, self.act = conv(2, 4, 3), fired(), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.lif(self.conv(x[0])[None]))


CASES = {
    "spikformer": (
        lambda: so.Spikformer(16, embed_dim=32, depth=1, num_heads=4, T=1),
        {"patch_embed.main.3.pool": "max pool", "blocks.0.attn": "spike product"},
    ),
    "ssa": (lambda: small(mixer="ssa"), {"blocks.0.token_mixer.ssa": "spike product"}),
    "sps": (lambda: small(patch_embed="sps"), {"patch_embed.main.2.pool": "max pool"}),
    "its own patch splitting": (lambda: so.SPS(3, 32), {"pool": "max pool"}),
    "block": (lambda: so.STMBlock(32, 16, 4), {}),
    "attention": (lambda: so.SSA(32, 4), {"": "spike product"}),
    "foreign": (Foreign, {"act": "GELU"}),
    "one layer": (lambda: nn.Linear(3, 4), {}),
    "nothing": (nn.Sequential, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_other_networks(name: str) -> None:
    """Exported with their operations, or read module by module."""
    make, operations = CASES[name]
    torch.manual_seed(0)
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reports = {chip: so.check_async(model, chip) for chip in (None, *so.chips.chip_names())}
    for chip, report in reports.items():
        assert str(report) and json.loads(report.to_json())["chip"] == chip
        rules = {(f.layer, f.rule) for f in report.findings}
        assert rules >= set(operations.items()), chip
    assert not reports["speck2f"].ok
    assert model.training and all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )
    assert not so.LIF.observers


def test_figures_of_spikformer() -> None:
    rows = {r.path: r for r in so.check_async(CASES["spikformer"][0]()).layers}
    first, hidden = rows["patch_embed.main.0.lif"], rows["blocks.0.mlp.lif1"]
    assert (first.neurons, first.weights, first.fan_in) == (4 * 256, 4 * 27, 27)
    assert (hidden.neurons, hidden.weights, hidden.fan_in) == (128 * 16, 3 * 32 * 128, 3 * 32)
    assert rows["blocks.0.attn.attn_lif"].neurons == 32 * 16
    # The stream sums the spikes of two populations for q, and of three for the MLP: graded spikes
    # are not stored, so each reaches the layer by itself.
    assert rows["blocks.0.attn.q_lif"].fan_in == 2 * 32
    assert rows["blocks.0.mlp.lif1"].fan_out == 32
    assert rows["blocks.0.attn.q_lif"].fan_out is None  # it depends on k and v
    assert rows["blocks.0.attn.proj_lif"].fan_out == 128


def test_a_network_that_hooks_keep_from_being_exported() -> None:
    """The head is defined first and drives no neurons."""
    model = CASES["spikformer"][0]()
    model.register_forward_hook(lambda *_: None)
    report = so.check_async(model)
    assert "forward hooks" in found(report, "reading")[""].fits
    rows = {r.path: r for r in report.layers}
    assert rows["patch_embed.main.0.lif"].weights == 4 * 27
    assert rows["blocks.0.mlp.lif1"].neurons == 128 * 16
    assert found(report, "spike product").keys() == {"blocks.0.attn"}


def test_batch_norm_that_does_not_fold() -> None:
    stage = nn.Sequential(conv(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), fired())
    for shape in (None, (2, 8, 8)):
        report = so.check_async(stage.eval(), input_shape=shape)
        assert found(report, "batch norm")["1"].severity == "blocks" and not report.ok
    model = small()
    model.blocks[0].token_mixer.bn1 = nn.BatchNorm1d(32, track_running_stats=False)
    assert "blocks.0.token_mixer.bn1" in found(so.check_async(model), "batch norm")


def test_layers_in_a_row_and_maxima_in_a_chain() -> None:
    row = nn.Sequential(conv(2, 4, 3), conv(4, 4, 3), fired())
    assert found(so.check_async(row, input_shape=(2, 8, 8)), "cascade")["1"].severity == "blocks"
    pooled = nn.Sequential(conv(2, 4, 3), fired(), nn.MaxPool2d(2), conv(4, 4, 1), fired())
    for chip, severity in (
        (None, "needs a clock"),
        ("speck2f", "blocks"),
        ("loihi2", "needs a clock"),
    ):
        report = so.check_async(pooled, chip, input_shape=(2, 8, 8))
        assert found(report, "max pool")["2"].severity == severity
        assert report.ok == (chip == "loihi2")


def test_a_folded_chain_has_the_bias_of_its_batch_norm() -> None:
    norm = nn.BatchNorm2d(4)
    norm.bias.data.fill_(0.5)
    net = nn.Sequential(conv(2, 4, 3), norm, fired(threshold=2.0)).eval()
    report = so.check_async(net, input_shape=(2, 8, 8))
    assert found(report, "bias")["0"].need == pytest.approx(0.25)


# -- What is refused ---------------------------------------------------------------------------


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="chip must be None or one of speck2f, .*got 'loihi3'"):
        so.check_async(small(), "loihi3")
    with pytest.raises(TypeError, match="model must be a module, a Graph, .* got int"):
        so.check_async(3)
    with pytest.raises(ValueError, match=r"input_shape must be \(C, H, W\), got \(2, 8\)"):
        so.check_async(nn.Linear(3, 4), input_shape=(2, 8))
    graph = joined(4, (4, 1, 1, 0))
    graph.populations[1]["current"] = "nowhere"
    with pytest.raises(ValueError, match="nowhere"):
        so.check_async(graph)
    model = so.Spikformer(16, embed_dim=32, depth=1, num_heads=4)
    model.blocks[0].mlp.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match="blocks.0.mlp.fc1.weight holds a value that is not finite"
    ):
        so.check_async(model)
