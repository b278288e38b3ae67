"""`.stmx` files: round trip, no PyTorch on load, and every kind of damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_cases import images, patch_graph

from stmixer_ops.engine import Engine, Graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    return patch_graph(image=(2, 5, 4), channels=(4, 8), steps=2)


@pytest.fixture
def saved(graph: Graph, tmp_path: Path) -> Path:
    path = tmp_path / "m.stmx"
    Engine(graph).save(path)
    return path


def test_round_trip_is_identical(graph: Graph, saved: Path, tmp_path: Path) -> None:
    x = images(graph, 3)
    engine, loaded = Engine(graph), Engine.load(saved, num_threads=1)
    assert loaded.num_threads == 1 and loaded.steps == 2
    expected, result = engine.run(x, record=True), loaded.run(x, record=True)
    np.testing.assert_array_equal(result.logits, expected.logits)
    assert list(result.spikes) == list(expected.spikes)
    for name, spikes in expected.spikes.items():
        np.testing.assert_array_equal(result.spikes[name], spikes)
    assert list(result.stats) == list(expected.stats)
    loaded.save(tmp_path / "again.stmx")
    assert (tmp_path / "again.stmx").read_bytes() == saved.read_bytes()


def test_files_are_safetensors(graph: Graph, saved: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = safetensors.load_file(saved)
    assert tensors.keys() == graph.tensors.keys()
    for name, value in graph.tensors.items():
        np.testing.assert_array_equal(tensors[name], value)


def test_loading_and_running_needs_no_torch(graph: Graph, saved: Path, tmp_path: Path) -> None:
    x = images(graph, 2)
    np.save(tmp_path / "x.npy", x)
    program = (
        "import sys, numpy as np, stmixer_ops as so\n"
        "logits = so.Engine.load('m.stmx')(np.load('x.npy'))\n"
        "assert 'torch' not in sys.modules\n"
        "np.save('logits.npy', logits)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), Engine(graph)(x))


def test_saving_is_atomic(
    graph: Graph, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        Engine(patch_graph(seed=3)).save(saved)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


def test_truncated_files(saved: Path) -> None:
    content = saved.read_bytes()
    for size in [*range(64), *range(64, len(content), 97)]:
        saved.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"m\.stmx is not a usable engine file: "):
            Engine.load(saved)
    saved.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="bytes of tensors"):
        Engine.load(saved)


def test_flipped_bits_are_noticed(graph: Graph, saved: Path) -> None:
    content = saved.read_bytes()
    reference = Engine(graph)(images(graph, 1))
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [
        *range(16),
        *rng.integers(0, header, 250),
        *rng.integers(header, len(content), 150),
    ]
    harmless = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        try:
            engine = Engine.load(saved)
        except ValueError as error:
            assert "m.stmx" in str(error)
        else:  # white space, or another spelling of the same JSON
            np.testing.assert_array_equal(engine(images(graph, 1)), reference)
            harmless += 1
    assert harmless < 0.05 * len(places)


def _rewrite(path: Path, change) -> None:
    """The file with its header changed, and no checksum to give that away."""
    from stmixer_ops.engine import stmx

    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    data = content[8 + size :]
    metadata = header.pop("__metadata__")
    description = json.loads(metadata["graph"])
    change(header, description)
    metadata["graph"] = json.dumps(description)
    metadata["crc32"] = stmx._checksum(metadata["graph"], header, [data])
    text = json.dumps({"__metadata__": metadata, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _node(description: dict, name: str) -> dict:
    nodes = [*description["populations"], *description["currents"]]
    nodes += [p for c in description["currents"] for p in c["projections"]]
    return next(n for n in nodes if n["name"] == name)


HUGE = 10**30
HOSTILE = {
    "steps": lambda t, g: g.update(steps=0),
    "'steps'": lambda t, g: g.update(steps=True),
    "'batch_first'": lambda t, g: g.update(batch_first="yes"),
    "'populations'": lambda t, g: g.update(populations={}),
    "population is no": lambda t, g: g.update(populations=[1]),
    "no projection|is no dict": lambda t, g: _node(g, "c0").update(projections=[None]),
    "'tokens'": lambda t, g: _node(g, "lif0").update(tokens=3),
    "'shape' must be": lambda t, g: _node(g, "lif0").update(shape=[4, HUGE, 4]),
    "larger": lambda t, g: _node(g, "lif0").update(shape=[1 << 16, 1 << 12, 1 << 12]),
    "'input': shape": lambda t, g: _node(g, "input").update(shape=[2, -5, 4]),
    "has no 'decay'": lambda t, g: _node(g, "lif0").pop("decay"),
    "'name'": lambda t, g: _node(g, "lif0").update(name=[]),
    "'stride' must be an integer": lambda t, g: _node(g, "conv1").update(stride=HUGE),
    "stride must be": lambda t, g: _node(g, "conv1").update(stride=-1),
    "padding": lambda t, g: _node(g, "conv1").update(padding=1 << 30),
    "writes channels": lambda t, g: _node(g, "conv1").update(channel_offset=(1 << 31) - 1),
    "'weight' must be": lambda t, g: _node(g, "conv1").update(weight=5),
    "is missing": lambda t, g: _node(g, "conv1").update(weight="nothing"),
    "cycle": lambda t, g: _node(g, "stream0").update(currents=["stream1"]),
    "does not exist": lambda t, g: _node(g, "conv1").update(source="nothing"),
    "'currents' must be": lambda t, g: _node(g, "c0").update(currents=[["c0"]]),
    "lies at bytes": lambda t, g: t["conv1.weight"].update(shape=[HUGE, HUGE]),
    "expected": lambda t, g: t["conv1.weight"].update(data_offsets=[0, HUGE]),
    "no valid shape": lambda t, g: t["conv1.weight"].update(shape=[-3, 4]),
    "no valid data_offsets": lambda t, g: t["conv1.weight"].update(data_offsets=[0]),
    "dtype F32": lambda t, g: t["conv1.weight"].update(dtype="F64"),
    "of dtype": lambda t, g: t.update({"conv1.weight": None}),
    "weight must be": lambda t, g: t["head.weight"]["shape"].reverse(),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_descriptions(saved: Path, message: str) -> None:
    _rewrite(saved, HOSTILE[message])
    with pytest.raises(ValueError, match=rf"m\.stmx is not a usable engine file: .*({message})"):
        Engine.load(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04" + b"x" * 100, "header claims"),
        ((1 << 63).to_bytes(8, "little") + b"{}", "header claims"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
        ((2).to_bytes(8, "little") + b"{}", "holds no engine"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "no valid JSON"),
        ((99_999).to_bytes(8, "little") + b"[" * 99_999, "no valid JSON"),
        ((31).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}'[:31], "no valid JSON"),
    ],
    ids=range(8),
)
def test_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "foreign.stmx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"foreign\.stmx.*{message}"):
        Engine.load(path)


def test_other_versions_and_missing_files(saved: Path, tmp_path: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b'"version": "2"', b'"version": "9"'))
    with pytest.raises(ValueError, match="version is '9'"):
        Engine.load(saved)
    with pytest.raises(FileNotFoundError):
        Engine.load(tmp_path / "nowhere.stmx")
