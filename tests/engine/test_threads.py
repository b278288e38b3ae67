"""Many callers, forks, sleeping workers, and a hot path without allocation."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.cpp_build import built
from support.engine_cases import images, in_precision, patch_graph

from stmixer_ops.engine import Engine
from stmixer_ops.engine.graph import PRECISIONS


@pytest.mark.parametrize("precision", PRECISIONS)
def test_callers_from_many_threads_get_their_own_results(precision: str) -> None:
    graph = patch_graph(steps=2, image=(3, 12, 12), channels=(32, 64))
    graph = in_precision(graph, precision)
    engine = Engine(graph, 2)
    inputs = [images(graph, 1 + i % 3, seed=i) for i in range(8)]
    expected = [Engine(graph, 1).run(x, record=True) for x in inputs]
    barrier = threading.Barrier(8)

    def call(i: int) -> None:
        barrier.wait()
        for _ in range(20):
            np.testing.assert_array_equal(engine(inputs[i]), expected[i].logits)
            result = engine.run(inputs[i], record=True)
            for name, spikes in expected[i].spikes.items():
                np.testing.assert_array_equal(result.spikes[name], spikes)
            assert list(result.stats) == list(expected[i].stats)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory cannot be read here")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_ten_thousand_calls_from_eight_threads(precision: str) -> None:
    """Identical results, and memory that does not grow once all callers have been served."""
    graph = in_precision(patch_graph(steps=2, channels=(32, 64)), precision)
    engine = Engine(graph, 2)
    inputs = [images(graph, 1, seed=i) for i in range(8)]
    expected = [engine(x) for x in inputs]

    def call(i: int, times: int) -> bool:
        return all((engine(inputs[i]) == expected[i]).all() for _ in range(times))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8), [250] * 8))
        before = _resident_bytes()
        assert all(pool.map(call, range(8), [1000] * 8))
        assert _resident_bytes() - before < 1 << 20


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_input_that_is_not_finite_is_refused(precision: str, value: float) -> None:
    graph = in_precision(patch_graph(), precision)
    engine, x = Engine(graph), images(graph, 3)
    expected = engine(x)
    for place in [(0, 0, 0, 0), (1, 2, 3, 4), (2, -1, -1, -1)]:
        bad = x.copy()
        bad[place] = value
        with pytest.raises(ValueError, match="not finite"):
            engine(bad)
        with pytest.raises(ValueError, match="not finite"):
            engine.run(bad[None], record=True)
    np.testing.assert_array_equal(engine(x), expected)


def test_the_gil_is_free_during_a_run() -> None:
    graph = patch_graph(image=(3, 64, 64), channels=(64, 64), steps=8)
    engine, x = Engine(graph, 1), images(graph, 4)
    engine(x)
    running, ticks = threading.Event(), 0
    running.set()

    def call() -> None:
        for _ in range(3):
            engine(x)
        running.clear()

    caller = threading.Thread(target=call)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody is made to hand the GIL over
    try:
        caller.start()
        while running.is_set():
            ticks += 1
            time.sleep(0)
        caller.join()
    finally:
        sys.setswitchinterval(switch)
    assert ticks > 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_children_compute_too() -> None:
    graph = patch_graph(steps=2)
    engine, x = Engine(graph, 3), images(graph, 2)
    expected = engine(x)
    busy, stop = threading.Event(), threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            engine(x)
            busy.set()

    caller = threading.Thread(target=keep_busy)  # so that a fork meets locks that are held
    caller.start()
    try:
        busy.wait()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                same = all((engine(x) == expected).all() for _ in range(3))
                again = Engine(graph, 2)(x)
                del engine
                os._exit(0 if same and (again == expected).all() else 1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            np.testing.assert_array_equal(engine(x), expected)
    finally:
        stop.set()
        caller.join()


def test_idle_engines_use_no_processor_time() -> None:
    graph = patch_graph()
    engines = [Engine(graph, 4) for _ in range(3)]
    for engine in engines:
        engine(images(graph, 4))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.05, "workers must sleep, not spin"


def test_workers_end_with_their_engine() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads cannot be counted here")
    graph = patch_graph()
    x = images(graph, 2)
    before = len(list(tasks.iterdir()))
    engine = Engine(graph, 3)
    engine(x)
    assert len(list(tasks.iterdir())) == before + 2
    del engine
    assert len(list(tasks.iterdir())) == before


def test_no_worker_runs_on_the_callers_core() -> None:
    """Nor anywhere else where this process may not."""
    tasks = Path("/proc/self/task")
    if not (tasks.is_dir() and hasattr(os, "sched_getaffinity")):
        pytest.skip("cores cannot be asked for here")
    allowed = os.sched_getaffinity(0)
    if len(allowed) == 1:
        pytest.skip("there is one core only")
    graph = patch_graph()
    x = images(graph, 2)
    expected = Engine(graph, 1)(x)
    before = set(tasks.iterdir())
    engine = Engine(graph, 3)
    engine(x)
    workers = [int(task.name) for task in set(tasks.iterdir()) - before]
    cores = [os.sched_getaffinity(worker) for worker in workers]
    assert len(cores) == 2 and cores[0] == cores[1]
    assert cores[0] < allowed and len(cores[0]) == len(allowed) - 1
    for core in allowed:  # a caller that is bound to one core
        os.sched_setaffinity(0, {core})
        try:
            np.testing.assert_array_equal(engine(x), expected)
        finally:
            os.sched_setaffinity(0, allowed)
        engine(x)
        assert all(len(os.sched_getaffinity(worker)) == len(allowed) - 1 for worker in workers)


@pytest.mark.compiles
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_the_hot_path_allocates_nothing() -> None:
    """A C++ program counts calls of malloc during runs after the first."""
    program = built("engine_allocations") / "tests" / "support" / "engine_allocations"
    output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["first", "some", "later", "0"], output
