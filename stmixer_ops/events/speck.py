"""A network as a chip of the Speck kind holds it: integrate-and-fire, 8-bit weights, 16-bit state.

The layers whose sums meet, a residual stream above all, share one step ``d = max |w| / 127``; their
weights are integers in [-127, 127], and membranes, thresholds and biases count in steps of it.
Source: the documentation of sinabs-dynapcnn, as ``docs/events.md`` quotes it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph.graph import Description, Graph

_MOST_WEIGHT = 127
_MOST_STATE = 2**15 - 1

OPTIONS: dict[str, Any] = {
    "schedule": "serial",
    "order": "depth",
    "multi_spike": False,
    "v_min": -float(_MOST_STATE + 1),
    "v_max": float(_MOST_STATE),
}
"""What the preset says of the options of :class:`~stmixer_ops.EventSimulator`."""


def speck(graph: Graph) -> Graph:
    """The float32 network of whole numbers; leaks are left out, resets subtract.

    Raises:
        ValueError: an int8 network, an operation that the chip does not have, or a threshold that
            16 bits do not hold, by name.
    """
    if graph.precision != "fp32":
        raise ValueError(f"preset 'speck' needs a float32 network, got {graph.precision}")
    new = Graph(
        steps=graph.steps, batch_first=graph.batch_first, mean=graph.mean, std=graph.std,
        step_us=graph.step_us,
    )  # fmt: skip
    units = _units(graph)
    for current in graph.currents:
        new.currents.append(_current(graph, current, units, new))
    for population in graph.populations:
        new.populations.append(_population(graph, population, units, new))
    return new


def _units(graph: Graph) -> dict[str, float]:
    """Of each current: what one step of it is worth."""
    names = {c["name"] for c in graph.currents}
    group = {name: name for name in names}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for current in graph.currents:
        for other in current["currents"]:
            group[root(other)] = root(current["name"])
    largest: dict[str, float] = {}
    for current in graph.currents:
        for projection in current["projections"]:
            kind, source = projection["kind"], projection["source"]
            if kind not in ("conv", "linear", "token_mix", "mean"):
                raise ValueError(f"preset 'speck': {projection['name']}: the chip has no {kind}")
            if source not in names and kind != "mean":
                weight = np.abs(graph.tensors[projection["weight"]]).max(initial=0.0)
                key = root(current["name"])
                largest[key] = max(largest.get(key, 0.0), float(weight))
    units = {name: largest.get(root(name), 0.0) / _MOST_WEIGHT or 1.0 for name in names}
    for current in graph.currents:  # behind the mean, nothing is on the chip
        for projection in current["projections"]:
            if projection["source"] in names:
                mean = projection["kind"] == "mean"
                units[current["name"]] = units[projection["source"]] if mean else 1.0
    return units


def _current(
    graph: Graph, current: Description, units: dict[str, float], new: Graph
) -> Description:
    unit = units[current["name"]]
    projections = []
    for projection in current["projections"]:
        if projection["kind"] != "mean":
            weight = graph.tensors[projection["weight"]].astype(np.float64)
            from_values = projection["source"] in units
            weight = weight * units[projection["source"]] if from_values else np.rint(weight / unit)
            new.tensors[projection["weight"]] = weight.astype(np.float32)
        projections.append(dict(projection))
    if current["bias"] is not None:
        bias = graph.tensors[current["bias"]].astype(np.float64) / unit
        on_chip = not any(p["source"] in units for p in projections)
        new.tensors[current["bias"]] = (np.rint(bias) if on_chip else bias).astype(np.float32)
    return {**current, "projections": projections}


def _population(
    graph: Graph, population: Description, units: dict[str, float], new: Graph
) -> Description:
    if population["kind"] != "lif":
        return dict(population)
    name = population["name"]
    unit = units[population["current"]] * population["input_scale"]
    found = {**population, "decay": 1.0, "input_scale": 1.0, "soft_reset": True, "max_spikes": 1}
    for key in ("threshold", "v_init"):
        value = np.rint(np.asarray(graph.neuron_value(population, key)) / unit)
        if key == "threshold":
            value = np.maximum(value, 1.0)
            if value.max() > _MOST_STATE:
                raise ValueError(
                    f"preset 'speck': {name}: its threshold is {value.max():.0f} steps of its "
                    f"weights, more than the {_MOST_STATE} of 16 bits"
                )
        if isinstance(population[key], str):
            new.tensors[population[key]] = value.astype(np.float32)
        else:
            found[key] = float(value)
    if isinstance(population["decay"], str):
        new.tensors.pop(population["decay"], None)
    return found
