"""The graph that crosses into C++: plain data and float32 tensors, as `.stmx` files hold it.

A *population* emits: the input, LIF neurons, or the readout. A *current* sums projections, a bias
and other currents; populations integrate currents. A *projection* carries what a population
emits, or the values of a current, into the current that owns it. ``csrc/include/stmixer/graph.h``
says what each field means; the C++ side checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Description = dict[str, Any]

PRECISIONS = ("fp32", "int8")


@dataclass
class Graph:
    """A network as data.

    Attributes:
        steps: time steps for which a static image is repeated.
        batch_first: sequences come as ``[B, T, C, H, W]``.
        precision: ``"fp32"``, or ``"int8"`` for what :func:`~.quantize.quantize` made.
        input_shift: of an int8 network, whose input is read in units of ``2**-input_shift``.
        populations, currents: descriptions (JSON values), in order of execution.
        tensors: arrays by the names that the descriptions use, float32 unless int8.
    """

    steps: int = 1
    batch_first: bool = False
    precision: str = "fp32"
    input_shift: int = 0
    populations: list[Description] = field(default_factory=list)
    currents: list[Description] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

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
        threshold: float = 1.0,
        decay: float = 0.5,
        input_scale: float = 1.0,
        v_init: float = 0.0,
        soft_reset: bool = False,
    ) -> str:
        """LIF neurons ``[C, H, W]``, or tokens ``[C, N]``, that integrate ``current``."""
        self.populations.append(
            {
                "name": name,
                "kind": "lif",
                "current": current,
                "shape": _three(shape),
                "tokens": len(shape) == 2,
                "threshold": threshold,
                "decay": decay,
                "input_scale": input_scale,
                "v_init": v_init,
                "soft_reset": soft_reset,
            }
        )
        return name

    def add_current(
        self,
        name: str,
        shape: Sequence[int],
        projections: Sequence[Description] = (),
        currents: Sequence[str] = (),
        bias: np.ndarray | None = None,
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
        weight: np.ndarray | None = None,
        *,
        stride: int = 1,
        padding: int = 0,
        channel_offset: int = 0,
    ) -> Description:
        """A description for :meth:`add_current`.

        ``kind`` is ``"conv"`` (weight ``[out, in, kh, kw]``), ``"linear"`` (``[out, in]``, at every
        position), ``"token_mix"`` (``[heads, tokens out, tokens in]``), or ``"mean"`` over
        positions and time (no weight). It writes the channels from ``channel_offset`` on.
        """
        description: Description = {
            "name": name,
            "kind": kind,
            "source": source,
            "channel_offset": channel_offset,
        }
        if kind == "conv":
            description |= {"stride": stride, "padding": padding}
        if weight is not None:
            description["weight"] = self._add_tensor(f"{name}.weight", weight)
        return description

    def _add_tensor(self, name: str, value: np.ndarray) -> str:
        self.tensors[name] = np.ascontiguousarray(value, dtype=np.float32)
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
        }


def _three(shape: Sequence[int]) -> list[int]:
    return [shape[0], 1, shape[1]] if len(shape) == 2 else list(shape)
