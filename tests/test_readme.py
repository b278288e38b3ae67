"""Every line of code in README does what it says, as printed and in that order."""

from __future__ import annotations

import gzip
import importlib.metadata
import re
import shlex
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import ROOT

import stmixer_ops as so

README = ROOT / "README.md"
if not README.is_file():
    pytest.skip("README is not beside the tests", allow_module_level=True)

TEXT = README.read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, flags=re.M | re.S)
LINES = [
    line.partition("  #")[0].partition(" # ")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]
STMIXER = [line for line in LINES if line.startswith("stmixer ")]


def test_every_block_is_of_a_kind_that_is_run():
    assert {language for language, _ in BLOCKS} == {"sh", "python"}
    assert len(STMIXER) >= 5
    for line in set(LINES) - set(STMIXER):
        assert re.fullmatch(r'make \w+|pip install (\.|"\.\[\w+\]")', line), line


def _write_recording(path: Path) -> None:
    """N-MNIST: x, y, polarity and 23 bits of time."""
    rows = [(5 + k % 20, 7 + k % 11, 12_000 * k | k % 2 << 23) for k in range(25)]
    path.write_bytes(b"".join(bytes((x, y)) + t.to_bytes(3, "big") for x, y, t in rows))


def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _write_recording(tmp_path / "clip.bin")
    names: dict[str, Any] = {}
    for language, block in BLOCKS:
        if language != "python":
            continue
        exec(compile(block, str(README), "exec"), names)
        if "Engine.load" in block:  # the loaded engine is the model's as it is now
            compiled, x = names["so"].Engine.compile(names["model"]), torch.ones(1, 3, 32, 32)
            np.testing.assert_array_equal(names["engine"](x), compiled(x))
    assert names["logits"].shape == (1, 10)
    assert names["stream"].stats()[0].spikes == 25 and names["stream"].time == 288_000
    assert "blocks.0.token_mixer.lif1" in capsys.readouterr().out


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    done = subprocess.run(
        [*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_extras_exist():
    extras = {name for line in LINES for name in re.findall(r'"\.\[(\w+)\]"', line)}
    known = importlib.metadata.metadata("stmixer-ops").get_all("Provides-Extra")
    assert extras and extras <= set(known or ())


def _write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.mark.trains
def test_commands_run_in_order(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors")
    pytest.importorskip("rich")
    pytest.importorskip("plotly")
    image = pytest.importorskip("PIL.Image")
    from stmixer_ops.cli import main

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "path" / "to" / "idx-files"
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 10)):
        pixels = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        _write_idx(root / f"{prefix}-images-idx3-ubyte.gz", pixels)
        _write_idx(root / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    image.fromarray(pixels[0]).save("image.png")
    _write_recording(tmp_path / "clip.bin")
    dvs = so.create_model("stmixer_1_64_8", num_classes=10, img_size=32, in_channels=2).eval()
    so.Engine.compile(dvs).save("dvs.stmx")
    for line in STMIXER:
        status = 1 if "check-async" in line else 0  # it does not fit
        assert main(shlex.split(line)[1:]) == status, (line, capsys.readouterr().err)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 120
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 90
