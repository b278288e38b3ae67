"""Damaged engine files, one by one: ``python -m support.engine_fuzz kind seed seconds cases``.

Each must be refused with a ValueError that names the file, or load and run, twice with the same
result. Every eighth has another thing wrong with it, extreme numbers: if an int8 network with such
is taken, all its spikes must be those of integers without bounds. A crash, another exception or
more than 512 MB of memory ends the program with an error. Kinds are the two precisions, and
"clocked": a graph of what the engine does not run, which is checked only.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from support.engine_cases import clocked_graph, images, patch_graph, run_exactly
from support.stmx_cases import file_of, parts_of, reseal

from stmixer_ops._extension import extension
from stmixer_ops.engine import Engine
from stmixer_ops.engine.quantize import quantize
from stmixer_ops.engine.stmx import decode, encode
from stmixer_ops.graph import Graph

MEMORY = 512 << 20
NUMBERS = [-1, 0, 1, 2, 3, 8, 31, 33, 64, 255, 4096, 4097, 2**15, 2**16, 2**26, 2**30 - 1, 2**30,
           2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**30, -(2**31), -(2**31) - 1, 0.5, -0.5,
           1.5, 1e38, 1e308, float("nan"), float("inf")]  # fmt: skip
OTHERS = [None, True, False, "", "x", "input", [], {}, [[]], [0], [1, 1], [2, 1, 12], [1] * 4]
KINDS = ["conv", "linear", "token_mix", "mean", "identity", "max_pool", "avg_pool", "spike_product",
         "input", "lif", "readout", "graded", "int8", "fp32"]  # fmt: skip
EXTREMES = {
    "I8": [-128, -127, -1, 0, 1, 127],
    "I16": [-(2**15), -1, 0, 1, 2**15 - 1],
    "I32": [-(2**31), -(2**30) - 1, -(2**30), -1, 0, 1, 2**29, 2**30, 2**30 + 1, 2**31 - 1],
    "F32": [float("nan"), float("inf"), -3e38, 3e38, 0.0, -0.0, 1e-45],
}
DTYPES = {"F32": "<f4", "I32": "<i4", "I16": "<i2", "I8": "|i1"}


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            places(inner, found)
    return found


class Fuzzer:
    def __init__(self, content: bytes, seed: int) -> None:
        self.content = content
        self.random = random.Random(seed)

    # -- bytes -------------------------------------------------------------------------------------

    def truncated(self) -> bytes:
        return self.content[: self.random.randrange(len(self.content))]

    def flipped(self) -> bytes:
        """A few bits, mostly of the header; half the time with the checksum that belongs to it."""
        damaged = bytearray(self.content)
        header = 8 + int.from_bytes(self.content[:8], "little")
        for _ in range(self.random.choice([1, 1, 1, 2, 8])):
            end = self.random.choice([8, header, header, header, len(damaged)])
            damaged[self.random.randrange(end)] ^= 1 << self.random.randrange(8)
        return reseal(bytes(damaged)) if self.random.random() < 0.5 else bytes(damaged)

    def spliced(self) -> bytes:
        """A piece of the file gone, or written over another place."""
        a, b = sorted(self.random.randrange(len(self.content)) for _ in range(2))
        piece = self.content[a : min(b, a + self.random.choice([1, 8, 100, 1000]))]
        to = self.random.randrange(len(self.content))
        if self.random.random() < 0.5:
            piece = b""
        return reseal(self.content[:to] + piece + self.content[to + len(piece) + 1 :])

    # -- structure ---------------------------------------------------------------------------------

    def changed(self) -> bytes:
        description, table, data = parts_of(self.content)
        if self.random.random() < 0.25:
            data = self.numbers(table, data)
        for _ in range(self.random.choice([0, 1, 1, 1, 2, 3])):
            change = self.random.choice(
                [self.value] * 6 + [self.removed, self.copied, self.swapped]
            )
            change(description if self.random.random() < 0.8 else table)
        rows = list(table.items())
        if rows and self.random.random() < 0.03:
            rows.append(self.random.choice(rows))
        if self.random.random() < 0.03:
            depth = self.random.choice([5, 40, 100_000])
            description["populations"] = "deep"
            deep = json.dumps(description).replace('"deep"', "[" * depth + "]" * depth)
            return file_of(deep, rows, data)
        return file_of(description, rows, data)

    def numbers(self, table: Any, data: bytes) -> bytes:
        """Extremes in some tensors: thresholds, multipliers, weights."""
        changed = bytearray(data)
        for name in self.random.sample(list(table), self.random.choice([1, 1, 2, 5])):
            code = table[name]["dtype"]
            begin, end = table[name]["data_offsets"]
            values = np.frombuffer(memoryview(changed)[begin:end], DTYPES[code])
            extreme = self.random.choice(EXTREMES[code])
            kind = self.random.randrange(3)
            if kind == 0:
                values[:] = extreme
            elif kind == 1:
                values[self.random.randrange(len(values))] = extreme
            else:
                reach = 2.0 ** self.random.uniform(0, 8 * values.itemsize - 1) - 1
                some = np.random.default_rng(self.random.randrange(1 << 30))
                values[:] = some.uniform(-reach, reach, len(values)).astype(values.dtype)
        return bytes(changed)

    def strained(self) -> bytes:
        """Nothing but other numbers, as large as they may get."""
        description, table, data = parts_of(self.content)
        for current in description["currents"]:
            for projection in current["projections"]:
                if "shift" in projection and self.random.random() < 0.2:
                    projection["shift"] += self.random.choice([-8, -2, -1, 1, 2])
        return file_of(description, table, self.numbers(table, data))

    def place(self, target: Any) -> tuple[Any, Any]:
        return self.random.choice(places(target, []) or [([0], 0)])

    def value(self, target: Any) -> None:
        container, key = self.place(target)
        old = container[key]
        same_kind = [
            c[k] for c, k in places(target, []) if type(c[k]) is type(old) and c[k] is not old
        ]
        choices: list[Any] = [*NUMBERS, *OTHERS, self.random.choice(KINDS)]
        if isinstance(old, (int, float)):
            choices = [*NUMBERS, old + 1, old - 1, 2 * old, old + 1, -old, old / 2]
        elif isinstance(old, str) and self.random.random() < 0.8:
            choices = [*KINDS, old + "x", "\u0000", "\U0001f600"]
        if same_kind and self.random.random() < 0.5:
            choices = same_kind
        container[key] = copy.deepcopy(self.random.choice(choices))

    def removed(self, target: Any) -> None:
        container, key = self.place(target)
        del container[key]

    def copied(self, target: Any) -> None:
        container, key = self.place(target)
        if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[f"{key}2"] = copy.deepcopy(container[key])

    def swapped(self, target: Any) -> None:
        (a, i), (b, j) = self.place(target), self.place(target)
        a[i], b[j] = copy.deepcopy(b[j]), copy.deepcopy(a[i])

    def case(self) -> bytes:
        make = self.random.choice([self.truncated, self.flipped, self.spliced, *[self.changed] * 5])
        return make()


def run(engine: Engine, seed: int) -> list[bytes]:
    """What the engine computes, recorded, for a static image and for a sequence."""
    rng = np.random.default_rng(seed)
    shape = engine._native.input_shape
    results = []
    for lead in ((1,), (2, 2)):
        x = rng.normal(0, rng.choice([1, 1, 30, 1e30]), (*lead, *shape)).astype(np.float32)
        try:
            result = engine.run(x, record=True)
        except MemoryError:  # a large network, not a damaged one
            continue
        results += [result.logits.tobytes(), *(s.tobytes() for s in result.spikes.values())]
    return results


def check(path: Path, content: bytes, seed: int) -> bool:
    """Whether the file was taken."""
    path.write_bytes(content)
    try:
        engine = Engine.load(path, num_threads=1)
    except ValueError as error:
        assert str(path) in str(error), error
        return False
    assert run(engine, seed) == run(Engine.load(path, num_threads=2), seed), "not deterministic"
    return True


def check_graph(_path: Path, content: bytes, _seed: int) -> bool:
    """Whether the graph was taken, whose kinds the engine does not run."""
    try:
        extension().check_stmx(content)
    except ValueError:
        return False
    return True


def check_exactly(path: Path, content: bytes, seed: int) -> bool:
    """The same of a whole network, against integers without bounds."""
    if not check(path, content, seed):
        return False
    graph = decode(content)
    if graph.precision == "int8":
        for steps in (None, 5):
            run_exactly(graph, images(graph, 2, steps, seed))
    return True


def limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    used = int(status["VmSize"].split()[0]) << 10
    if used < 1 << 40:  # not under the address sanitizer, which maps all there is
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def fuzzed_graph(kind: str) -> Graph:
    if kind == "clocked":
        return clocked_graph(steps=2)
    graph = patch_graph(image=(2, 5, 4), channels=(4, 8), steps=2)
    lif0 = next(p for p in graph.populations if p["name"] == "lif0")
    lif0["threshold"] = graph._number("lif0.threshold", [0.5, 0.8, 1.0, 1.2])
    graph.mean, graph.std, graph.step_us = [0.5, 0.25], [1.0, 2.0], 1000
    return graph if kind == "fp32" else quantize(graph, ["late.fc2"])


def main(kind: str, seed: int, seconds: float, cases: int) -> None:
    graph = fuzzed_graph(kind)
    plain, exactly = (check_graph,) * 2 if kind == "clocked" else (check, check_exactly)
    content = encode(graph)
    folder = Path(tempfile.mkdtemp())
    path = folder / "fuzzed.stmx"
    if kind != "clocked":
        Engine(graph, 2)(images(graph, 1))  # whatever is allocated once
    limit_memory()
    begin, taken, strained, done = time.monotonic(), 0, 0, 0
    header = 8 + int.from_bytes(content[:8], "little")
    edges = {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) - 1}
    edges |= {header + end for e in parts_of(content)[1].values() for end in e["data_offsets"]}
    for size in sorted(edges - {len(content)}):
        assert not plain(path, content[:size], seed), f"a file of {size} bytes was taken"
        assert not plain(path, reseal(content[:size]), seed), f"{size} bytes were taken"
    while done < cases and time.monotonic() - begin < seconds:
        number = seed + done
        fuzzer = Fuzzer(content, number)
        try:
            if number % 8:
                taken += plain(path, fuzzer.case(), number)
            else:
                strained += exactly(path, fuzzer.strained(), number)
        except BaseException:
            print(f"case {number} of {kind}", file=sys.stderr)
            raise
        done += 1
    path.unlink(missing_ok=True)
    folder.rmdir()
    print(json.dumps({"cases": done, "taken": taken, "strained": strained}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
