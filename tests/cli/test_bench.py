"""``stmixer bench``: what it writes and prints, and what mistakes are answered."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
from support.bench_cases import CASE, LAYERS, PACE

from stmixer_ops import _C
from stmixer_ops.bench import engine, sweep
from stmixer_ops.bench.run import run_case
from stmixer_ops.cli import main

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

SMALL = ["--model", "stmixer_1_16_2", "--img-size", "8", "--threads", "1"]


def test_engine_writes_table_json_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    arguments = ["--quick", "--cases", "t1-b1", "--out", str(tmp_path / "results"), *SMALL]
    assert main(["bench", "engine", *arguments]) == 0
    text = capsys.readouterr().out
    assert "engine against the fastest peer of each precision" in text
    content = json.loads((tmp_path / "results" / "engine.json").read_text())
    about = content["machine"]
    assert about["threads"] == 1 and about["isa"] == _C.cpu_isa()
    assert torch.__version__.startswith(about["versions"]["torch"]) and "commit" in about
    (case,) = content["cases"]
    rows = {row["key"]: row for row in case["rows"]}
    assert rows["engine"]["ms"] > 0 and rows["eager"]["ms"] > 0
    for row in rows.values():
        assert row["status"] in ("measured", "unavailable"), row
        assert ("ms" in row) == (row["status"] == "measured")
        assert row["contestant"] in text and (row["reason"] or "") in text
    assert (tmp_path / "results" / "engine.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_writes_table_json_and_picture(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(sweep, "LAYERS", LAYERS)
    monkeypatch.setattr(sweep, "_PEERS", ("eager",))
    assert main(["bench", "sweep", "--quick", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "equal, fp32" in capsys.readouterr().out
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert [layer["layer"] for layer in content["layers"]] == ["conv", "linear", "mix"]
    assert content["machine"]["threads"] == 1
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_disagreement_is_the_exit_status(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")

    def disagree(case, threads, pace):
        result = run_case(CASE, threads, PACE)
        row = result["rows"][1]
        result["rows"][1] = {k: row[k] for k in ("contestant", "key", "precision")} | {
            "status": "disagrees",
            "reason": "it computes something else",
        }
        return result

    monkeypatch.setattr(engine, "measure_apart", disagree)
    out = ["--out", str(tmp_path), *SMALL]
    assert main(["bench", "engine", "--cases", "t1-b1", *out]) == 1
    text = capsys.readouterr().out
    assert "FAILED: small: PyTorch eager: it computes something else" in text
    assert not re.search(r"\d\.\d\dx", text), "no speed is told"


def test_an_instruction_set_that_is_not_there(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(_C, "cpu_isas", lambda: ["scalar"])
    line = "avx2: left out, this machine has no avx2"
    assert main(["bench", "engine", "--cases", "avx2", "--out", str(tmp_path), *SMALL]) == 2
    answer = capsys.readouterr().err
    assert line in answer and "stmixer: error: nothing was left to measure" in answer


def test_list_names_the_cases(capsys):
    assert main(["bench", "engine", "--list"]) == 0
    text = capsys.readouterr().out
    assert [line.split()[0] for line in text.splitlines()][-2:] == ["trained-b1", "trained-b16"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: WHAT"),
        (["train"], "invalid choice: 'train'"),
        (["engine", "--threads", "0"], "expected a whole number from 1, got '0'"),
        (["engine", "--cases", "t9"], "unknown case 't9'; there are t1-b1, .*trained-b16"),
        (["engine", "--cases", "trained-b1"], "case 'trained-b1' needs --checkpoint"),
        (["engine", "--checkpoint", "no.safetensors"], "no.safetensors: .* found no file"),
        (["engine", "--model", "resnet50"], "unknown model 'resnet50'"),
        (["sweep", "--threads", "x"], "expected a whole number from 1, got 'x'"),
    ],
)
def test_mistakes_are_answered_in_one_line(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert last.startswith("stmixer: error: ") and re.search(message, last), last
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["engine", "sweep"])
def test_a_missing_matplotlib_is_named(capsys, monkeypatch, tmp_path, what):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", what, "--out", str(tmp_path / "o")]) == 2
    assert "pip install stmixer-ops[bench]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_events_quick(tmp_path, capsys) -> None:
    """Each row's figures fit together: SOPs of the run over its median time."""
    assert main(["bench", "events", "--quick", "--out", str(tmp_path)]) == 0
    assert "x real time" in capsys.readouterr().out
    rows = json.loads((tmp_path / "events.json").read_text())["rows"]
    assert [(row["schedule"], row["decay"]) for row in rows] == [
        ("rank", 1.0), ("serial", 1.0), ("rank", 0.5), ("serial", 0.5),
    ]  # fmt: skip
    for row in rows:
        median = sorted(row["seconds"])[len(row["seconds"]) // 2]
        assert row["sops_per_second"] == pytest.approx(row["sops"] / median)
        assert row["sops"] > row["spikes"] > 0
