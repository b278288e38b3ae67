"""One layer at a time, over the density of what it reads."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine import Engine
from ..engine.calibrate import calibrated
from ..exchange.onnx import export
from ..measure.table import format_table
from ..measure.timing import Pace, race
from .check import FIRST_TOLERANCE
from .layers import LAYERS, Dense, Layer, graph_of
from .peers import CONTESTANTS, quantized
from .report import OURS

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
# One after the other without a pause, as the engine's profile goes: weights stay in the caches.
_TURN = Pace(turns=1, seconds=0.05, calls=(6, 12), pause=0.0)
_PEERS = ("onnxruntime", "openvino", "eager", "openvino-default", "openvino-int8")


def measure_layers(densities: Sequence[float], threads: int, turns: int) -> list[dict[str, Any]]:
    """:func:`measure_layer` of all; says on stderr how far it is."""
    results = []
    for layer in LAYERS:
        start = time.perf_counter()
        results.append(measure_layer(layer, densities, threads, turns))
        print(f"{layer.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return results


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
    images = {d: (rng.random((1, *layer.image)) < d).astype(np.float32) for d in densities}
    graph = graph_of(layer, weight)
    integer = calibrated(graph, np.concatenate(list(images.values())), run=Engine)
    engines = {"engine": Engine(graph, threads), "engine-int8": Engine(integer, threads)}
    dense = Dense(layer, weight)
    for key, engine in engines.items():
        for x in images.values():
            _check(layer, engine, FIRST_TOLERANCE[CONTESTANTS[key].precision], dense, x)
    times: dict[tuple[str, float] | str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="stmixer-bench-") as folder:
        inputs = [dense.input(x) for x in images.values()]
        peers, calls = _open_peers(dense, inputs, Path(folder), threads)
        for _ in range(turns):
            for density, image in images.items():
                for key, engine in engines.items():
                    times.setdefault((key, density), []).append(_layer_time(engine, image))
            for key, call in calls.items():
                times.setdefault(key, []).append(race({key: call}, _TURN)[key].median)
    sparse = {
        key: [
            {
                "density": density,
                "measured_density": float(image.mean()),
                "sops": engine.run(image).stats["spikes"].sops,
                "ms": statistics.median(times[key, density]),
            }
            for density, image in images.items()
        ]
        for key, engine in engines.items()
    }
    for row in peers:
        if row["key"] in calls:
            row["ms"] = statistics.median(times[row["key"]])
    even = {}
    for precision, key in OURS.items():
        dense_ms = [r["ms"] for r in peers if r["precision"] == precision and "ms" in r]
        if dense_ms:
            even[precision] = break_even(sparse[key], min(dense_ms))
    return {
        "layer": layer.name, "threads": threads, "isa": engines["engine"].isa, "sparse": sparse,
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


def _check(layer: Layer, engine: Engine, allowed: float, dense: Dense, x: np.ndarray) -> None:
    with torch.no_grad():
        y = dense(torch.from_numpy(dense.input(x))).numpy()
    fired = np.asarray(engine.run(x, record=True).spikes["fired"]).reshape(layer.output)
    if layer.kind == "linear":
        y = y.T
    wrong = ((y.reshape(layer.output) >= 1) != (fired > 0)).sum()
    if wrong > 2 + allowed * fired.size:
        raise RuntimeError(
            f"{layer.name}: {wrong} of {fired.size} spikes of the {engine.precision} engine are "
            "not PyTorch's"
        )


def _layer_time(engine: Engine, x: np.ndarray, repeat: int = 12) -> float:
    names = ("spikes (lists)", "layer")
    return sum(step.milliseconds for step in engine.profile(x, repeat) if step.name in names)


def _open_peers(
    dense: Dense, inputs: Sequence[np.ndarray], folder: Path, threads: int
) -> tuple[list[dict[str, Any]], dict[str, Callable[[], object]]]:
    """A row for each, and calls of those that are there; they run on the last input."""
    x = inputs[-1]
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {}
    with torch.no_grad():
        expected = dense(torch.from_numpy(x)).numpy()
    for key in _PEERS:
        contestant = CONTESTANTS[key]
        name = "oneDNN (PyTorch)" if key == "eager" else contestant.label
        reason = contestant.missing()
        row: dict[str, Any] = {
            "key": key, "contestant": name, "precision": contestant.precision, "note": "",
            "reason": reason,
        }  # fmt: skip
        rows.append(row)
        if reason is not None:
            continue
        session = contestant.open(_prepare(key, dense, inputs, folder), threads)
        error = np.linalg.norm(session.call(x)[0] - expected) / np.linalg.norm(expected)
        if not error < (1e-4 if contestant.precision == "fp32" else 0.05):
            raise RuntimeError(f"{dense.layer.name}: {name} is off by {error:.1%}")
        row["note"] = session.note
        calls[key] = partial(session.call, x)
    return rows, calls


def _prepare(key: str, dense: Dense, inputs: Sequence[np.ndarray], folder: Path) -> Path:
    """The file that the contestant reads the layer from."""
    if key == "eager":
        torch.save(dense, folder / "layer.pt")
        return folder / "layer.pt"
    path = folder / "layer.onnx"
    if not path.exists():
        export(dense, torch.from_numpy(inputs[-1]), path)
    if CONTESTANTS[key].precision != "int8":
        return path
    import openvino

    target = folder / "int8.xml"
    openvino.save_model(quantized(path, inputs), target, compress_to_fp16=False)
    return target


def show(results: Sequence[dict[str, Any]], densities: Sequence[float]) -> str:
    sparse, dense = [], []
    for result in results:
        for key, points in result["sparse"].items():
            cells = [f"{point['ms']:.3f}" for point in points]
            sparse.append([result["layer"], CONTESTANTS[key].precision, *cells])
        cells = [f"{row['ms']:.3f}" if "ms" in row else "-" for row in result["dense"]]
        for even in result["break_even"].values():
            cells.append(f"above {densities[-1]:g}" if even is None else f"{even:.2f}")
        dense.append([result["layer"], *cells])
    peers = results[0]["dense"]
    header = ["dense, ms", *(row["contestant"] for row in peers)]
    header += [f"equal, {precision}" for precision in results[0]["break_even"]]
    notes = [
        f"{row['contestant']}: {row['reason'] or row['note']}"
        for row in peers
        if row["reason"] or row["note"]
    ]
    tables = [
        format_table(["engine, ms at density", "", *(f"{d:g}" for d in densities)], sparse),
        format_table(header, dense),
        "equal: density at which the engine takes as long as the fastest dense kernel",
        "\n".join(notes),
    ]
    return "\n\n".join(tables)
