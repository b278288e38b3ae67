"""`.stmx` files: round trip, no PyTorch on load, and every kind of damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.engine_cases import images, patch_graph
from support.paths import TESTS
from support.stmx_cases import file_of, parts_of, seal

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
    with pytest.raises(ValueError, match="checksum"):
        Engine.load(saved)


def test_flipped_bits_are_noticed(saved: Path) -> None:
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [
        *range(16),
        *rng.integers(0, header, 250),
        *rng.integers(header, len(content), 150),
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"m\.stmx is not a usable engine file: "):
            Engine.load(saved)


def _rewrite(path: Path, change) -> None:
    """The file with its header changed, and no checksum to give that away."""
    description, table, data = parts_of(path.read_bytes())
    change(table, description)
    path.write_bytes(file_of(description, table, data))


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
    "is no object": lambda t, g: _node(g, "c0").update(projections=[None]),
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
    "has shape that are no sizes": lambda t, g: t["conv1.weight"].update(shape=[HUGE, HUGE]),
    "what its shape takes": lambda t, g: t["conv1.weight"].update(shape=[(1 << 31) - 1] * 9),
    "has shape that": lambda t, g: t["conv1.weight"].update(shape=[-3, 4]),
    "has data_offsets that": lambda t, g: t["conv1.weight"].update(data_offsets=[0, HUGE]),
    "two data_offsets": lambda t, g: t["conv1.weight"].update(data_offsets=[0]),
    "lies at byte [0-9]+, expected": lambda t, g: t.pop("conv1.weight"),
    "bytes of tensors": lambda t, g: t.pop("head.bias"),
    "dtype F32": lambda t, g: t["conv1.weight"].update(dtype="F64"),
    "of dtype": lambda t, g: t.update({"conv1.weight": None}),
    "used twice": lambda t, g: _node(g, "protect").update(weight="conv1.weight"),
    "weight must be": lambda t, g: t["head.weight"]["shape"].reverse(),
}


HOSTILE |= {
    "graph: has an unknown field 'sparsity'": lambda t, g: g.update(sparsity=0.5),
    "'lif0' has an unknown field 'dcay'": lambda t, g: _node(g, "lif0").update(dcay=0.5),
    "'conv1' has an unknown field 'dilation'": lambda t, g: _node(g, "conv1").update(dilation=2),
    "'c0' has an unknown field 'scale'": lambda t, g: _node(g, "c0").update(scale=None),
    "'input' has an unknown field 'current'": lambda t, g: _node(g, "input").update(current="c0"),
    "'max_spikes' must be an integer": lambda t, g: _node(g, "lif0").update(max_spikes=1.5),
    "'lif0': max_spikes must be at least 1": lambda t, g: _node(g, "lif0").update(max_spikes=0),
    "'lif0': max_spikes is 4, but": lambda t, g: _node(g, "lif0").update(max_spikes=4),
    "'threshold' must be a number or": lambda t, g: _node(g, "lif0").update(threshold="high"),
    "'lif0': threshold must hold 4 values, got 5": lambda t, g: _per_channel(t, g, "threshold"),
    "'lif0': v_init must hold 4 values, got 5": lambda t, g: _per_channel(t, g, "v_init"),
    "'clocked_only' must be true": lambda t, g: _node(g, "conv1").update(clocked_only=1),
    "'mean' must be a list": lambda t, g: g.update(mean=0.5),
    "'std' must be a list of numbers": lambda t, g: g.update(std=["1", "1"]),
    "'input': mean must hold 2 values, got 3": lambda t, g: g.update(mean=[0, 0, 0], std=[1, 1]),
    "'input': std must hold 2 values, got 0": lambda t, g: g.update(mean=[0, 0]),
    "'input': mean holds a value": lambda t, g: g.update(mean=[0, float("nan")], std=[1, 1]),
    "'std' must be positive, got 0": lambda t, g: g.update(mean=[0, 0], std=[1, 0.0]),
    "'step_us' must be an integer": lambda t, g: g.update(step_us=0.5),
    "'step_us' must be positive": lambda t, g: g.update(step_us=-1),
}


def _per_channel(table: dict, description: dict, key: str) -> None:
    """A value for each channel from a tensor of five; the population has four channels."""
    _node(description, "lif0")[key] = "head.bias"
    next(c for c in description["currents"] if c["name"] == "head")["bias"] = None


@pytest.mark.parametrize("version", ["3", "4"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_files_of_every_version_run_as_they_did(version: str, precision: str) -> None:
    """Written, and their logits and spikes recorded, by the code that wrote that version."""
    stem = TESTS / "fixtures" / "stmx" / f"v{version}_{precision}"
    content = stem.with_suffix(".stmx").read_bytes()
    assert f'"version": "{version}"'.encode() in content
    recorded = np.load(stem.with_suffix(".npz"))
    engine = Engine.load(content)
    for again in (engine, Engine(engine.graph)):  # as it is, and written anew
        result = again.run(recorded["x"])
        np.testing.assert_array_equal(result.logits, recorded["logits"], strict=True)
        assert [layer.spikes for layer in result.stats] == list(recorded["spikes"])


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
        ((2).to_bytes(8, "little") + b"{}", "holds an engine"),
        ((32).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}', "holds an engine"),
        (seal(b'"}', b""), "header is no valid JSON: expected ',' or '}' at byte"),
        (seal(b'"}} 1', b""), "something follows"),
        (seal(b'"}}', b""), "no 'graph'"),
        (seal(b'", "graph": 3}}', b""), "no 'graph'"),
        (file_of(3, {}, b""), "graph: is no object"),
        (file_of("{", {}, b""), "graph is no valid JSON: expected a key at byte 1"),
        (file_of({}, [("a", 1), ("a", 1)], b""), "a key twice"),
    ],
    ids=range(12),
)
def test_foreign_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "foreign.stmx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"foreign\.stmx.*{message}"):
        Engine.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 99_999, "nests too deeply"),
        ("[" + "0," * (1 << 20) + "0]", "too many values"),
        ("[1, 2", "expected ',' or ']'"),
        ("[1,]", "expected a value"),
        ('{"a" 1}', "expected ':'"),
        ('{"a": 1 "b": 2}', "expected ',' or '}'"),
        ("01", "something follows"),
        ("-", "expected a value"),
        ("1.", "expected a value"),
        ("1e+", "expected a value"),
        ("1e999", "out of range"),
        ("tru", "expected a value"),
        ("", "expected a value"),
        ('"abc', "does not end"),
        ('"\n"', "control character"),
        (r'"\x"', "unknown escape"),
        (r'"\u12g4"', "four hexadecimal digits"),
        (r'"\u1', "four hexadecimal digits"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'"\ud800\u0041"', "half a surrogate pair"),
        (r'"\udc00"', "half a surrogate pair"),
        ('{"\u00e9": 1, "\\u00e9": 2}', "a key twice"),
    ],
    ids=range(22),
)
def test_json_is_read_strictly(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.stmx"
    path.write_bytes(file_of(text, {}, b""))
    with pytest.raises(ValueError, match=f"m.stmx .*: its graph is no valid JSON: .*{message}"):
        Engine.load(path)


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"]
)
def test_text_must_be_utf8(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "m.stmx"
    path.write_bytes(seal(b'", "graph": "' + bad + b'"}}', b""))
    with pytest.raises(ValueError, match="no UTF-8"):
        Engine.load(path)


def test_tensors_must_be_aligned(saved: Path) -> None:
    description, table, data = parts_of(saved.read_bytes())
    for entry in table.values():
        entry["data_offsets"] = [offset + 1 for offset in entry["data_offsets"]]
    table["odd"] = {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}
    saved.write_bytes(file_of(description, table, b"\0" + data))
    with pytest.raises(ValueError, match="is not aligned"):
        Engine.load(saved)


def test_names_of_any_script_and_other_spellings(saved: Path, tmp_path: Path) -> None:
    description, table, data = parts_of(saved.read_bytes())
    name = 'a "quoted" \\ é \u6f22 \U0001f600'
    for population in description["populations"]:
        if population["name"] == "late.lif1":
            population["name"] = name
    for current in description["currents"]:
        for projection in current["projections"]:
            if projection["source"] == "late.lif1":
                projection["source"] = name
    plain = tmp_path / "plain.stmx"
    plain.write_bytes(file_of(json.dumps(description, ensure_ascii=False, indent=1), table, data))
    saved.write_bytes(file_of(description, table, data))
    for path in (saved, plain):
        assert name in [
            layer.name for layer in Engine.load(path).run(np.zeros((1, 2, 5, 4), "f4")).stats
        ]


def test_other_versions_and_missing_files(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for version in ("", "2", "5", "9", "34", "3.0"):
        saved.write_bytes(content.replace(b'"version": "4"', f'"version": "{version}"'.encode()))
        with pytest.raises(ValueError, match=f"version is '{version}', this one reads 3 and 4"):
            Engine.load(saved)
    with pytest.raises(FileNotFoundError):
        Engine.load(tmp_path / "nowhere.stmx")
