"""The event-driven simulator equals the brute-force one: every spike, visit and operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.brute_events import brute
from support.drawn_events import STEP, input_shape, networks, options, recordings
from support.event_cases import random_network, random_recording
from support.pairs import pairwise
from support.simulator_cases import SCHEDULES, assert_equal, check, simulated

import stmixer_ops as so

pytestmark = pytest.mark.slow  # together they take longer than `make quick` may

ANY_BIAS = ["drop", "tick", "initial", "current"]
BIASES = {"grid": ANY_BIAS[:3], "rank": ANY_BIAS, "serial": ANY_BIAS}


def every(full: bool, examples: int) -> Any:
    """Settings of a search; ten times as many examples with ``--full``."""
    return settings(max_examples=examples * (10 if full else 1), deadline=None, derandomize=True)


def both(graph: Any, events: Any, run: Any = None, **given: Any) -> None:
    """Equal, on a case in which float32 is exact."""
    assume(check(graph, events, run, **given).exact)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_networks_without_leak(schedule: str, full: bool) -> None:
    @every(full, 40)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        graph = data.draw(networks())
        events = data.draw(recordings(input_shape(graph)))
        both(graph, events, **data.draw(options(schedule)))

    search()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_networks_that_leak_half_a_step(schedule: str, full: bool) -> None:
    """At multiples of the step, where 2^-n is exact."""

    @every(full, 25)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        graph = data.draw(networks(decay=0.5))
        events = data.draw(recordings(input_shape(graph), STEP))
        both(graph, events, **data.draw(options(schedule, STEP)))

    search()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_biases(schedule: str, full: bool) -> None:
    @every(full, 30)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(BIASES[schedule]))
        graph = data.draw(networks(bias=True, threshold=0.75, per_channel=False))
        events = data.draw(recordings(input_shape(graph)))
        end = int(events["t"].max(initial=0)) + data.draw(st.sampled_from([1, 1, 2, STEP, 30]))
        run = data.draw(st.sampled_from([None, {"duration": end}]))
        assume(run or len(events))
        given = data.draw(options(schedule))
        both(graph, events, run, bias=mode, **given)

    search()


def sensible(schedule: str, bias: str, leak: str, order: str, **_: Any) -> bool:
    """``grid`` knows no current; a leaky current is exact nowhere; order is of serial."""
    serial = schedule == "serial" or order == "fifo"
    return bias in BIASES[schedule] and serial and (leak, bias) != ("half", "current")


@pairwise(
    allowed=sensible, schedule=SCHEDULES, bias=ANY_BIAS, leak=["none", "half"],
    reset=["hard", "soft"], multi_spike=[False, True], refractory=[0, 2 * STEP],
    v_min=[None, -0.5], order=["fifo", "depth"],
    delay=[0, STEP, {"conv1": STEP, "mix.stm": 3 * STEP}], readout=["rate", "total"],
)  # fmt: skip
def test_any_two_options_together(
    schedule: str, bias: str, leak: str, reset: str, multi_spike: bool, refractory: int,
    v_min: float | None, order: str, delay: Any, readout: str,
) -> None:  # fmt: skip
    graph = random_network(
        seed=5, bias=True, steps=3, soft_reset=reset == "soft", decay=0.5 if leak == "half" else 1.0
    )
    events = random_recording((2, 4, 5), 60, seed=1, gap=1)
    events["t"] = events["t"] // 4 * STEP
    result = check(
        graph, events, {"duration": 9 * STEP}, step_us=STEP, schedule=schedule, bias=bias,
        multi_spike=multi_spike, refractory_us=refractory, v_min=v_min, order=order,
        delay_us=delay, readout=readout,
    )  # fmt: skip
    assert result.exact and sum(int(count.sum()) for count in result.counts.values()) > 20


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_weights_and_leaks_of_any_value(schedule: str, full: bool) -> None:
    """Equal wherever no membrane comes so near to a threshold that float32 might decide."""

    @every(full, 25)
    @given(st.data())
    def search(data: st.DataObject) -> None:
        mode = data.draw(st.sampled_from(BIASES[schedule]))
        decay = data.draw(st.sampled_from([0.0, 0.3, 0.9]))
        graph = data.draw(networks(bias=True, decay=decay, threshold=0.7, per_channel=False))
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        for name, values in graph.tensors.items():
            graph.tensors[name] = (values * rng.uniform(0.8, 1.2, values.shape)).astype(np.float32)
        events = data.draw(recordings(input_shape(graph)))
        given = data.draw(options(schedule))
        if data.draw(st.booleans()):
            given["tau_us"] = data.draw(st.sampled_from([3.0, 40.0]))
        expected = brute(graph, events, bias=mode, **given)
        assume(expected.margin > 1e-4)
        assert_equal(simulated(graph, events, bias=mode, **given), expected)

    search()


@pytest.mark.parametrize(("schedule", "seed"), [("rank", 2), ("serial", 7)])
def test_latency(schedule: str, seed: int) -> None:
    """The answer after each timestamp is that of the brute-force run of the events so far."""
    graph, t0 = random_network(seed=seed), 5
    events = random_recording((2, 4, 5), 30, seed, t0=t0)
    given: dict[str, Any] = {"step_us": STEP, "schedule": schedule, "readout": "total"}
    moments = []
    for t in np.unique(events["t"]):
        past = events[events["t"] <= t]
        logits = brute(graph, past, t0, **given).logits
        best = float((np.exp(logits) / np.exp(logits).sum()).max())
        moments.append(((t - t0, len(past) / len(events)), int(logits.argmax()), best))
    answers = [answer for _, answer, _ in moments]
    settled = len(answers)
    while settled and answers[settled - 1] == answers[-1]:
        settled -= 1
    result = so.EventSimulator.compile(graph, **given).run([events, events], t0=t0)
    np.testing.assert_allclose(result.latency(), [moments[settled][0]] * 2)
    sure = moments[len(moments) // 3][2]
    first = next(moment for moment, _, best in moments if best >= sure)
    np.testing.assert_allclose(result.latency(confidence=sure * (1 - 1e-6)), [first] * 2)
    highest = max(best for _, _, best in moments)
    assert np.isnan(result.latency(confidence=(highest + 1) / 2)).all()
