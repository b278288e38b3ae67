"""``make gpu`` without a GPU: what it says, what it decides, and its stages in small on the CPU."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.paths import ROOT
from torch._subclasses.fake_tensor import FakeTensorMode

import stmixer_ops as so
from bench import gpu, gpu_measure, gpu_report, gpu_stages
from bench.cases import cases
from bench.gpu_peers import (
    Contestant,
    Missing,
    Population,
    agreement,
    automatic,
    contestants,
    fire_from_float32,
    populations,
    rates_apart,
    spikingjelly_neurons,
)
from bench.gpu_timing import Clock
from stmixer_ops.ops import _native

CPU = torch.device("cpu")
TINY = {case.group: case for case in cases(tiny=True)}

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


# -- Stages ----------------------------------------------------------------------------------------


@pytest.mark.slow
@without_gpu
@pytest.mark.parametrize("script", ["gpu_stages.py", "gpu"])
def test_stops_early_without_a_gpu(script):
    command = ["bench/gpu_stages.py"] if script.endswith(".py") else ["-m", "bench", "gpu"]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "no GPU" in done.stderr
    assert "rehearse" in done.stderr


def test_a_python_without_torch_is_named(monkeypatch):
    monkeypatch.setattr(gpu_stages.importlib.util, "find_spec", lambda name: None)
    assert "has no torch" in gpu_stages.obstacle(rehearse=True)
    assert gpu_stages.missing_tools()[:3] == ["pip", "scikit_build_core", "pybind11"]


def test_building_without_tools_runs_from_the_sources(monkeypatch, capsys):
    monkeypatch.setattr(gpu_stages, "missing_tools", lambda: ["pybind11"])
    assert Path(gpu_stages.location(gpu_stages.build(1.0))).parent == ROOT
    assert "pybind11 missing" in capsys.readouterr().out


EDITABLE = """
import os
import sys
from importlib.util import spec_from_file_location


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        parts = name.split(".")
        if parts[0] != "stmixer_ops":
            return None
        folder = os.path.join({root!r}, *parts)
        return spec_from_file_location(
            name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )


sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("editable", [False, True])
def test_what_was_built_goes_before_any_installation(monkeypatch, tmp_path, editable):
    """An editable one, too, whose finder goes before every path; packages inside likewise."""
    built, other, venv = tmp_path / "built", tmp_path / "other", tmp_path / "venv"
    for root in (built, other):
        (root / "stmixer_ops" / "ops").mkdir(parents=True)
        (root / "stmixer_ops" / "__init__.py").write_text("from . import ops\n")
        (root / "stmixer_ops" / "ops" / "__init__.py").write_text(f"HERE = {str(root)!r}\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    if editable:
        (packages / "editable_finder.py").write_text(EDITABLE.format(root=str(other)))
        (packages / "installed.pth").write_text("import editable_finder\n")
    else:
        (packages / "installed.pth").write_text(f"{other}\n")
    monkeypatch.setattr(sys, "executable", str(venv / "bin" / "python"))
    monkeypatch.setattr(gpu_stages, "FIRST", tmp_path / "first")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "the user's own"))
    assert gpu_stages.location({}) == str(other / "stmixer_ops")
    environment = gpu_stages.importing_from(built)
    assert (tmp_path / "first").exists() == editable
    assert environment["PYTHONPATH"].endswith("the user's own")
    code = "import stmixer_ops; print(stmixer_ops.ops.HERE)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,  # with -c the working directory goes before everything
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.strip() == str(built)


@without_gpu
def test_nothing_is_measured_with_another_copy(monkeypatch, capsys):
    monkeypatch.setattr(gpu_stages, "build", lambda limit: dict(os.environ))
    monkeypatch.setattr(gpu_stages, "location", lambda environment: "/elsewhere/stmixer_ops")
    monkeypatch.setattr(sys, "argv", ["gpu_stages.py", "--rehearse"])
    assert gpu_stages.main() == 2
    assert "not the one of this checkout" in capsys.readouterr().err


def test_measuring_leaves_time_for_the_report(monkeypatch):
    """Predictions trace every case once more: 15 s of one core."""
    budgets = []
    monkeypatch.setattr(gpu_stages, "obstacle", lambda rehearse: None)
    monkeypatch.setattr(gpu_stages, "build", lambda limit: dict(os.environ))
    monkeypatch.setattr(gpu_stages, "location", lambda environment: f"{ROOT}/stmixer_ops")
    monkeypatch.setattr(gpu_stages, "test", lambda *_: {"status": "passed", "summary": ""})
    monkeypatch.setattr(gpu_stages, "measure", lambda _, budget, *__: budgets.append(budget))
    monkeypatch.setattr(sys, "argv", ["gpu_stages.py"])
    assert gpu_stages.main() == 0
    assert 0 < budgets[0] <= 480 - 10 - 25  # eight minutes, room to start and to end


LEAVES_A_CHILD = "sleep 600 & echo $! > {file}.new; mv {file}.new {file}; wait"


def wait_for_the_end_of_the_child(file):
    end = time.monotonic() + 60
    child = Path("/proc") / file.read_text().strip() / "stat"
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < end


def test_what_is_stopped_leaves_nobody_behind(tmp_path):
    """compute-sanitizer runs the tests in a child of its own."""
    file = tmp_path / "pid"
    command = ["sh", "-c", LEAVES_A_CHILD.format(file=file)]
    process = gpu_stages.start(command, tmp_path, dict(os.environ))
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
    gpu_stages.stop(process)
    wait_for_the_end_of_the_child(file)


def test_a_build_that_is_stopped_leaves_no_compiler_behind(monkeypatch, tmp_path, capsys):
    file, python = tmp_path / "pid", tmp_path / "python"
    python.write_text("#!/bin/sh\n" + LEAVES_A_CHILD.format(file=file))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(gpu_stages, "missing_tools", list)
    monkeypatch.setattr(gpu_stages, "SITE", tmp_path / "site")
    monkeypatch.setattr(gpu_stages, "importing_from", lambda folder: {"folder": str(folder)})
    assert gpu_stages.build(5.0) == {"folder": str(ROOT)}
    assert "the build was stopped after 5 s" in capsys.readouterr().out
    wait_for_the_end_of_the_child(file)


@pytest.mark.parametrize(
    ("outcomes", "stopped", "clean", "status"),
    [
        (["passed", "skipped"], False, True, "passed"),
        (["passed", "failed"], False, False, "failed"),
        (["skipped"], False, True, "failed"),  # nothing was tested
        ([], False, True, "failed"),
        (["passed"], True, True, "failed"),
        (["passed"], False, False, "failed"),  # a crash, or the race detector
    ],
)
def test_tests_are_green_only_if_something_passed(outcomes, stopped, clean, status):
    rows = [{"test": f"t{i}", "outcome": outcome} for i, outcome in enumerate(outcomes)]
    found = gpu_stages.outcome(rows, stopped, clean)
    assert found["status"] == status
    assert len(found["failed"]) == outcomes.count("failed")


def run_gpu_tests(tmp_path, *options, **environment):
    log = tmp_path / "log.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "gpu", *options],
        capture_output=True, text=True, check=False, cwd=ROOT / "tests",
        env=os.environ | {"STMIXER_GPU_TEST_LOG": str(log)} | environment,
    )  # fmt: skip
    rows = log.read_text().splitlines() if log.is_file() else []
    return done, [json.loads(row) for row in rows]


@pytest.mark.slow
@without_gpu
def test_gpu_tests_are_skipped_with_the_reason(tmp_path):
    done, rows = run_gpu_tests(tmp_path, "-rs", STMIXER_GPU_TESTS="")
    assert done.returncode == 0
    assert {row["outcome"] for row in rows} == {"skipped"}
    assert "needs a GPU (STMIXER_GPU_TESTS=rehearse" in done.stdout


@pytest.mark.slow
@without_gpu
def test_gpu_tests_can_be_rehearsed_and_split(tmp_path, full):
    """The bodies run on the interpreter; two shards together are everything, none twice."""
    pytest.importorskip("triton", reason="triton is not installed")
    chosen = "small_shapes or one_image_repeated"
    if not full:
        chosen = "small_shapes and (triton-lif or triton-pack_spikes or triton-bn_lif)"
    found = []
    for shard in ("0/2", "1/2"):
        folder = tmp_path / shard[0]
        folder.mkdir()
        done, rows = run_gpu_tests(
            folder, "-k", chosen, STMIXER_GPU_TESTS="rehearse",
            STMIXER_GPU_SHARD=shard, TRITON_INTERPRET="1",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        found += rows
    names = [row["test"] for row in found]
    assert len(names) == len(set(names))
    ran = {row["test"].split("::")[1] for row in found if row["outcome"] == "passed"}
    assert {"test_small_shapes[triton-lif]", "test_small_shapes[triton-pack_spikes]"} <= ran


# -- Contestants -----------------------------------------------------------------------------------


def test_contestants_of_each_case():
    names = {group: [c.name for c in contestants(case)] for group, case in TINY.items()}
    assert names["lif"] == [
        "stmixer_ops cuda", "stmixer_ops triton", "eager", "SpikingJelly cuda",
        "SpikingJelly triton", "torch.compile",
    ]  # fmt: skip
    assert "eager (cuBLAS, cuDNN)" in names["spike_linear"]
    assert names["train"] == ["stmixer_ops", "eager", "torch.compile"]
    assert names["infer"][-1] == "torch.compile max-autotune"


def test_every_case_belongs_to_a_group():
    grouped = [group for groups in gpu_measure.GROUPS.values() for group in groups]
    assert sorted(grouped) == sorted(TINY)
    assert set(gpu._SHARES) == set(gpu_measure.GROUPS)


@without_gpu
def test_missing_peers_say_why():
    with pytest.raises(Missing, match="SpikingJelly"):
        spikingjelly_neurons("triton", CPU)


@pytest.fixture
def spikingjelly2():
    """Its functions and the surrogate that is timed."""
    jelly = pytest.importorskip("spikingjelly.activation_based.functional")
    if not hasattr(jelly, "lif_multi_step"):
        pytest.skip("SpikingJelly before 2.0")
    from spikingjelly.activation_based import surrogate

    return jelly, surrogate.PiecewiseQuadratic(1.0)


def test_spikingjelly_computes_what_our_ops_do(spikingjelly2):
    """Spikes to the last bit, gradients within bfloat16."""
    x = torch.randn(8, 3, 64).bfloat16().requires_grad_()
    g = torch.randn(x.shape).bfloat16()
    results = []
    for fire in (lambda x: fire_from_float32(*spikingjelly2, x), TINY["lif"].call):
        spikes = fire(x)
        results.append((spikes, *torch.autograd.grad(spikes, x, g)))
    (theirs, their_gradient), (ours, our_gradient) = results
    assert torch.equal(theirs, ours)
    assert 0 < float(ours.detach().mean()) < 1
    assert float((their_gradient - our_gradient).abs().max()) <= 1.6e-2


@pytest.mark.parametrize("kind", ["cuda", "triton"])
def test_spikingjelly_runs_the_kernels_that_were_chosen(spikingjelly2, monkeypatch, kind):
    """Once kernels are chosen, it raises for whatever they do not take."""
    lif = importlib.import_module("spikingjelly._ops.lif")
    monkeypatch.setattr(lif._selection, "_requested", kind)
    with torch.no_grad(), FakeTensorMode():
        x = torch.empty(4, 2, 64, dtype=torch.bfloat16, device="cuda:0")
        assert fire_from_float32(*spikingjelly2, x).dtype == torch.bfloat16


@pytest.mark.parametrize("group", ["lif", "bn_lif", "token_mix_lif", "spike_linear", "STMBlock"])
def test_eager_computes_what_our_ops_do(group):
    case = TINY[group]
    eager = next(c for c in contestants(case) if c.name.startswith("eager"))
    differs, allowed = agreement(case, automatic(case, CPU)(), eager.make(case, CPU)())
    assert differs <= allowed


def with_neurons(case, **attributes):
    """A case whose neurons are others."""
    made = case.module

    def module():
        network = made()
        for lif in network.modules():
            if isinstance(lif, so.LIF):
                vars(lif).update(attributes)
        return network

    return replace(case, module=module)


def test_a_block_of_other_neurons_disagrees():
    case = TINY["STMBlock"]
    right = automatic(case, CPU)()
    for attributes in ({"decay": 0.6}, {"threshold": 1.1}, {"reset_mode": "soft"}):
        differs, allowed = agreement(
            case, automatic(with_neurons(case, **attributes), CPU)(), right
        )
        assert differs > allowed


@pytest.mark.parametrize("group", ["STMBlock", "train", "infer"])
def test_rates_of_every_population_agree(group):
    case = TINY[group]
    firing = populations(case, CPU, ours=False)
    assert len(firing) == (5 if group == "STMBlock" else 9)
    assert rates_apart(populations(case, CPU, ours=True), firing)[0] <= 1
    wrong = populations(with_neurons(case, threshold=1.5), CPU, ours=True)
    assert rates_apart(wrong, firing)[0] > 1


def test_rates_of_a_large_population_agree_to_a_hundredth():
    theirs = {"a": Population(0.2, 10**9), "b": Population(0.1, 10**9), "c": Population(0.0, 100)}
    for rate, judged in ((0.101, True), (0.099, True), (0.102, False), (0.098, False)):
        apart, path = rates_apart(theirs | {"b": Population(rate, 10**9)}, theirs)
        assert (apart <= 1, path) == (judged, "b")
    assert rates_apart({"a": theirs["a"]}, theirs) == (float("inf"), "b, c")


def test_ours_with_other_rates_gets_no_time():
    case, clock = TINY["infer"], Clock(CPU, seconds=0.01)
    ours = next(c for c in contestants(case) if c.ours)
    expected, firing = automatic(case, CPU)(), populations(case, CPU, ours=False)
    assert gpu_measure.measure(case, ours, clock, expected, firing)["status"] == "measured"
    path = next(iter(firing))
    other = firing | {path: Population(0.9, firing[path].neuron_steps)}
    row = gpu_measure.measure(case, ours, clock, expected, other)
    assert row["status"] == "disagrees"
    assert path in row["reason"]
    assert "ms" not in row


def test_whoever_computes_something_else_gets_no_time():
    case = TINY["lif"]
    clock = Clock(CPU, seconds=0.01)
    expected = torch.ones(2, 2, 64)
    wrong = Contestant("wrong", lambda case, device: lambda: torch.zeros(2, 2, 64), ours=True)
    row = gpu_measure.measure(case, wrong, clock, expected, {})
    assert row["status"] == "disagrees"
    assert "ms" not in row

    def broken(case, device):
        raise ZeroDivisionError("by nought")

    row = gpu_measure.measure(case, Contestant("broken", broken), clock, expected, {})
    assert (row["status"], row["reason"]) == ("failed", "ZeroDivisionError: by nought")
    right = Contestant("right", lambda case, device: lambda: expected, ours=True)
    row = gpu_measure.measure(case, right, clock, expected, {})
    assert row["status"] == "measured"
    assert row["how"] == "wall clock (rehearsal)"


# -- Report ----------------------------------------------------------------------------------------


def result_of(ours_ms, peer_ms, ours_peak=None, peer_peak=None):
    """A result of two cases by two contestants each."""
    rows = [{"copy_bandwidth": 4e12}]
    for case, peer in (("lif T=4", "SpikingJelly triton"), ("train batch=256", "eager")):
        for name, ms, peak in (("stmixer_ops", ours_ms, ours_peak), (peer, peer_ms, peer_peak)):
            row = {"case": case, "contestant": name, "ours": name == "stmixer_ops", "ms": ms}
            rows.append({**row, "status": "measured", "how": "graph", "peak_bytes": peak})
    about = {"gpu": {"name": "NVIDIA H200"}, "versions": {"torch": "2", "spikingjelly": "2.0.0"}}
    return gpu.assemble(rows, about | {"commit": "abc"}, rehearse=False) | {"notes": []}


def test_targets_are_judged():
    text = gpu_report.targets_table(result_of(0.05, 0.10, 300, 1000))
    lines = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert lines["lif T=4, speed against SpikingJelly"][-2:] == ["2.00", "met"]
    assert lines["train batch=256, speed against eager"][-2:] == ["2.00", "missed"]
    assert lines["train batch=256, memory against eager"][-2:] == ["0.30", "met"]
    # 10 bytes for each of 4 x 64 x 65536 in 0.05 ms at 4 TB/s
    share = 10 * 4 * 64 * 65536 / 0.05e-3 / 4e12
    assert lines["lif T=4, bandwidth against copy"][-2:] == [f"{share:.2f}", "met"]
    assert lines["infer batch=1, speed against torch.compile"][-2:] == ["not", "measured"]


def test_measured_stands_beside_predicted():
    result = result_of(0.05, 0.10)
    text = gpu_report.report(result)
    peer = next(line for line in text.splitlines() if "SpikingJelly triton" in line)
    assert "2.00x" in peer  # measured
    assert "2.20x" in peer  # predicted of its version: 22 bytes to 10
    result["tests"] = {"status": "failed", "summary": "1 failed"}
    assert gpu_report.report(result).startswith("THE GPU TESTS ARE NOT GREEN (1 failed)")


@pytest.mark.parametrize("rehearse", [True, False])
def test_a_rehearsal_is_kept_apart(tmp_path, rehearse):
    result = {"machine": {"gpu": {"name": "NVIDIA H200"}}}
    arguments = type("Arguments", (), {"rehearse": rehearse, "out": tmp_path})
    path = gpu._path(result, arguments)
    expected = gpu.REHEARSAL / "rehearsal.json" if rehearse else tmp_path / "gpu-nvidia-h200.json"
    assert path == expected


@pytest.fixture
def run_with_child(monkeypatch, tmp_path):
    """``bench gpu`` on one group whose process runs the code given."""

    def run(code):
        (tmp_path / "bench").mkdir()
        for name, text in (("__init__.py", ""), ("__main__.py", code)):
            (tmp_path / "bench" / name).write_text(text)
        arguments = argparse.Namespace(
            child=None, rehearse=True, groups=["lif"], budget=60, tests=None, out=tmp_path
        )
        return gpu.run(arguments)

    monkeypatch.setattr(gpu, "HERE", tmp_path / "bench")
    monkeypatch.setattr(gpu, "REHEARSAL", tmp_path)
    return run


@pytest.mark.parametrize(("status", "result"), [(0, 0), (3, 1)])
def test_a_group_that_ends_in_an_error_fails(run_with_child, capsys, status, result):
    """Whatever it measured before; the rest is told."""
    row = {"case": "lif T=2", "contestant": "eager", "ours": False, "ms": 1.0, "how": "events"}
    code = f"import sys; open(sys.argv[4], 'w').write({json.dumps(row)!r}); sys.exit({status})"
    assert run_with_child(code) == result
    text = capsys.readouterr().out
    assert "1000.0" in text
    assert (f"lif: the process ended with status {status}" in text) == bool(status)


def test_measured_without_the_extension(run_with_child, monkeypatch):
    """As make gpu does where building is impossible: nothing that was measured is lost."""
    monkeypatch.setattr(_native, "missing", "the extension module did not load")
    assert run_with_child("") == 0
    result = json.loads((gpu.REHEARSAL / "rehearsal.json").read_text())
    assert (result["machine"]["isa"], result["machine"]["isas"]) == (None, [])


@pytest.mark.compiles
@without_gpu
def test_a_group_in_small(tmp_path):
    """All of a group's contestants, in a process of its own, a line for each."""
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "bench", "gpu", "--child", "lif", str(rows), "--rehearse"]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    status = {row["contestant"]: row["status"] for row in found if "contestant" in row}
    assert set(status) == {c.name for c in contestants(TINY["lif"])}
    assert status["eager"] == status["torch.compile"] == "measured"
    assert "failed" not in status.values()
    result = gpu.assemble(found, {"commit": None}, rehearse=True)
    assert 0 < result["cases"][0]["rate"] < 1
