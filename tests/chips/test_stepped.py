"""Chips whose cores wait for each other at every step, the data file, and the command line."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.chip_networks import one_layer

import stmixer_ops as so
from stmixer_ops.chips.limits import chips, read
from stmixer_ops.cli import main


def found(report: so.chips.Report, rule: str) -> dict[str, so.chips.Finding]:
    return {f.layer: f for f in report.findings if f.rule == rule}


def test_cores_that_the_neurons_take() -> None:
    """4-384: 442,368 neurons before the blocks and 196,608 in each."""
    model = so.create_model("stmixer_4_384_16.cifar10").eval()
    neurons = 442_368 + 4 * 196_608
    for chip, each, allowed in (
        ("loihi2", 8192, 120),
        ("loihi1", 1024, 128),
        ("truenorth", 256, 4096),
    ):
        finding = found(so.check_async(model, chip), "cores for neurons")[""]
        assert finding.need == -(-neurons // each) and finding.allowed == allowed
        assert f"at most {each * allowed:,} neurons (now {neurons:,})" in finding.fits
    assert so.check_async(model, "spinnaker2").ok


def test_cores_that_the_weights_take() -> None:
    """8-768: 65 million weights against 152 times 131,072 bytes."""
    model = so.create_model("stmixer_8_768_16.in1k").eval()
    finding = found(so.check_async(model, "spinnaker2"), "cores for weights")[""]
    layers = [
        m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear, so.STM))
    ]
    weights = sum(m.weight.numel() for m in layers if m is not model.head)
    # The last layer of all reaches the readout alone.
    weights -= model.blocks[-1].channel_mlp.fc2.weight.numel()
    assert finding.need == -(-weights // 131_072) > 152


def test_fan_in_and_fan_out_give_the_width_that_fits() -> None:
    report = so.check_async("stmixer_4_384_16.cifar10", "truenorth")
    fan_in = found(report, "fan-in")
    hidden = fan_in["blocks.0.token_mixer.lif2"]
    assert (hidden.need, hidden.allowed) == (384, 256) and hidden.fits == "D <= 256 (now 384)"
    # 48 synapses of the protected pixels do not grow with D: (256 - 48) / (9 * 384) of 384.
    assert fan_in["blocks.0.token_mixer.lif1"].fits == "D <= 23 (now 384)"
    assert "blocks.0.token_mixer.lif3" not in fan_in  # 64 tokens
    fan_out = found(report, "fan-out")["blocks.0.channel_mlp.lif1"]
    assert fan_out.need == 1536 and fan_out.fits == "D <= 64 (now 384)"


def test_weights_of_few_values() -> None:
    """Per neuron, zeros left out: synapses that are not there."""
    four = one_layer([[0.1, 0.2, 0.3, 0.4, 0.0, 0.1], [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]])
    assert so.check_async(four, "truenorth").ok
    five = one_layer([[0.1, 0.2, 0.3, 0.4, 0.0, 0.5], [0.5, 0.6, 0.7, 0.8, 0.8, 0.8]])
    finding = found(so.check_async(five, "truenorth"), "weight values")["layer"]
    assert (finding.need, finding.allowed) == (5, 4)


def xylo_net(inputs: int, hidden: int, classes: int, **lif: object) -> so.Graph:
    graph = one_layer(np.full((hidden, inputs), 0.1), **lif)
    graph.currents[1]["shape"] = graph.currents[2]["shape"] = [classes, 1, 1]
    graph.populations[-1]["shape"] = [classes, 1, 1]
    graph.tensors["fc.weight"] = np.ones((classes, hidden), np.float32)
    return graph


def test_the_member_of_the_family_that_comes_nearest() -> None:
    assert so.check_async(xylo_net(16, 60, 20), "xylo").title == "Xylo Audio 3"
    assert so.check_async(xylo_net(16, 60, 20), "xylo").ok
    assert so.check_async(xylo_net(4, 60, 3), "xylo").ok
    most = so.check_async(xylo_net(17, 1025, 33, soft_reset=False), "xylo")
    need = {f.rule: (f.need, f.allowed) for f in most.of("blocks")}
    assert need == {
        "input channels": (17, 16),
        "hidden neurons": (1025, 992),
        "outputs": (33, 32),
        "fan-out": (1025, 1024),
        "reset": ("hard", "soft"),
    }


def test_akida_does_not_spike_in_time() -> None:
    def check(**options: object) -> so.chips.Report:
        sizes = {"img_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 4}
        return so.check_async(so.STMixer(**{**sizes, **options}).eval(), "akida2")  # type: ignore

    one, four = check(T=1), check(T=4)
    assert found(one, "membranes")[""].severity == "note"
    assert (found(four, "membranes")[""].need, found(four, "membranes")[""].severity) == (
        4,
        "blocks",
    )
    assert found(one, "token mixing")["blocks.0.token_mixer.stm"].severity == "blocks"


# -- The data file -----------------------------------------------------------------------------


def test_every_limit_has_a_source_and_a_date() -> None:
    content = read()
    assert set(content["chips"]) >= {
        "speck2f", "loihi2", "truenorth", "spinnaker2", "xylo", "akida2"
    }  # fmt: skip
    used = set()
    for entry in content["chips"].values():
        for limits in entry.get("variants", {"": entry.get("limits")}).values():
            used |= {limit["source"] for limit in limits.values()}
            assert all(limit["value"] for limit in limits.values())
    assert used == set(content["sources"])
    for source in content["sources"].values():
        assert source["title"] and source["where"].startswith("https://")
        assert datetime.date.fromisoformat(source["date"])
        assert isinstance(source["read"], bool)  # or second hand


def test_figures_of_the_specifications() -> None:
    def limits(name: str, member: int = 0) -> dict[str, object]:
        return dict(chips(name)[member].limits)

    speck = limits("speck2f")
    assert [k // 1024 for k in speck["kernel_words"]] == [16, 16, 16, 32, 32, 64, 64, 16, 16]
    assert [n // 1024 for n in speck["neuron_words"]] == [64, 64, 64, 32, 32, 16, 16, 16, 16]
    assert (speck["channels"], speck["destinations"], speck["kernel_size"]) == (1024, 2, 16)
    assert limits("loihi1")["core_weight_bytes"] * 8 == 1_048_576  # type: ignore[operator]
    assert [limits("xylo", i)["hidden"] for i in range(3)] == [1000, 992, 496]
    assert [limits("xylo", i)["fan_out"] for i in range(3)] == [64, 1024, 512]
    assert limits("spinnaker2")["routes"] == 16_384
    assert [c.name for c in map(lambda n: chips(n)[0], read()["chips"]) if c.clock_free] == [
        "speck2f"
    ]


# -- Files and the command line ----------------------------------------------------------------


@pytest.fixture(scope="module")
def engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = so.STMixer(16, embed_dim=32, depth=1, num_heads=4, decay=1.0, reset="soft").eval()
    path = tmp_path_factory.mktemp("chips") / "model.stmx"
    so.Engine.compile(model).save(path)
    return path


def test_files_need_no_pytorch(engine_file: Path) -> None:
    code = (
        "import sys, stmixer_ops as so; report = so.check_async(sys.argv[1], 'speck2f');"
        "assert 'torch' not in sys.modules; print(len(report.findings))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, engine_file], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(so.check_async(str(engine_file), "speck2f").findings)


def test_the_command(engine_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-async", str(engine_file)]) == 0
    assert "any chip (clock-free): breaks no rule" in capsys.readouterr().out
    assert main(["check-async", str(engine_file), "--chip", "speck2f", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is False and content["chip"] == "speck2f"
    assert {"layer", "rule", "severity", "need", "allowed", "unit", "fits"} == set(
        content["findings"][0]
    )
    assert main(["check-async", "stmixer_1_32_4", "--chip", "loihi2"]) == 0


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "x.stmx"
    damaged.write_bytes(b"nothing of the kind")
    for argv, text in (
        (["no_such_model"], "unknown model 'no_such_model'"),
        ([str(damaged)], "is not a usable engine file"),
        ([str(tmp_path / "y.stmx")], "y.stmx"),
        (["stmixer_1_32_4", "--chip", "abacus"], "abacus"),
    ):
        assert main(["check-async", *argv]) == 2
        assert text in capsys.readouterr().err


def test_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from stmixer_ops.train.checkpoint import save_checkpoint

    options = {"img_size": 16, "num_classes": 4, "decay": 1.0, "reset": "soft"}
    model = so.create_model("stmixer_1_32_4", **options).eval()
    data = {"name": "x", "classes": ["a", "b", "c", "d"], "mean": [0], "std": [1], "img_size": 16}
    config = {"model": {"name": "stmixer_1_32_4", "kwargs": options}, "data": data}
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, model, config)
    assert so.check_async(path).to_json() == so.check_async(model).to_json()
