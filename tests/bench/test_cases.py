"""``stmixer bench``: what is compared, when it is refused, what is written. No time is asserted."""

from __future__ import annotations

import ctypes
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bench_cases import CASE, LAYERS, PACE

import stmixer_ops as so
from stmixer_ops import _C
from stmixer_ops.bench import ceiling, peers, report, resources, sweep
from stmixer_ops.bench.cases import Case, choose
from stmixer_ops.bench.network import build
from stmixer_ops.bench.run import run_case
from stmixer_ops.cli import main
from stmixer_ops.measure.rates import fit_rates


def rows_of(case: Case) -> dict[str, dict]:
    result = run_case(case, 1, PACE)
    json.dumps(result, allow_nan=False)
    return {row["key"]: row for row in result["rows"]}


def change(monkeypatch, key: str, **fields: object) -> None:
    monkeypatch.setitem(peers.CONTESTANTS, key, replace(peers.CONTESTANTS[key], **fields))


# -- networks --------------------------------------------------------------------------------------


def test_choice_of_cases():
    names = [case.name for case in choose(None)]
    assert names == ["t1-b1", "t1-b16", "t4-b1", "t4-b16", "sparse", "avx2", "large"]
    chosen = choose(["t4-b1", "trained-b1", "t4-b1"], model="m", checkpoint="c", root="r")
    assert [case.name for case in chosen] == ["t4-b1", "trained-b1"]
    assert chosen[0].model == "m" and (chosen[1].checkpoint, chosen[1].root) == ("c", "r")
    assert [case.name for case in choose(None, checkpoint="c")][-2:] == [
        "trained-b1",
        "trained-b16",
    ]
    quick = choose(None, quick=True)
    assert len(quick) == 2 and not any("compile" in case.contestants for case in quick)
    assert choose(["avx2"])[0].environment["STMIXER_CPU_ISA"] == "avx2"
    assert "onnxruntime" not in choose(["avx2"])[0].contestants


# -- one case --------------------------------------------------------------------------------------


def test_a_case_holds_every_field():
    result = run_case(replace(CASE, contestants=("engine", "eager", "ops"), batch=2), 1, PACE)
    json.dumps(result, allow_nan=False)
    assert result["isa"] == _C.cpu_isa() and result["isa_limit"] is None
    assert (result["case"], result["threads"], result["steps"], result["batch"]) == (
        "small", 1, 1, 2,
    )  # fmt: skip
    assert result["input"] == "3x8x8" and 0.05 < result["rate"] < 0.4
    assert len(result["rates"]) == 9
    for row in result["rows"]:
        assert row["status"] == "measured" and row["reason"] is None, row
        assert row["ms"] > 0 and row["iqr_ms"] >= 0
        assert row["calls"] == 4 and len(row["turns_ms"]) == 2
        assert row["agreement"]["same_answers"] == row["agreement"]["answers"] == 4
    ours = result["rows"][0]
    assert ours["agreement"]["worst_rate_error"] < 0.01
    adding = [step for step in ours["steps"] if step["share"] is not None]
    assert [step["name"] for step in adding][:2] == [
        "patch_embed.main.1.conv",
        "patch_embed.main.2.conv",
    ]
    assert len(adding) == 8 and all(step["sops"] > 0 for step in adding)
    assert 0 < ours["share"] < 1.5 and {step["bits"] for step in adding} == {32}
    assert list(ours["ceilings"]) == [32] and ours["ceilings"][32] > 1e8
    text = report.show([result], {**dict.fromkeys(("cpu", "threads", "cores", "isa", "commit"), 1),
                                  "stmixer_ops": "0", "versions": {"torch": "1"}})  # fmt: skip
    assert re.search(r"PyTorch eager +\d+\.\d+ ±\d+\.\d+ +\d+\.\d+x", text)
    assert f"spike rate {result['rate']:.3f}" in text and "blocks.0.token_mixer.stm" in text


@pytest.mark.parametrize(
    "key", ["engine-int8", "onnxruntime", "openvino", "openvino-default", "openvino-int8"]
)
@pytest.mark.parametrize("steps", [1, 2])
def test_installed_peers_agree(key, steps):
    missing = peers.CONTESTANTS[key].missing()
    if missing is not None:
        pytest.skip(missing)
    row = rows_of(replace(CASE, contestants=("engine", key), steps=steps, batch=2))[key]
    assert row["status"] == "measured", row["reason"]
    assert row["agreement"]["worst_rate_error"] < 0.15 and row["ms"] > 0
    if key.startswith("openvino"):
        assert re.match(r"f32|bf16|f16", row["note"])


def test_a_missing_peer_is_named(monkeypatch):
    packages = {"no_such_module": "some-package", "numpy": "numpy"}
    change(monkeypatch, "onnxruntime", packages=packages)
    row = rows_of(replace(CASE, contestants=("engine", "onnxruntime")))["onnxruntime"]
    assert row["status"] == "unavailable" and "ms" not in row
    assert row["reason"] == "not installed: pip install some-package"


def test_a_failing_peer_is_told_and_the_others_run(monkeypatch):
    def fail(path: Path, threads: int) -> peers.Session:
        raise OSError("no such\n  instruction")

    change(monkeypatch, "ops", open=fail)
    rows = rows_of(replace(CASE, contestants=("engine", "ops", "eager")))
    assert rows["ops"]["status"] == "failed"
    assert rows["ops"]["reason"] == "OSError: no such instruction"
    assert rows["engine"]["ms"] > 0 and rows["eager"]["ms"] > 0


def test_what_this_version_cannot_do_says_why(monkeypatch):
    def prepare(network, rates):
        raise NotImplementedError("precision='int8' is not in this version")

    change(monkeypatch, "engine-int8", prepare=prepare)
    row = rows_of(replace(CASE, contestants=("engine", "engine-int8")))["engine-int8"]
    assert row["status"] == "unavailable" and "int8" in row["reason"]


def scrambled(path: Path, threads: int) -> peers.Session:
    rng = np.random.default_rng(0)
    return peers.Session(lambda x: [rng.normal(size=(len(x), 10)), np.full(9, 0.5)])


@pytest.mark.parametrize("rates", [False, True])
def test_a_peer_that_computes_something_else_is_not_timed(monkeypatch, rates):
    change(monkeypatch, "ops", open=scrambled, has_rates=rates)
    rows = rows_of(replace(CASE, contestants=("engine", "ops")))
    assert rows["ops"]["status"] == "disagrees" and "ms" not in rows["ops"]
    expected = "fires at a rate of 0.5000" if rates else "its logits correlate"
    assert expected in rows["ops"]["reason"]
    assert rows["engine"]["ms"] > 0


def test_logits_that_are_not_finite(monkeypatch):
    def broken(path: Path, threads: int) -> peers.Session:
        return peers.Session(lambda x: [np.full((len(x), 10), np.nan)])

    change(monkeypatch, "ops", open=broken)
    row = rows_of(replace(CASE, contestants=("engine", "ops")))["ops"]
    assert (row["status"], row["reason"]) == ("disagrees", "its logits are not finite")


def test_an_engine_that_computes_something_else_ends_the_case(monkeypatch):
    def other(network, rates):
        model = so.create_model("stmixer_1_16_2", img_size=8)
        fit_rates(model, torch.randn(8, 3, 8, 8))
        path = network.folder / "other.stmx"
        so.Engine.compile(model).save(path)
        return path

    change(monkeypatch, "engine", prepare=other)
    result = run_case(CASE, 1, PACE)
    assert result["rows"][0]["status"] == "disagrees"
    assert "of the spikes of patch_embed.main.0.lif differ" in result["rows"][0]["reason"]
    assert not any("ms" in row for row in result["rows"]), "nobody is timed"
    assert report.ratio(result, result["rows"][1]) is None
    assert len(report.failures([result])) == 1


def test_resources_are_in_the_result(monkeypatch):
    found = {"first_ms": 20.0, "peak_mib": 3.0, "held_mib": None}
    monkeypatch.setattr(resources, "measure", lambda *args, **kwargs: found)
    result = run_case(replace(CASE, contestants=("engine", "eager"), resources=True), 1, PACE)
    assert all(row["busy_ms"] > 0 and row["first_ms"] == 20 for row in result["rows"])
    text = report._resources(result)
    assert "beside a busy core" in text and "20 ms" in text and "3 MiB" in text


def test_memory_is_counted_in_a_fresh_process(tmp_path):
    network = build(CASE, tmp_path)
    path = peers.CONTESTANTS["engine"].prepare(network, False)
    image = tmp_path / "image.npy"
    np.save(image, network.images.numpy())
    found = resources.measure("engine", path, image, 1, repeats=1)
    assert found["first_ms"] > 0
    if Path("/proc/self/status").is_file():
        assert found["peak_mib"] >= 0 and found["held_mib"] <= found["peak_mib"] + 1
    path.write_bytes(b"")
    with pytest.raises(RuntimeError, match="measuring memory failed: .*not a usable engine file"):
        resources.measure("engine", path, image, 1, repeats=1)


def test_a_trained_network_on_its_own_images(tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("sklearn")
    options = ["--img-size", "8", "--model", "stmixer_1_16_2", "--epochs", "1", "--T", "2"]
    assert main(["train", "digits", *options, "--threads", "1", "--out", str(tmp_path)]) == 0
    file = str(tmp_path / "last.safetensors")
    (case,) = choose(["trained-b16"], checkpoint=file)
    result = run_case(replace(case, contestants=("engine", "eager")), 1, PACE)
    assert (result["steps"], result["batch"], result["input"]) == (2, 16, "1x8x8")
    assert result["inputs"] == "trained weights, test images of digits"
    assert [row["status"] for row in result["rows"]] == ["measured"] * 2


# -- the ceiling, the sweep ------------------------------------------------------------------------


def test_ceiling_of_every_instruction_set(isa):
    for bits in (32, 16, 8, 7):
        assert ceiling.row_adds_per_second(bits, threads=2, seconds=1e-3) > 1e8
    with pytest.raises(ValueError, match="bits must be 32, 16, 8 or 7, got 9"):
        _C.row_adds_per_second(9, 0.001)


def test_ceilings_are_those_of_the_weights():
    model = so.create_model("stmixer_1_16_2", img_size=8)
    images = torch.randn(8, 3, 8, 8)
    fit_rates(model, images)
    wide = "blocks.0.channel_mlp.fc1"
    engine = so.Engine.compile(model, "int8", images, 1, int16_layers=[wide])
    found = ceiling.profile(engine, images.numpy(), repeat=2)
    bits = {step.name: step.bits for step in found.steps if step.bits}
    assert len(bits) == 9 and bits[wide] == 16 and set(bits.values()) <= {7, 8, 16}
    assert set(found.ceilings) == set(bits.values()) and 0 < found.share < 1.5


class SignalStack(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t),
    )  # fmt: skip


@pytest.fixture
def own_signal_stack():
    """OpenVINO gives the thread that compiles a network a signal stack so small that a later signal
    of this process, such as a data loader's SIGCHLD, overflows it."""
    sigaltstack = getattr(ctypes.CDLL(None), "sigaltstack", None) if os.name == "posix" else None
    before = SignalStack()
    if sigaltstack is not None:
        assert sigaltstack(None, ctypes.byref(before)) == 0
    yield
    if sigaltstack is not None:
        assert sigaltstack(ctypes.byref(before), None) == 0


@pytest.mark.usefixtures("own_signal_stack")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_sweep_of_a_layer(layer):
    found = sweep.measure_layer(layer, (0.1, 0.5), threads=1, turns=1)
    json.dumps(found, allow_nan=False)
    assert list(found["sparse"]) == ["engine", "engine-int8"]
    for points in found["sparse"].values():
        assert [point["density"] for point in points] == [0.1, 0.5]
        assert all(point["ms"] > 0 and point["sops"] >= 0 for point in points)
    dense = {row["contestant"]: row for row in found["dense"]}
    assert dense["oneDNN (PyTorch)"]["ms"] > 0
    assert all(("ms" in row) == (row["reason"] is None) for row in dense.values())
    assert "fp32" in found["break_even"] and found["isa"] == _C.cpu_isa()


@pytest.mark.usefixtures("own_signal_stack")
def test_sweep_refuses_what_differs(monkeypatch):
    monkeypatch.setattr(sweep.Dense, "forward", lambda self, x: torch.full((1, 16, 3, 3), 2.0))
    with pytest.raises(RuntimeError, match="conv: .* of the fp32 engine are not PyTorch's"):
        sweep.measure_layer(LAYERS[0], (0.1,), threads=1, turns=1)


def test_break_even_is_interpolated():
    points = [{"density": d, "ms": ms} for d, ms in ((0.1, 1.0), (0.2, 2.0), (0.4, 4.0))]
    assert sweep.break_even(points, 3.0) == pytest.approx(0.3)
    assert sweep.break_even(points, 9.0) is None
    assert sweep.break_even(points, 0.5) == 0.1
