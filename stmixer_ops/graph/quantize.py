"""From a float32 graph to one of integers: int8 weights, nothing but integer sums until the logits.

The scheme. Weights are symmetric and have one step ``d`` per output channel (token mixing: per
head and output token), ``d = max |w| / 127``; layers in ``int16_layers`` have 16 bits instead, and
those in ``int7_layers`` 7, of which the engine adds two in a byte. A spike adds a row of such
weights, so the sums are exact; what is rounded is this:

- Neurons fed by one projection count in steps of ``d / 2**F`` of their channel, ``F <= 8``: bias
  and threshold are rounded to that (the threshold up), and a leak keeps ``F`` bits of fraction.
- Where currents are added, the residual stream, all count in ``2**-16``; a projection's sums are
  brought there by a multiplication with 30 bits and a shift.
- The input is rounded to 16 bits in steps of ``2**-input_shift`` and saturates at ``2**15`` steps.
- The head has 16-bit weights, a 64-bit sum, and one float multiplication per class at the end.

``F`` is the largest for which no spikes whatsoever can overflow 2**30; the engine checks it again.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from .graph import Description, Graph

STREAM_BITS = 16
_DECAY_BITS = 15
_LIMIT = 2**30
_FRACTION = 8
_KINDS = ("input", "lif", "readout", "conv", "linear", "token_mix", "mean")


def quantize(
    graph: Graph,
    int16_layers: Collection[str] = (),
    input_limit: float = 16.0,
    int7_layers: Collection[str] = (),
) -> Graph:
    """The int8 network of a float32 one.

    Args:
        graph: of :func:`~.export.export`.
        int16_layers: names of projections whose weights get 16 bits.
        input_limit: inputs beyond this magnitude saturate.
        int7_layers: names of projections whose weights get 7 bits unless they get 16.
    Raises:
        ValueError: naming a projection that does not exist or a node that integers cannot express.
    """
    return _Quantizer(graph, int16_layers, input_limit, int7_layers).run()


def direct_layers(graph: Graph) -> set[str]:
    """Layers of a float32 network that read spikes and alone drive neurons."""
    return _Quantizer(graph).direct_layers()


def int16_layers(graph: Graph) -> list[str]:
    """The layers of an int8 network whose weights have 16 bits; its head always has."""
    currents = {c["name"] for c in graph.currents}
    return [
        p["name"] for c in graph.currents for p in c["projections"]
        if p["source"] not in currents and graph.tensors[p["weight"]].dtype == np.int16
    ]  # fmt: skip


class _Quantizer:
    def __init__(
        self,
        graph: Graph,
        int16_layers: Collection[str] = (),
        input_limit: float = 16.0,
        int7_layers: Collection[str] = (),
    ) -> None:
        names = [p["name"] for c in graph.currents for p in c["projections"]]
        for what, layers in (("int16_layers", int16_layers), ("int7_layers", int7_layers)):
            for name in layers:
                if name not in names:
                    raise ValueError(
                        f"{what} must name layers of the network ({', '.join(names)}), got {name!r}"
                    )
        for node in [*graph.populations, *(p for c in graph.currents for p in c["projections"])]:
            if node["kind"] not in _KINDS:
                raise ValueError(
                    f"int8: {node['name']}: no integers are defined for {node['kind']}"
                )
        if not 0 < input_limit < math.inf:
            raise ValueError(f"input_limit must be positive and finite, got {input_limit!r}")
        self.source, self.wide, self.slim = graph, frozenset(int16_layers), frozenset(int7_layers)
        shift = math.floor(math.log2((2**15 - 1) / input_limit))
        self.graph = Graph(
            steps=graph.steps, batch_first=graph.batch_first, precision="int8",
            input_shift=min(max(shift, 0), 24),
            mean=graph.mean, std=graph.std, step_us=graph.step_us,
        )  # fmt: skip
        self.currents = {c["name"]: c for c in graph.currents}
        self.kinds = {p["name"]: p["kind"] for p in graph.populations}
        # Of each current: what one unit of it is worth, an array over channels or a number.
        self.units: dict[str, Any] = {}

    def run(self) -> Graph:
        for current in self.source.currents:
            self._current(current)
        for population in self.source.populations:
            self._population(population)
        return self.graph

    def direct_layers(self) -> set[str]:
        spiking = {name for name, kind in self.kinds.items() if kind == "lif"}
        return {
            c["projections"][0]["name"]
            for c in self.source.currents
            if self._is_direct(c) and c["projections"][0]["source"] in spiking
        }

    # -- currents ----------------------------------------------------------------------------------

    def _current(self, current: Description) -> None:
        projections = [dict(p) for p in current["projections"]]
        bias = self._values(current["bias"])
        new = dict(current, projections=projections, bias=None)
        averages = any(p["kind"] == "mean" for p in projections)
        if not averages and self._is_head(current):
            self._head(current, projections[0])
        elif not averages and self._is_direct(current):
            bias = self._direct(current, projections[0], bias)
            new["bias"] = self._add_bias(current, bias)
        else:
            for projection in projections:
                if projection["kind"] != "mean":
                    self._into_stream(projection)
            self.units[current["name"]] = 2.0**-STREAM_BITS
            if bias is not None:
                new["bias"] = self._add_bias(current, bias * 2.0**STREAM_BITS)
        self.graph.currents.append(new)

    def _is_head(self, current: Description) -> bool:
        projections = current["projections"]
        return (
            len(projections) == 1
            and projections[0]["source"] in self.currents
            and self._covers(projections[0], current)
        )

    def _is_direct(self, current: Description) -> bool:
        """Whether one projection alone drives one population alone, or several if it mixes tokens:
        these share its sums."""
        projections, name = current["projections"], current["name"]
        if len(projections) != 1 or current["currents"] or projections[0]["kind"] == "mean":
            return False
        if projections[0]["kind"] == "token_mix":
            return True
        readers = [p["name"] for p in self.source.populations if p.get("current") == name]
        others = [
            c["name"] for c in self.source.currents
            if name in c["currents"] or any(p["source"] == name for p in c["projections"])
        ]  # fmt: skip
        return len(readers) == 1 and not others and self._covers(projections[0], current)

    def _covers(self, projection: Description, current: Description) -> bool:
        return self.source.tensors[projection["weight"]].shape[0] == current["shape"][0]

    def _direct(
        self, current: Description, projection: Description, bias: np.ndarray | None
    ) -> np.ndarray | None:
        """Fraction bits as the projection's shift; the bias in units of the current."""
        weight = self._values(projection["weight"])
        step = self._step(projection, weight)
        if bias is not None:  # rounding a bias to 2**-21 of itself leaves room for the fraction
            step = np.maximum(step, np.abs(bias) / self._emission(projection) * 2.0**-21)
        integers = self._round_weight(projection, weight, step)
        largest = self._largest(projection, integers)
        unit = step * self._emission(projection)
        fraction = _FRACTION
        while fraction >= 0:
            offset = 0 if bias is None else np.rint(np.abs(bias) / unit * 2**fraction)
            if np.max(largest * 2.0**fraction + offset) < _LIMIT:
                break
            fraction -= 1
        else:
            raise ValueError(f"int8: {projection['name']}: sums of its weights exceed 2**30")
        projection.update(multiplier=None, shift=fraction)
        self.units[current["name"]] = unit / 2**fraction
        return None if bias is None else bias / unit * 2**fraction

    def _into_stream(self, projection: Description) -> None:
        weight = self._values(projection["weight"])
        step = self._step(projection, weight)
        self._round_weight(projection, weight, step)
        factor = step * self._emission(projection) * 2.0**STREAM_BITS
        shift = int(np.clip(29 - np.floor(np.log2(factor.max())), 0, 32))
        name = f"{projection['name']}.multiplier"
        most = 2**31 - 1  # beyond it the engine refuses the stream
        self._add(name, np.minimum(np.rint(factor * 2.0**shift), most), np.int32)
        projection.update(multiplier=name, shift=shift)

    def _head(self, current: Description, projection: Description) -> None:
        weight = self._values(projection["weight"])
        step = np.maximum(np.abs(weight).max(1), 1e-30) / (2**15 - 1)
        self._add(projection["weight"], np.rint(weight / step[:, None]), np.int16)
        projection.update(multiplier=None, shift=0)
        self.units[current["name"]] = step * 2.0**-STREAM_BITS

    # -- weights -----------------------------------------------------------------------------------

    def _emission(self, projection: Description) -> float:
        """What the source emits at a time, in real numbers: a spike is 1."""
        is_input = self.kinds.get(projection["source"]) == "input"
        return 2.0**-self.graph.input_shift if is_input else 1.0

    def _bits(self, projection: Description) -> int:
        if projection["name"] in self.wide:
            return 16
        return 7 if projection["name"] in self.slim else 8

    def _step(self, projection: Description, weight: np.ndarray) -> np.ndarray:
        """One per output channel; token mixing has ``[heads, tokens]``."""
        inputs = tuple(range(2 if projection["kind"] == "token_mix" else 1, weight.ndim))
        most = 2 ** (self._bits(projection) - 1) - 1
        step = np.maximum(np.abs(weight).max(inputs), 1e-30) / most
        if self.kinds.get(projection["source"]) == "input":
            # Products with 16-bit inputs are summed in 32 bits.
            step = np.maximum(step, np.abs(weight).sum(inputs) * 2.0**-13)
        return step

    def _round_weight(
        self, projection: Description, weight: np.ndarray, step: np.ndarray
    ) -> np.ndarray:
        integers = np.rint(weight / step.reshape(*step.shape, *[1] * (weight.ndim - step.ndim)))
        wide = self._bits(projection) == 16
        self._add(projection["weight"], integers, np.int16 if wide else np.int8)
        return integers

    def _largest(self, projection: Description, integers: np.ndarray) -> np.ndarray:
        """Per output, the largest sum that its source can cause."""
        inputs = tuple(range(2 if projection["kind"] == "token_mix" else 1, integers.ndim))
        if self.kinds.get(projection["source"]) == "input":
            return np.abs(integers).sum(inputs) * 2.0**16
        return np.maximum(np.maximum(integers, 0).sum(inputs), np.maximum(-integers, 0).sum(inputs))

    # -- neurons -----------------------------------------------------------------------------------

    def _population(self, population: Description) -> None:
        new = dict(population)
        name, kind = population["name"], population["kind"]
        if kind == "readout":
            unit = self.units[population["current"]]
            bias = self._values(self.currents[population["current"]]["bias"])
            classes = population["shape"][0]
            scale = np.broadcast_to(unit, (classes,))
            new["scale"] = self._add(f"{name}.scale", scale, np.float32)
            bias = np.zeros(classes) if bias is None else bias
            new["bias"] = self._add(f"{name}.bias", bias, np.float32)
        elif kind == "lif":
            threshold, decay, v_init = (
                self.source.neuron_value(population, key)
                for key in ("threshold", "decay", "v_init")
            )
            if np.any(v_init) or population["input_scale"] <= 0:
                raise ValueError(
                    f"int8: {name}: v_init must be 0 and input_scale positive, got "
                    f"{v_init} and {population['input_scale']}"
                )
            if np.ndim(decay):
                raise ValueError(f"int8: {name}: decay must be one number, got one per channel")
            unit = self.units[population["current"]] * population["input_scale"]
            if np.ndim(threshold) and np.ndim(unit) == 2:
                raise ValueError(
                    f"int8: {name}: threshold must be one number after token mixing, got one per "
                    "channel"
                )
            steps = threshold / unit
            if np.ndim(steps) == 0:
                steps = np.full(population["shape"][0], steps)
            limited = np.clip(np.ceil(steps), -_LIMIT, 2 * _LIMIT - 1)
            new["threshold"] = self._add(f"{name}.threshold", limited, np.int32)
            new["reset"] = None
            if population["soft_reset"]:
                new["reset"] = self._add(
                    f"{name}.reset", np.clip(np.rint(steps), 0, _LIMIT), np.int32
                )
            new["decay"] = round(decay * 2**_DECAY_BITS)
            for key in ("input_scale", "v_init"):
                del new[key]
        self.graph.populations.append(new)

    # -- tensors -----------------------------------------------------------------------------------

    def _values(self, name: str | None) -> Any:
        return None if name is None else self.source.tensors[name].astype(np.float64)

    def _add(self, name: str, values: np.ndarray, dtype: type) -> str:
        self.graph.tensors[name] = np.ascontiguousarray(values.astype(dtype))
        return name

    def _add_bias(self, current: Description, bias: np.ndarray | None) -> str | None:
        if bias is None:
            return None
        limited = np.clip(np.rint(bias), -_LIMIT, _LIMIT)
        return self._add(current["bias"], limited, np.int32)
