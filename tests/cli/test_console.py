"""Answers on consoles that lack letters, and on machines that lack torch."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import stmixer_ops as so
from stmixer_ops.cli._console import any_letters
from stmixer_ops.cli.run import _read
from stmixer_ops.data import stored_preparation
from stmixer_ops.measure.rates import fit_rates
from stmixer_ops.measure.table import format_table


def printed(text: str, encoding: str, monkeypatch) -> bytes:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    with any_letters():
        print(text, end="")
    assert sys.stdout.errors == "strict"
    sys.stdout.flush()
    return raw.getvalue()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", b"\\u732b 4.6 uJ +-1 x \\xe9 \\U0001f431 name\xff"),
        ("cp1252", b"\\u732b 4.6 \xb5J \xb11 \xd7 \xe9 \\U0001f431 name\xff"),
        ("utf-8", "猫 4.6 µJ ±1 × é 🐱 name".encode() + b"\xff"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding, expected, monkeypatch):
    assert printed("猫 4.6 µJ ±1 × é 🐱 name\udcff", encoding, monkeypatch) == expected


def test_tables_stay_tables(monkeypatch):
    text = printed(format_table(["a", "b"], [["x", "1"]]), "cp1252", monkeypatch)
    assert text == b"a  b\n----\nx  1"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A network whose classes are 猫 and 犬, its labels, and a picture."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("猫")
    model = so.create_model("stmixer_1_16_2", img_size=8, num_classes=2)
    fit_rates(model, torch.randn(8, 3, 8, 8))
    so.Engine.compile(model).save(folder / "m.stmx")
    labels = {"classes": ["猫", "犬"], "mean": [0.5] * 3, "std": [0.25] * 3, "img_size": 8}
    (folder / "m.labels.json").write_text(json.dumps({**labels, "name": "folder"}))
    image.new("RGB", (9, 8), (200, 10, 60)).save(folder / "猫.png")
    return folder / "m.stmx"


def stmixer(
    *argv: str, torch: bool = True, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    code = "" if torch else "import sys; sys.modules['torch'] = None; "
    code += "import sys; from stmixer_ops.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True, check=False, env=os.environ | environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["cp1252", "C locale"],
)
def test_run_answers_on_any_console(engine, environment):
    done = stmixer("run", str(engine), str(engine.with_name("猫.png")), **environment)
    assert done.returncode == 0, done.stderr
    assert b"\\u732b" in done.stdout and b"\\u72ac" in done.stdout and b" ms)" in done.stdout


def test_the_engine_needs_no_torch(engine):
    picture = str(engine.with_name("猫.png"))
    with_torch = stmixer("run", str(engine), picture)
    done = stmixer("run", str(engine), picture, torch=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(b" spikes")[0] == with_torch.stdout.split(b" spikes")[0]
    done = stmixer("backends", torch=False)
    assert done.returncode == 0 and b"engine  available: " in done.stdout
    assert b"ops     not available: they need PyTorch (pip install torch)" in done.stdout


@pytest.mark.parametrize("command", ["train", "eval", "info", "compile", "models", "demo"])
def test_who_needs_torch_says_so(command):
    done = stmixer(command, "x", torch=False)
    assert done.returncode == 2
    expected = f"stmixer: error: {command} needs PyTorch (pip install torch): ".encode()
    assert done.stderr.startswith(expected) and done.stderr.count(b"\n") == 1


def test_pictures_become_the_bits_that_training_sees(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image.fromarray(pixels).save(tmp_path / "all.png")
    labels = {"mean": [0.2860], "std": [0.3530], "img_size": 16}
    prepared = stored_preparation(labels)(torch.from_numpy(pixels)[None, None])
    assert torch.equal(torch.from_numpy(_read(tmp_path / "all.png", labels)), prepared)
