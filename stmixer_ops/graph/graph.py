"""The graph that crosses into C++: plain data and float32 tensors, as `.stmx` files hold it.

``csrc/include/stmixer/graph.h`` says what each field means; the C++ side checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Description = dict[str, Any]

PRECISIONS = ("fp32", "int8")

# What a projection of each kind says beside name, source, offset and weight.
_FIELDS = {
    "conv": ("stride", "padding"),
    "max_pool": ("kernel", "stride", "padding"),
    "avg_pool": ("kernel", "stride", "padding"),
    "spike_product": ("key", "value", "heads", "scale"),
}
_NOT_GIVEN = {"stride": 1, "padding": 0, "kernel": None, "key": None, "value": None, "heads": 1,
              "scale": 1.0}  # fmt: skip
_NEED_A_CLOCK = ("max_pool", "spike_product")


@dataclass
class Graph:
    """A spiking network as data, of three kinds of node.

    A *population* emits: the input, LIF neurons, graded values, or the readout. A *current* is a
    named sum of projections, a bias and other currents, which any number of populations integrate;
    a residual stream is a chain of currents. A *projection* carries what a population emits, or the
    values of a current, into the current that owns it. There are no cycles and no delays.

    Nodes are added in order of execution, by names of your own; each ``add_`` method returns the
    name. Weights are NumPy arrays or torch tensors. :class:`~stmixer_ops.Engine` runs the graph,
    and refuses by name what it cannot run; :func:`~stmixer_ops.graph.reference.run_reference` runs
    every float32 graph, slowly. A convolution, its neurons and a linear classifier::

        import torch
        import stmixer_ops as so

        conv, fc = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Linear(8, 10)

        graph = so.Graph(steps=4)
        graph.add_input("image", (1, 28, 28))
        kernels = graph.projection("conv", "conv", "image", conv.weight, padding=1)
        graph.add_current("features", (8, 28, 28), [kernels], bias=conv.bias)
        graph.add_lif("lif", "features", (8, 28, 28), threshold=0.5, decay=0.5)
        weights = graph.projection("fc", "linear", "lif", fc.weight)
        graph.add_current("scores", (10, 28, 28), [weights], bias=fc.bias)
        mean = graph.projection("mean", "mean", "scores")  # over positions and time
        graph.add_current("average", (10, 1, 1), [mean])
        graph.add_readout("logits", "average", 10)

        engine = so.Engine(graph)
        x = torch.rand(2, 1, 28, 28)
        logits = engine(x)

        spikes = so.functional.lif(conv(x).expand(4, -1, -1, -1, -1), threshold=0.5, decay=0.5)
        torch.testing.assert_close(logits, fc(spikes.mean((0, 3, 4))))

    Attributes:
        steps: time steps for which a static image is repeated.
        batch_first: sequences come as ``[B, T, C, H, W]``.
        precision: ``"fp32"``, or ``"int8"`` for what :func:`~.quantize.quantize` made.
        input_shift: of an int8 network, whose input is read in units of ``2**-input_shift``.
        populations, currents: descriptions (JSON values), in order of execution.
        tensors: arrays by the names that the descriptions use, float32 unless int8.
        mean, std: how values in [0, 1] become the input, ``(x - mean) / std``, one number per input
            channel; or None. The engine does not apply them: they are for who prepares images.
        step_us: microseconds of the world that one time step stands for, or None.
    """

    steps: int = 1
    batch_first: bool = False
    precision: str = "fp32"
    input_shift: int = 0
    populations: list[Description] = field(default_factory=list)
    currents: list[Description] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    mean: list[float] | None = None
    std: list[float] | None = None
    step_us: int | None = None

    def add_input(self, name: str, shape: Sequence[int]) -> str:
        """The input, real-valued images ``[C, H, W]``."""
        self.populations.append({"name": name, "kind": "input", "shape": list(shape)})
        return name

    def add_readout(self, name: str, current: str, classes: int) -> str:
        """The result: the values of a current that holds a mean over time."""
        self.populations.append(
            {"name": name, "kind": "readout", "shape": [classes, 1, 1], "current": current}
        )
        return name

    def add_lif(
        self,
        name: str,
        current: str,
        shape: Sequence[int],
        *,
        threshold: Any = 1.0,
        decay: Any = 0.5,
        input_scale: float = 1.0,
        v_init: Any = 0.0,
        soft_reset: bool = False,
        max_spikes: int = 1,
    ) -> str:
        """LIF neurons ``[C, H, W]``, or tokens ``[C, N]``, that integrate ``current``.

        At each step ``v = decay * v + input_scale * x``, and a spike where ``v >= threshold``; then
        ``v`` becomes 0, or with ``soft_reset`` is lowered by the threshold. Every run starts at
        ``v_init``. Threshold, decay and v_init are numbers or arrays ``[C]``. With ``max_spikes``
        above 1 a neuron gives as many spikes a step as thresholds fit into ``v``, up to that many
        (:class:`~stmixer_ops.Engine` takes 1 only).
        """
        self.populations.append(
            {
                "name": name,
                "kind": "lif",
                "current": current,
                "shape": _three(shape),
                "tokens": len(shape) == 2,
                "threshold": self._number(f"{name}.threshold", threshold),
                "decay": self._number(f"{name}.decay", decay),
                "input_scale": input_scale,
                "v_init": self._number(f"{name}.v_init", v_init),
                "soft_reset": soft_reset,
                "max_spikes": max_spikes,
            }
        )
        return name

    def add_graded(self, name: str, current: str, shape: Sequence[int]) -> str:
        """Emits the values of ``current`` at once and unchanged: ``[C, H, W]``, or tokens
        ``[C, N]``.

        What projections read that are neither spikes nor real-valued input: spikes after a pool,
        or the integers of a residual stream that sums spikes. (:class:`~stmixer_ops.Engine` has no
        such populations.)
        """
        self.populations.append(
            {"name": name, "kind": "graded", "current": current, "shape": _three(shape)}
        )
        return name

    def add_current(
        self,
        name: str,
        shape: Sequence[int],
        projections: Sequence[Description] = (),
        currents: Sequence[str] = (),
        bias: Any = None,
    ) -> str:
        """A sum over ``[C, H, W]`` or tokens ``[C, N]``; ``bias [C]``."""
        self.currents.append(
            {
                "name": name,
                "shape": _three(shape),
                "projections": list(projections),
                "currents": list(currents),
                "bias": None if bias is None else self._add_tensor(f"{name}.bias", bias),
            }
        )
        return name

    def projection(
        self,
        name: str,
        kind: str,
        source: str,
        weight: Any = None,
        *,
        stride: int = 1,
        padding: int = 0,
        channel_offset: int = 0,
        clocked_only: bool = False,
        kernel: int | None = None,
        key: str | None = None,
        value: str | None = None,
        heads: int = 1,
        scale: float = 1.0,
    ) -> Description:
        """A description for :meth:`add_current`.

        ================= ==========================================================================
        ``kind``          what it adds to the current
        ================= ==========================================================================
        ``conv``          convolution, weight ``[out, in, kh, kw]``, ``stride``, zero ``padding``
        ``linear``        weight ``[out, in]`` at every position
        ``token_mix``     weight ``[heads, tokens out, tokens in]``, in each group of channels
        ``mean``          mean over positions and time
        ``identity``      the source as it is
        ``max_pool``      the largest of ``kernel`` x ``kernel`` positions, ``stride``, ``padding``
        ``avg_pool``      their sum / ``kernel**2``; padding counts as zeros
        ``spike_product`` ``scale * (q @ k.T) @ v`` in each of ``heads`` groups of channels, of the
                          populations ``source`` (the query), ``key`` and ``value``, tokens
                          ``[C, N]``
        ================= ==========================================================================

        It writes the channels from ``channel_offset`` on. ``clocked_only`` marks what means
        something only where time has steps, so that an event-driven executor can refuse it: always
        ``max_pool`` and ``spike_product``.

        Raises:
            ValueError: a field that ``kind`` does not have.
        """
        fields = {
            "stride": stride, "padding": padding, "kernel": kernel,
            "key": key, "value": value, "heads": heads, "scale": scale,
        }  # fmt: skip
        own = _FIELDS.get(kind, ())
        for field_name, given in fields.items():
            if field_name not in own and given != _NOT_GIVEN[field_name]:
                raise ValueError(f"{name}: {kind} takes no {field_name}, got {given!r}")
        description: Description = {
            "name": name,
            "kind": kind,
            "source": source,
            "channel_offset": channel_offset,
            "clocked_only": clocked_only or kind in _NEED_A_CLOCK,
            **{key: fields[key] for key in own},
        }
        if weight is not None:
            description["weight"] = self._add_tensor(f"{name}.weight", weight)
        return description

    def neuron_value(self, population: Description, key: str) -> Any:
        """Threshold, decay or v_init of a float32 population: a number, or float64 ``[C]``."""
        value = population[key]
        return self.tensors[value].astype(np.float64) if isinstance(value, str) else value

    def _number(self, name: str, value: Any) -> float | str:
        """A number as it is; an array becomes a tensor of that name."""
        array = as_array(value)
        return self._add_tensor(name, array) if array.ndim else array.item()

    def _add_tensor(self, name: str, value: Any) -> str:
        self.tensors[name] = np.ascontiguousarray(as_array(value), dtype=np.float32)
        return name

    def description(self) -> Description:
        """The part without tensors, JSON values only."""
        return {
            "steps": self.steps,
            "batch_first": self.batch_first,
            "precision": self.precision,
            "input_shift": self.input_shift,
            "populations": self.populations,
            "currents": self.currents,
            "mean": self.mean,
            "std": self.std,
            "step_us": self.step_us,
        }


def sources(node: Description) -> list[str]:
    """The nodes that a population, a current or a projection reads."""
    if "projections" in node:
        read = [name for p in node["projections"] for name in sources(p)]
        return [*node["currents"], *read]
    return [node[key] for key in ("current", "source", "key", "value") if key in node]


def as_array(value: Any) -> np.ndarray:
    """Of a number, a sequence, an array or a tensor of any type on any device."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    return np.asarray(tensor.double() if tensor.is_floating_point() else tensor)


def _three(shape: Sequence[int]) -> list[int]:
    return [shape[0], 1, shape[1]] if len(shape) == 2 else list(shape)
