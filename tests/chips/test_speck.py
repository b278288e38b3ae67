"""Speck: the formulas of its memories, which layer finds a core, and the worked example."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from support.chip_networks import conv, dvs_net, fired, joined, read_out
from torch import nn

import stmixer_ops as so
from stmixer_ops.chips.matching import largest_matching
from stmixer_ops.chips.speck_cores import bits, kernel_words, neuron_words

KERNEL_WORDS = [16384, 16384, 16384, 32768, 32768, 65536, 65536, 16384, 16384]
NEURON_WORDS = [65536, 65536, 65536, 32768, 32768, 16384, 16384, 16384, 16384]


def findings(report: so.chips.Report, rule: str) -> dict[str, so.chips.Finding]:
    return {f.layer: f for f in report.findings if f.rule == rule}


def test_words_that_layers_take() -> None:
    """The example of the documentation, and sizes that are no powers of two."""
    assert kernel_words(16, 32, 3, 3) == 8 * 1024
    assert neuron_words(32, 64, 64) == 128 * 1024
    assert kernel_words(7, 5, 3, 3) == 7 * 16 * 8
    assert neuron_words(3, 5, 9) == 3 * 8 * 16
    for n in range(1, 70):
        assert 2 ** bits(n) == next(2**k for k in range(8) if 2**k >= n)


def test_the_worked_example() -> None:
    """4-384-16 at 32x32: what it needs, what is there, and what would fit."""
    report = so.check_async("stmixer_4_384_16.cifar10", "speck2f")
    kernels, neurons = findings(report, "kernel memory"), findings(report, "neuron memory")
    for layer in ("token_mixer.fc1", "token_mixer.fc2"):
        found = kernels[f"blocks.0.{layer}"]
        assert (found.need, found.allowed) == (196_608, 65_536)  # 384 * 512
        assert found.fits == "D <= 256 (now 384)"
    assert kernels["patch_embed.main.1.conv"].need == 48 * 16 * 128
    assert kernels["patch_embed.main.1.conv"].fits == "D <= 256 (now 384)"  # a multiple of 8
    assert kernels["blocks.3.channel_mlp.fc1"].need == 384 * 2048
    assert kernels["blocks.3.channel_mlp.fc1"].fits == "D <= 128 (now 384)"
    hidden = neurons["blocks.2.channel_mlp.lif2"]
    assert (hidden.need, hidden.allowed) == (98_304, 65_536)  # 1536 * 64
    assert hidden.fits == "D <= 256 (now 384) or N <= 32 (now 64)"
    mixing = findings(report, "token mixing")["blocks.0.token_mixer.stm"]
    assert "4,096 kernel words a head would fit" in mixing.fits and mixing.severity == "blocks"
    assert kernel_words(64, 64, 1, 1) == 64**2 <= min(KERNEL_WORDS)
    stream = findings(report, "fan-out of cores")["patch_embed.main.3.lif"]
    assert (stream.need, stream.allowed) == (8, 2)
    assert not report.ok


def test_pixels_do_not_grow_with_the_width() -> None:
    """70 channels of 3x3 into 48, an eighth of D: 70 * 16 * 64 words; into 32 there is room."""
    model = so.STMixer(32, 70, embed_dim=384, depth=1, num_heads=4).eval()
    found = findings(so.check_async(model, "speck2f"), "kernel memory")["patch_embed.main.0.conv"]
    assert found.need == 70 * 16 * 64 and found.fits == "D <= 256 (now 384)"


def test_populations_against_cores() -> None:
    report = so.check_async("stmixer_2_256_16.cifar10dvs", "speck2f")
    found = findings(report, "cores")[""]
    assert (found.need, found.allowed) == (14, 9)
    assert found.fits.startswith("depth <= 1 (now 2)")


@pytest.mark.parametrize(("depth", "width", "size"), [(1, 8, 4), (1, 32, 16), (2, 64, 32)])
def test_no_stmixer_fits(depth: int, width: int, size: int) -> None:
    model = so.STMixer(
        size, 2, depth=depth, embed_dim=width, num_heads=2, decay=1.0, reset="soft"
    ).eval()  # fmt: skip
    report = so.check_async(model, "speck2f")
    assert not report.of("needs a clock")
    assert {f.rule for f in report.of("blocks")} >= {"token mixing", "one kernel a core"}


def test_a_small_convolutional_network_fits() -> None:
    report = so.check_async(dvs_net().eval(), "speck2f", input_shape=(2, 64, 64))
    assert report.ok and not report.of("blocks") and "breaks no rule" in str(report)
    words = {  # by hand: kernels of 3x3 take 16 words, of 4x4 too
        "1": (2 * 16 * 8, 8 * 32 * 32),
        "4": (8 * 16 * 16, 16 * 16 * 16),
        "7": (16 * 16 * 16, 16 * 8 * 8),
        "11": (16 * 16 * 16, 10),
    }
    assert list(report.cores) == list(words) and len(set(report.cores.values())) == 4
    for path, (kernel, neurons) in words.items():
        core = report.cores[path]
        assert kernel <= KERNEL_WORDS[core] and neurons <= NEURON_WORDS[core]


@pytest.mark.parametrize(("layers", "fits"), [(2, True), (3, False)])
def test_layers_that_need_the_same_cores(layers: int, fits: bool) -> None:
    """Kernels of 65,536 words have two cores. Three such layers have room in the sum."""
    sizes = [128, 512, 128, 512][: layers + 1]
    stages = [m for a, b in itertools.pairwise(sizes) for m in (conv(a, b, 1), fired())]
    report = so.check_async(nn.Sequential(*stages).eval(), "speck2f", input_shape=(128, 2, 2))
    assert report.ok == fits
    assert sorted(report.cores.values()) == [5, 6]
    if not fits:
        (found,) = findings(report, "cores").values()
        assert (found.need, found.allowed) == (3, 2) and "cores 5, 6" in found.fits


def test_memory_of_one_core() -> None:
    """24,576 kernel words and 65,536 of neurons: there is either, but not in one core."""
    net = nn.Sequential(conv(24, 64, 3, 1, 1), fired(), conv(64, 16, 3, 1, 1), fired())
    report = so.check_async(net.eval(), "speck2f", input_shape=(24, 32, 32))
    (found,) = findings(report, "memory of one core").values()
    assert (found.layer, found.need) == ("1", "24,576+65,536") and found.severity == "blocks"
    assert "3" in report.cores and "1" not in report.cores


def test_the_matching_is_a_largest_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        candidates = {
            name: [core for core in range(4) if rng.random() < 0.35] for name in "abcd"
        }  # fmt: skip
        best = max(
            sum(core in candidates[name] for name, core in zip("abcd", order, strict=True))
            for order in itertools.permutations(range(4))
        )
        found = largest_matching(candidates)
        assert len(found) == best == len(set(found.values()))
        assert all(core in candidates[name] for name, core in found.items())


def test_sources_share_the_kernel_of_a_core() -> None:
    """3x3 with border 1 holds 1x1 with border 0: 300 + 400 channels of 16 taps into 64."""
    report = so.check_async(joined(64, (300, 3, 1, 1), (400, 1, 1, 0)), "speck2f")
    assert findings(report, "kernel memory")["lif"].need == 700 * 16 * 64
    assert not findings(report, "one kernel a core")
    shifted = so.check_async(joined(64, (300, 2, 2, 0), (400, 5, 2, 2)), "speck2f")
    assert findings(shifted, "kernel memory")["lif"].need == 700 * 32 * 64  # 5x5
    aligned = so.check_async(joined(64, (300, 4, 2, 1), (400, 2, 2, 0)), "speck2f")
    assert findings(aligned, "kernel memory")["lif"].need == 700 * 16 * 64  # 4x4
    longer = so.check_async(joined(64, (300, 8, 4, 3), (400, 8, 4, 2)), "speck2f")
    assert findings(longer, "kernel memory")["lif"].need == 700 * 128 * 64  # 3 before, 6 behind


def test_sources_that_share_channels() -> None:
    """Two layers that read one source, or two sources that a graded population sums."""
    graph = joined(4, (600, 1, 1, 0), (600, 1, 1, 0))
    assert findings(so.check_async(graph, "speck2f"), "input channels")["lif"].need == 1200
    graph.currents[2]["projections"][1]["source"] = "lif0"
    assert "lif" not in findings(so.check_async(graph, "speck2f"), "input channels")
    graph = joined(4, (600, 1, 1, 0), (600, 1, 1, 0))
    terms = [graph.projection(f"term{i}", "identity", f"lif{i}") for i in (0, 1)]
    graph.add_current("both", (600, 8, 8), terms)
    graph.add_graded("stream", "both", (600, 8, 8))
    del graph.currents[2]["projections"][1]
    graph.currents[2]["projections"][0]["source"] = "stream"
    report = so.check_async(graph, "speck2f")
    assert "lif" not in findings(report, "input channels")
    assert report.layers[-1].fan_in == 2 * 600
    assert report.layers[0].fan_out == report.layers[1].fan_out == 4


def test_sources_of_two_strides_share_none() -> None:
    report = so.check_async(joined(16, (8, 3, 2, 1), (8, 1, 1, 0)), "speck2f")
    (found,) = findings(report, "one kernel a core").values()
    assert (found.layer, found.need, found.severity) == ("lif", "strides 1, 2", "blocks")
    # Each layer is held against the limits by itself.
    wide = so.check_async(joined(16, (900, 16, 2, 7), (900, 1, 1, 0)), "speck2f")
    assert {"kernel size", "input channels"}.isdisjoint(f.rule for f in wide.findings)
    assert findings(wide, "kernel memory")["layer0"].need == 900 * 256 * 16
    assert "lif" not in report.cores and not report.ok


@pytest.mark.parametrize(("fan_out", "fits"), [(2, True), (3, False)])
def test_a_core_has_two_destinations(fan_out: int, fits: bool) -> None:
    graph = joined(4, (4, 1, 1, 0))
    for i in range(fan_out - 1):  # beside "lif" itself
        weight = np.full((4, 4), 0.25)
        more = graph.projection(f"more{i}", "linear", "lif0", weight)
        graph.add_current(f"more_sum{i}", (4, 8, 8), [more])
        graph.add_lif(f"more_lif{i}", f"more_sum{i}", (4, 8, 8), decay=1.0, soft_reset=True)
    report = so.check_async(graph, "speck2f")
    assert report.ok == fits
    if not fits:
        found = findings(report, "fan-out of cores")["lif0"]
        assert (found.need, found.allowed, found.severity) == (3, 2, "blocks")


@pytest.mark.parametrize(
    ("layer", "inputs", "rule", "need"),
    [
        (conv(1, 4, 17, 1, 7), 32, "kernel size", 17),
        (conv(1, 4, 3, 3, 1), 32, "stride", 3),
        (conv(1, 4, 16, 1, 8), 16, "padding", 8),
        (conv(1025, 4, 1), 2, "input channels", 1025),
        (conv(1, 1030, 1), 2, "channels", 1030),
        (conv(1, 1, 3, 1, 1), 65, "map size", "65x65"),
        (conv(1, 1, 3, 4, 1), 129, "input size", "129x129"),
    ],
)
def test_shapes(layer: nn.Conv2d, inputs: int, rule: str, need: object) -> None:
    net = nn.Sequential(layer, fired()).eval()
    shape = (layer.in_channels, inputs, inputs)
    report = so.check_async(net, "speck2f", input_shape=shape)
    (found,) = findings(report, rule).values()
    assert (found.need, found.severity) == (need, "blocks")


@pytest.mark.parametrize(("weight", "blocks"), [(0.005, False), (0.003, True), (-0.003, True)])
def test_the_threshold_in_steps_of_the_weights(weight: float, blocks: bool) -> None:
    """127 steps are the largest weight: thresholds up to 32,767 steps are 258 weights."""
    layer = conv(1, 1, 1)
    nn.init.constant_(layer.weight, weight)
    report = so.check_async(nn.Sequential(layer, fired()), "speck2f", input_shape=(1, 4, 4))
    found = findings(report, "threshold")
    assert bool(found) == blocks
    if found:
        assert found["1"].need == 42_334 and found["1"].allowed == 32_767  # 127 / .003


def test_pools_of_a_graph_are_those_of_modules() -> None:
    """Two layers with an average of neighbours between, either way."""
    net = nn.Sequential(
        conv(2, 8, 3, 1, 1), fired(), nn.AvgPool2d(2), conv(8, 4, 3, 1, 1), fired()
    ).eval()
    graph = so.Graph()
    graph.add_input("input", (2, 16, 16))
    first = graph.projection("0", "conv", "input", net[0].weight, padding=1)
    graph.add_current("a", (8, 16, 16), [first])
    graph.add_lif("1", "a", (8, 16, 16), decay=1.0, soft_reset=True)
    graph.add_current("b", (8, 8, 8), [graph.projection("2", "avg_pool", "1", kernel=2, stride=2)])
    graph.add_graded("pooled", "b", (8, 8, 8))
    second = graph.projection("3", "conv", "pooled", net[3].weight, padding=1)
    graph.add_current("c", (4, 8, 8), [second])
    graph.add_lif("4", "c", (4, 8, 8), decay=1.0, soft_reset=True)
    read_out(graph, "4", (4, 8, 8))
    ours, theirs = (
        so.check_async(graph, "speck2f"),
        so.check_async(net, "speck2f", input_shape=(2, 16, 16)),
    )
    assert ours.ok and ours.cores == theirs.cores
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert replace(a, largest_weight=b.largest_weight) == b
        assert a.largest_weight == pytest.approx(b.largest_weight)
    assert ours.layers[0].fan_out == 9 * 4  # each of four neighbours reaches the same nine


def test_pools_of_pools() -> None:
    graph = so.Graph()
    graph.add_input("input", (1, 16, 16))
    graph.add_current(
        "a", (1, 8, 8), [graph.projection("a", "avg_pool", "input", kernel=2, stride=2)]
    )
    graph.add_graded("b", "a", (1, 8, 8))
    graph.add_current("c", (1, 4, 4), [graph.projection("c", "avg_pool", "b", kernel=2, stride=2)])
    graph.add_graded("d", "c", (1, 4, 4))
    layer = graph.projection("layer", "linear", "d", np.full((3, 1), 8.0))
    graph.add_current("sum", (3, 4, 4), [layer])
    graph.add_lif("lif", "sum", (3, 4, 4), decay=1.0, soft_reset=True)
    report = so.check_async(read_out(graph, "lif", (3, 4, 4)))
    (row,) = report.layers
    assert (row.synapses, row.fan_in, row.largest_weight) == (256 * 3, 1, 0.5)  # 8 / 16


@pytest.mark.parametrize(("edge", "fits"), [(2, True), (4, True), (8, False)])
def test_sums_of_neighbours(edge: int, fits: bool) -> None:
    net = nn.Sequential(
        conv(2, 4, 3, 1, 1), fired(), nn.AvgPool2d(edge), conv(4, 4, 3, 1, 1), fired()
    )
    report = so.check_async(net.eval(), "speck2f", input_shape=(2, 32, 32))
    assert report.ok == fits and bool(findings(report, "pooling")) != fits
