"""Networks, recordings and options of the event-driven simulator that Hypothesis draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from support.event_cases import output_size, random_network, random_recording

import stmixer_ops as so

STEP = 8


@st.composite
def networks(draw: Any, **fixed: Any) -> so.Graph:
    """:func:`random_network` of any sizes; ``fixed`` are options that are not drawn."""
    image = (draw(st.integers(1, 2)), draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    kernels, strides = (draw(st.tuples(*[st.integers(1, n)] * 2)) for n in (3, 2))
    paddings = tuple(draw(st.integers(0, k - 1)) for k in kernels)
    sizes = [image[1:]]
    for i in range(2):
        sizes.append(output_size(sizes[-1], kernels[i], strides[i], paddings[i]))
        assume(min(sizes[-1]) >= 1)
    heads, flag = draw(st.integers(1, 2)), st.booleans()
    drawn = {
        "seed": draw(st.integers(0, 1000)),
        "channels": (draw(st.integers(2, 3)), heads * draw(st.integers(1, 2))),
        "beside": draw(flag),
        "protect": all(n >= m for n, m in zip(image[1:], sizes[2], strict=True)) and draw(flag),
        "twice": draw(flag),
        "per_channel": draw(flag),
        "steps": draw(st.integers(1, 3)),
        "soft_reset": draw(flag),
        "max_spikes": draw(st.sampled_from([1, 1, 3])),
        "input_scale": draw(st.sampled_from([1.0, 0.5])),
    }
    return random_network(
        image=image, kernels=kernels, strides=strides, paddings=paddings, heads=heads,
        **drawn | fixed,
    )  # fmt: skip


@st.composite
def recordings(draw: Any, shape: Sequence[int], unit: int = 1, most: int = 40) -> np.ndarray:
    """Ties, duplicates, bursts and silences, or nothing; times are multiples of ``unit``, of which
    at most 12 lie between the first event and the last if ``unit`` is not 1."""
    count = draw(st.sampled_from([most, most, most // 2, most // 2, 5, 2, 1, 0]))
    events = random_recording(shape, count, draw(st.integers(0, 1000)), draw(st.integers(0, 4)))
    if unit > 1:
        events["t"] = events["t"] * 12 // max(12, events["t"].max(initial=0))
    elif count > 2 and draw(st.booleans()):
        events["t"][draw(st.integers(1, count - 1)) :] += draw(st.sampled_from([17, 100]))
    events["t"] *= unit
    return events


@st.composite
def options(draw: Any, schedule: str, unit: int = 1) -> dict[str, Any]:
    """Of ``compile``, without biases; what is a time is a multiple of ``unit``."""
    drawn: dict[str, Any] = {"schedule": schedule, "step_us": STEP}
    some = {
        "multi_spike": st.just(True),
        "refractory_us": st.sampled_from([unit, 3 * unit]),
        "v_min": st.sampled_from([-0.5, -1.0]),
        "delay_us": st.sampled_from([unit, 2 * unit, {"conv1": unit, "mix.fc": 4 * unit}]),
        "readout": st.sampled_from(["rate", "total"]),
    }
    if schedule == "serial":
        some["order"] = st.just("depth")
    for name in draw(st.sets(st.sampled_from(sorted(some)), max_size=3)):
        drawn[name] = draw(some[name])
    return drawn


def input_shape(graph: so.Graph) -> tuple[int, int, int]:
    return tuple(next(p["shape"] for p in graph.populations if p["kind"] == "input"))
