"""Valid networks that are larger than the time-stepped engine takes: refused by name, at once."""

from __future__ import annotations

import numpy as np
import pytest

from stmixer_ops.engine import Engine, Graph


def chain(shape: tuple[int, ...], weight: np.ndarray, *, mixed: int = 0, **conv: int) -> Graph:
    """Input, one convolution, neurons, token mixing by as many heads if any, mean and readout."""
    graph = Graph()
    graph.add_input("input", shape)
    first = graph.projection("conv", "conv", "input", weight, **conv)
    pad, stride = conv.get("padding", 0), conv.get("stride", 1)
    height, width = (
        (n + 2 * pad - k) // stride + 1 for n, k in zip(shape[1:], weight.shape[2:], strict=True)
    )
    channels = weight.shape[0]
    last = graph.add_current("drive", (channels, height, width), [first])
    if mixed:
        graph.add_lif("lif", last, (channels, height * width))
        ones = np.ones((mixed, height * width, height * width))
        mix = graph.projection("mix", "token_mix", "lif", ones)
        graph.add_lif("lif2", graph.add_current("mixed", (channels, height * width), [mix]),
                      (channels, height * width))  # fmt: skip
    mean = graph.projection("mean", "mean", last)
    graph.add_readout("out", graph.add_current("average", (channels, 1, 1), [mean]), channels)
    return graph


ONE = np.ones((1, 1, 1, 1))
REFUSED = {
    "'input': shape .1, 1, 4097. is larger": lambda: chain((1, 1, 4097), ONE),
    "'input': shape .1, 4097, 1. is larger": lambda: chain((1, 4097, 1), ONE),
    "'out': shape .65537, 1, 1. is larger": lambda: chain((1, 1, 1), np.ones((65537, 1, 1, 1))),
    "'input': shape .1, 2048, 2048. is larger": lambda: chain((1, 2048, 2048), ONE),
    "'conv': kernel, stride and padding .*4096, got 4097": lambda: chain(
        (1, 1, 4096), np.ones((1, 1, 1, 4097)), padding=1
    ),
    "'conv': kernel, stride and padding .*got 5000": lambda: chain((1, 8, 8), ONE, stride=5000),
    "'mix': takes memory for .* too narrow": lambda: chain(
        (1, 1, 1), np.ones((65536, 1, 1, 1)), mixed=65536
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_larger_networks_are_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(REFUSED[message]())


def test_networks_at_the_limit_run() -> None:
    engine = Engine(chain((1, 1, 4096), np.ones((1, 1, 1, 4096)), padding=0))
    np.testing.assert_array_equal(engine(np.full((1, 1, 1, 4096), 0.5, np.float32)), [[2048]])


def test_steps_and_the_sum_of_neurons_are_limited() -> None:
    graph = chain((1, 1, 1), ONE)
    graph.steps = 4097
    with pytest.raises(ValueError, match=r"'steps' must lie in \[1, 4096\], got 4097"):
        Engine(graph)
    graph = chain((16, 1024, 1024), np.ones((16, 16, 1, 1)))
    for i in range(8):
        graph.add_lif(f"lif{i}", "drive", (16, 1024, 1024))
    with pytest.raises(ValueError, match="neurons, more than the engine takes"):
        Engine(graph)
