"""The example program in C++, built without Python, gives Python's logits."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.cpp_build import built
from support.engine_cases import images, patch_graph

from stmixer_ops.engine import Engine
from stmixer_ops.engine.quantize import quantize

pytestmark = pytest.mark.compiles


@pytest.fixture
def program() -> Path:
    return built("classify") / "classify"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_example_gives_the_same_logits(program: Path, tmp_path: Path, precision: str) -> None:
    graph = patch_graph(steps=3)
    engine = Engine(graph if precision == "fp32" else quantize(graph))
    x = images(graph, 1)
    model, image = tmp_path / "model.stmx", tmp_path / "image.raw"
    engine.save(model)
    x.tofile(image)
    run = subprocess.run([program, model, image], check=True, capture_output=True, text=True)
    found = {int(c): np.float32(v) for c, v in re.findall(r"class (\d+): (\S+)", run.stdout)}
    expected = engine(x)[0]
    assert list(found) == list(np.argsort(-expected, kind="stable")[:5])
    assert all(found[c] == expected[c] for c in found)
    assert re.search(r"^[\d.]+ ms \(", run.stdout, re.MULTILINE), run.stdout


@pytest.mark.parametrize("option", ["--uint8", "--unit"])
def test_the_example_normalises_by_what_the_file_says(
    program: Path, tmp_path: Path, option: str
) -> None:
    graph = patch_graph()
    graph.mean, graph.std = [0.25, 0.5, 0.75], [0.3, 0.6, 0.9]
    mean, std = (np.float32(v)[:, None, None] for v in (graph.mean, graph.std))
    engine, model, image = Engine(graph), tmp_path / "model.stmx", tmp_path / "image.raw"
    engine.save(model)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 6), np.uint8)
    unit = pixels / np.float32(255)
    (pixels if option == "--uint8" else unit).tofile(image)
    run = subprocess.run([program, model, image, option], check=True, capture_output=True)
    expected = engine((unit - mean) / std)[0]
    for c, logit in re.findall(r"class (\d+): (\S+)", run.stdout.decode()):
        assert np.float32(logit) == expected[int(c)]


def test_the_example_says_what_is_wrong(program: Path, tmp_path: Path) -> None:
    model, image = tmp_path / "model.stmx", tmp_path / "image.raw"
    Engine(patch_graph()).save(model)
    image.write_bytes(b"\0" * 100)
    damaged = tmp_path / "damaged.stmx"
    damaged.write_bytes(model.read_bytes()[:-1])

    def complaint(*arguments: Path) -> str:
        run = subprocess.run([program, *arguments], capture_output=True, text=True)
        assert run.returncode in (1, 2) and not run.stdout
        return run.stderr

    assert "image.raw must hold 576 bytes, float32 [3, 8, 6]" in complaint(model, image)
    assert "damaged.stmx is not a usable engine file: its checksum" in complaint(damaged, image)
    assert "cannot read" in complaint(tmp_path / "nothing.stmx", image)
    assert "cannot read" in complaint(tmp_path, image)
    assert "usage" in complaint(model)
    assert "usage" in complaint(model, image, Path("--fast"))
    assert "holds no mean and deviation" in complaint(model, image, Path("--uint8"))
