"""``stmixer bench sweep``: one layer at a time, over the density of what it reads."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._files import write_atomically
from ...engine import Engine, Graph
from .._table import format_table
from .machine import machine
from .network import export_onnx
from .peers import CONTESTANTS, Contestant
from .plot import draw_sweep, require_matplotlib
from .timing import Pace, race

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
# One after the other without a pause, as the engine's profile goes: weights stay in the caches.
_TURN = Pace(turns=1, seconds=0.05, calls=(6, 12), pause=0.0)
_PEERS = ("onnxruntime", "openvino", "openvino-default", "eager")


@dataclass(frozen=True)
class Layer:
    """A projection of spikes ``[C, H, W]``, as the engine and as PyTorch say it.

    ``kind``, ``stride`` and ``padding`` are those of ``Graph.projection``; ``weight`` is a shape.
    """

    name: str
    image: tuple[int, int, int]
    kind: str
    weight: tuple[int, ...]
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.weight[-1] // 2 if self.kind == "conv" else 0

    @property
    def output(self) -> tuple[int, int, int]:
        _, height, width = self.image
        if self.kind == "token_mix":
            return self.image
        return (self.weight[0], -(-height // self.stride), -(-width // self.stride))


LAYERS = (
    Layer("3x3, 96 to 192, 32x32", (96, 32, 32), "conv", (192, 96, 3, 3)),
    Layer("3x3 stride 2, 192 to 384, 32x32", (192, 32, 32), "conv", (384, 192, 3, 3), stride=2),
    Layer("pointwise, 384 to 1536, 64 tokens", (384, 1, 64), "linear", (1536, 384)),
    Layer("pointwise, 1536 to 384, 64 tokens", (1536, 1, 64), "linear", (384, 1536)),
    Layer("token mixing, 16 heads of 64x64", (384, 1, 64), "token_mix", (16, 64, 64)),
)


class Dense(nn.Module):
    """The same projection of a batch of one, without neurons."""

    def __init__(self, layer: Layer, weight: np.ndarray) -> None:
        super().__init__()
        self.layer = layer
        if layer.kind == "token_mix":  # the tokens stand last, so that nothing is transposed
            weight = np.ascontiguousarray(weight.swapaxes(1, 2))
        self.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[1, C, H, W]``; pointwise over tokens ``[N, C]``, as every library likes it best."""
        if self.layer.kind == "conv":
            return nn.functional.conv2d(
                x, self.weight, stride=self.layer.stride, padding=self.layer.padding
            )
        if self.layer.kind == "linear":
            return nn.functional.linear(x, self.weight)
        heads, tokens, _ = self.weight.shape
        return torch.matmul(x.view(heads, -1, tokens), self.weight)

    def input(self, x: np.ndarray) -> np.ndarray:
        """The engine's input as ``forward`` takes it."""
        if self.layer.kind == "linear":
            return np.ascontiguousarray(x.reshape(self.layer.image[0], -1).T)
        return x if self.layer.kind == "conv" else x.reshape(self.layer.image[0], -1)


def graph_of(layer: Layer, weight: np.ndarray) -> Graph:
    """0/1 images pass neurons unchanged, then the layer drives neurons; a readout ends it."""
    channels = layer.image[0]
    graph = Graph()
    image = graph.add_input("input", layer.image)
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    copy = graph.projection("identity", "conv", image, identity)
    graph.add_current("copy", layer.image, [copy])
    spikes = graph.add_lif("spikes", "copy", layer.image, threshold=0.5)
    projection = graph.projection(
        "layer", layer.kind, spikes, weight, stride=layer.stride, padding=layer.padding
    )
    graph.add_current("current", layer.output, [projection])
    fired = graph.add_lif("fired", "current", layer.output)
    ones = np.ones((1, layer.output[0]), np.float32)
    graph.add_current(
        "sum", (1, *layer.output[1:]), [graph.projection("sum", "linear", fired, ones)]
    )
    graph.add_current("mean", (1, 1, 1), [graph.projection("mean", "mean", "sum")])
    graph.add_readout("logits", "mean", 1)
    return graph


def run(args: argparse.Namespace) -> int:
    require_matplotlib()
    about = machine(args.threads)
    densities = DENSITIES[2::3] if args.quick else DENSITIES
    results = []
    for layer in LAYERS:
        start = time.perf_counter()
        results.append(measure_layer(layer, densities, args.threads, turns=2 if args.quick else 8))
        print(f"{layer.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(_show(results, densities))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": about, "layers": results}, indent=1) + "\n"
    write_atomically(out / "sweep.json", lambda p: p.write_text(text))
    draw_sweep(out / "sweep.png", results, about)
    print(f"\nwritten to {out / 'sweep.json'} and {out / 'sweep.png'}")
    return 0


def measure_layer(
    layer: Layer, densities: Sequence[float], threads: int, turns: int
) -> dict[str, Any]:
    """The engine's time for the layer at each density, and everybody's dense time.

    The engine's is that of the layer's own steps: listing the spikes, adding rows, stepping the
    neurons. A dense time is that of a call, the neurons left out.

    Raises:
        RuntimeError: a dense library or the engine computes something else.
    """
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    fan_in = int(np.prod(layer.weight[1:])) if layer.kind != "token_mix" else layer.weight[2]
    weight = rng.normal(0, 2 / np.sqrt(fan_in), layer.weight).astype(np.float32)
    engine = Engine(graph_of(layer, weight), threads)
    inputs = {
        density: (rng.random((1, *layer.image)) < density).astype(np.float32)
        for density in densities
    }
    dense = Dense(layer, weight)
    for x in inputs.values():
        _check(layer, engine, dense, x)
    times: dict[float | str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="stmixer-bench-") as folder:
        x = dense.input(inputs[densities[-1]])
        peers, calls = _open_peers(dense, x, Path(folder), threads)
        for _ in range(turns):
            for density, image in inputs.items():
                times.setdefault(density, []).append(_layer_time(engine, image))
            for key, call in calls.items():
                times.setdefault(key, []).append(race({key: call}, _TURN)[key].median)
    points = [
        {
            "density": density,
            "measured_density": float(inputs[density].mean()),
            "synops": engine.run(inputs[density]).stats["spikes"].synops,
            "ms": statistics.median(times[density]),
        }
        for density in densities
    ]
    for row in peers:
        if row["key"] in calls:
            row["ms"] = statistics.median(times[row["key"]])
    even = {}
    for precision in ("fp32", "default"):
        dense_ms = [r["ms"] for r in peers if r["precision"] == precision and "ms" in r]
        if dense_ms:
            even[precision] = break_even(points, min(dense_ms))
    return {
        "layer": layer.name, "threads": threads, "isa": engine.isa, "engine": points,
        "dense": peers, "break_even": even,
    }  # fmt: skip


def break_even(points: Sequence[dict[str, Any]], dense: float) -> float | None:
    """The density at which the engine takes as long, or the least if it takes longer there already.

    None: the engine is faster at all densities.
    """
    previous = None
    for point in points:
        if point["ms"] > dense:
            if previous is None:
                return point["density"]
            share = (dense - previous["ms"]) / (point["ms"] - previous["ms"])
            return previous["density"] + share * (point["density"] - previous["density"])
        previous = point
    return None


def _check(layer: Layer, engine: Engine, dense: Dense, x: np.ndarray) -> None:
    with torch.no_grad():
        y = dense(torch.from_numpy(dense.input(x))).numpy()
    fired = np.asarray(engine.run(x, record=True).spikes["fired"]).reshape(layer.output)
    if layer.kind == "linear":
        y = y.T
    y = y.reshape(layer.output)
    wrong = ((y >= 1) != (fired > 0)) & (np.abs(y - 1) > 1e-4)
    if wrong.any():
        raise RuntimeError(f"{layer.name}: {wrong.sum()} spikes of the engine are not PyTorch's")


def _layer_time(engine: Engine, x: np.ndarray, repeat: int = 12) -> float:
    names = ("spikes (lists)", "layer")
    return sum(ms for name, ms in engine.profile(x, repeat) if name in names)


def _open_peers(
    dense: Dense, x: np.ndarray, folder: Path, threads: int
) -> tuple[list[dict[str, Any]], dict[str, Callable[[], object]]]:
    torch.save(dense, folder / "layer.pt")
    files = {"eager": folder / "layer.pt"}
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {}
    with torch.no_grad():
        expected = dense(torch.from_numpy(x)).numpy()
    for key in _PEERS:
        contestant: Contestant = CONTESTANTS[key]
        name = "oneDNN (PyTorch)" if key == "eager" else contestant.label
        row = {"key": key, "contestant": name, "precision": contestant.precision, "reason": None}
        rows.append(row)
        row["reason"] = contestant.missing()
        if row["reason"] is not None:
            continue
        if key not in files:
            files[key] = folder / "layer.onnx"
            if not files[key].exists():
                export_onnx(dense, torch.from_numpy(x), files[key])
        session = contestant.open(files[key], threads)
        y = np.array(session.call(x)[0])
        if np.abs(y - expected).max() > (0.05 if key == "openvino-default" else 1e-3):
            raise RuntimeError(f"{dense.layer.name}: {name} computes something else")
        row["note"] = session.note
        calls[key] = partial(session.call, x)
    return rows, calls


def _show(results: Sequence[dict[str, Any]], densities: Sequence[float]) -> str:
    dense = results[0]["dense"]
    header = ["ms at density", *(f"{d:g}" for d in densities)]
    header += [row["contestant"] for row in dense]
    header += [f"break-even, {precision}" for precision in results[0]["break_even"]]
    rows = []
    for result in results:
        cells = [f"{point['ms']:.3f}" for point in result["engine"]]
        cells += [f"{row['ms']:.3f}" if "ms" in row else "-" for row in result["dense"]]
        for even in result["break_even"].values():
            cells.append(f"above {densities[-1]:g}" if even is None else f"{even:.2f}")
        rows.append([result["layer"], *cells])
    notes = [
        f"{row['contestant']}: {row['reason'] or row['note']}"
        for row in dense
        if row["reason"] or row["note"]
    ]
    return "\n".join([format_table(header, rows), *notes])
