"""The event-driven simulator as Python sees it: recordings in, logits and spike counts out."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._extension import extension
from .._numbers import integer
from ..engine.engine import Engine
from ..engine.network import CompiledNetwork, read_content, thread_count, unusable
from ..engine.source import Source
from ..graph import PRECISIONS, Graph, stmx
from .columns import columns_of, recordings_of
from .result import EventResult, Outcome, Shapes
from .stream import EventStream

if TYPE_CHECKING:
    from torch import nn

DEFAULT_STEP_US = 31_000
"""Where neither the caller nor the network says what a time step stands for."""

PRESETS = ("speck",)
_MOST = 2**62


class EventSimulator(CompiledNetwork):
    """A spiking network run event by event, without a clock.

    Made of a trained model or a :class:`~stmixer_ops.Graph` by :meth:`compile`, or of a ``.stmx``
    file by :meth:`load`. A recording is a structured array of events (t, x, y, p), as
    :func:`stmixer_ops.events.read` gives it; an event adds weight 1 to neuron (p, y, x) of the
    input, which passes it on at once. Results do not depend on threads, batch or instruction set,
    to the last bit.

    Both constructors take these keywords:

    Args:
        step_us: microseconds that one time step of the trained network stands for: they say how
            fast membranes leak and how the logits are scaled. By default what the network says,
            else 31,000.
        schedule: ``"rank"``: arrivals of one timestamp are summed, population by population in
            topological order, then the neurons that they reach are tested. ``"serial"``: one spike
            at a time is delivered to all that it reaches. ``"grid"``: time-stepped, as
            :class:`~stmixer_ops.Engine` computes.
        bias: what becomes of biases, which folded batch norms leave and which no clock adds:
            ``"refuse"`` names the layers; ``"tick"`` adds them every ``step_us``; ``"current"``
            integrates them as a constant current; ``"initial"`` starts every membrane with as many
            of them as the network has steps; ``"drop"``.
        multi_spike: a test emits as many spikes as thresholds fit into the membrane; else one, and
            what is left is held until the neuron is visited again.
        refractory_us: after a spike a neuron integrates and is not tested for so long.
        v_min: membranes stay at or above it, relative to v_reset.
        tau_us: time constant of every leak, instead of what decay and ``step_us`` say.
        order: serial: ``"fifo"``, or ``"depth"``, which follows each spike to its end first.
        order_seed: serial: spikes that one delivery causes are queued in a random order of it.
        delay_us, jitter_us, drop: a number for all projections, or a mapping by name: by how much
            spikes come late, by how much more at most, and which share of them is lost; drawn from
            ``seed`` per projection, neuron and spike.
        latch_us: without a clock, how long pools and spike products hold a spike, which they cannot
            do without: a max-pool lets the first spike of a window through and blocks the others
            for so long (0: it lets all through); a spike product holds each bit of its operands
            for so long, at least for its own timestamp, and a spike adds what the product grows
            by. By default networks with these are refused, unless ``schedule`` is ``"grid"``.
        precision: ``"int8"`` for the network of :func:`~stmixer_ops.graph.quantize.quantize`, with
            ``calibration`` as :meth:`Engine.compile` takes it.
        preset: ``"speck"``: integrate-and-fire, ``serial`` and ``depth``, subtracting reset, one
            spike an update, 8-bit weights and 16-bit state with saturation.
        readout: ``"rate"``: logits per elapsed step. ``"total"``: per step of the network (the
            default with ``bias="initial"``).
        max_sops: a recording that causes more synaptic operations (fan-out) is stopped.
        num_threads: by default the CPUs this process may use; recordings are spread over them.

    Raises:
        ValueError: naming the option, or the node of the network that cannot be simulated.
    """

    def __init__(self, graph: Graph, **options: Any) -> None:
        self._open(stmx.encode(_prepared(graph, options)), options)

    def _open(self, content: bytes, options: dict[str, Any]) -> None:
        options = dict(options)
        threads = thread_count(options.pop("num_threads", None))
        self._content, self._options = content, options
        said = stmx.describe(content)
        native = _native_options(content, said["step_us"], options)
        self._native = extension().EventSimulator(content, native, threads)
        self._batch_first, self._steps = said["batch_first"], said["steps"]
        self.input_name: str = self._native.input[0]
        self._shapes: Shapes = [self._native.input, *self._native.populations]
        self.schedule: str = options.get("schedule", "rank")

    @classmethod
    def compile(
        cls,
        model: nn.Module | Graph,
        *,
        precision: str = "fp32",
        calibration: Any = None,
        **options: Any,
    ) -> EventSimulator:
        """Of a trained model as it is in eval mode, or of a graph; see :class:`EventSimulator`."""
        if not isinstance(precision, str) or precision not in PRECISIONS:
            raise ValueError(f"precision must be 'fp32' or 'int8', got {precision!r}")
        if isinstance(model, Graph):
            if precision == "int8" and model.precision == "fp32":
                from ..engine.calibrate import calibrated

                model = calibrated(model, calibration, None, run=Engine)
            return cls(model, **options)
        if precision == "fp32" and calibration is None:
            from ..graph.export import export

            return cls(export(model), **options)
        return cls(Engine.compile(model, precision, calibration).graph, **options)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | bytes | bytearray | memoryview, **options: Any
    ) -> EventSimulator:
        """Of a file of :meth:`Engine.save`, or its content as bytes; needs no PyTorch."""
        name, content = read_content(path)
        try:
            extension().projection_names(content)  # checks all of the file
            graph = stmx.decode(content)
        except ValueError as error:
            raise unusable(name, content, error) from None
        return cls(graph, **options)

    def run(
        self, events: Any, t0: int = 0, duration: int | None = None, record: bool = False
    ) -> EventResult:
        """Simulate one recording, or several, spread over the threads.

        Args:
            events: a recording, or a list (any iterable) of recordings or of pairs
                (recording, label). With ``schedule="grid"`` also float32 input as
                :class:`~stmixer_ops.Engine` takes it.
            t0: when the recordings begin, µs.
            duration: how long they last, µs; by default up to the last event.
            record: keep every spike with its time.
        Raises:
            ValueError: events that are unsorted, outside the input, before t0 or after the end,
                naming the first one; input that the schedule does not take.
        Warns:
            RuntimeWarning: naming recordings that ``max_sops`` stopped.
        """
        if _is_dense(events):
            return self._show(events, record)
        t0 = integer("t0", t0, least=-_MOST, most=_MOST)
        length = -1 if duration is None else integer("duration", duration, most=_MOST)
        recordings = recordings_of(events)
        several = len(recordings) > 1
        prepared = [
            columns_of(r, f"recordings[{i}]" if several else "events", self.input_shape)
            for i, r in enumerate(recordings)
        ]
        columns = [c for c, _ in prepared]

        def trace() -> list[tuple[np.ndarray, Outcome, int]]:
            outcomes = self._native.run(columns, t0, length, False, True)
            times = [arrays[0] for _, arrays in prepared]
            return [(t, outcome, t0) for t, outcome in zip(times, outcomes, strict=True)]

        return self._result(self._native.run(columns, t0, length, record, False), record, trace)

    def _show(self, x: Any, record: bool) -> EventResult:
        """Dense input, ``[T, B, C, H, W]`` or ``[B, C, H, W]`` float32."""
        source = Source(x, self.input_shape, self._steps, self._batch_first)
        first, steps, batch, _, step_stride, image_stride = source.arguments
        addresses = [first + 4 * image * image_stride for image in range(batch)]

        def no_trace() -> list[tuple[np.ndarray, Outcome, int]]:
            raise ValueError("latency is of recordings of events, but the input was dense")

        outcomes = self._native.show(addresses, steps, step_stride, record, False)
        return self._result(outcomes, record, no_trace)

    def _result(self, outcomes: list[Outcome], record: bool, trace: Any) -> EventResult:
        for i, outcome in enumerate(outcomes):
            if outcome["stopped"]:
                warnings.warn(
                    f"recording {i} was stopped at t={outcome['time']} us: it exceeded max_sops="
                    f"{self._options['max_sops']}; its results are partial",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return EventResult(outcomes, self.input_name, self._shapes, self.num_classes, record, trace)

    def stream(self, t0: int = 0) -> EventStream:
        """A recording that is pushed in pieces."""
        return EventStream(self, integer("t0", t0, least=-_MOST, most=_MOST))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = self._shapes[0][1]
        return channels, height, width

    @property
    def step_us(self) -> int:
        return self._native.step_us

    def __reduce__(self) -> tuple[Any, ...]:
        return _of, (self._content, {**self._options, "num_threads": self.num_threads})

    def __repr__(self) -> str:
        channels, height, width = self.input_shape
        return (
            f"EventSimulator({channels}x{height}x{width} -> {self.num_classes}, {self.schedule}, "
            f"step_us={self.step_us}, {self.num_threads} threads, {self.isa})"
        )


def _of(content: bytes, options: dict[str, Any]) -> EventSimulator:
    simulator = EventSimulator.__new__(EventSimulator)
    simulator._open(content, options)
    return simulator


def _prepared(graph: Graph, options: dict[str, Any]) -> Graph:
    """The graph as a preset wants it; what the preset says is taken out of the options."""
    preset = options.pop("preset", None)
    if preset is None:
        return graph
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    from .speck import OPTIONS, speck

    clashes = sorted(OPTIONS.keys() & options.keys())
    if clashes:
        raise ValueError(f"preset 'speck' says what {', '.join(clashes)} are")
    options |= OPTIONS
    return speck(graph)


_NAMED = {"schedule": "rank", "bias": "refuse", "order": "fifo"}
_NUMBERS = {"refractory_us": 0, "seed": 0}
_PER_PROJECTION = ("delay_us", "jitter_us", "drop")
_OTHERS = (
    "step_us", "readout", "multi_spike", "v_min", "v_max", "tau_us", "order_seed", "latch_us",
    "max_sops",
)  # fmt: skip


def _native_options(content: bytes, said_us: int | None, options: Mapping[str, Any]) -> Any:
    known = (*_NAMED, *_NUMBERS, *_PER_PROJECTION, *_OTHERS)
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected option {name!r}; there are {', '.join(known)}")
    native = extension().EventOptions()
    for name, default in _NAMED.items():
        getattr(native, f"set_{name}")(_text(name, options.get(name, default)))
    by_default = "total" if options.get("bias") == "initial" else "rate"
    readout = options.get("readout")
    native.set_readout(by_default if readout is None else _text("readout", readout))
    _check_serial_only(options)
    for name, number in _NUMBERS.items():
        setattr(native, name, integer(name, options.get(name, number), least=0, most=_MOST))
    step_us = options.get("step_us")
    native.step_us = integer(
        "step_us", said_us or DEFAULT_STEP_US if step_us is None else step_us, most=_MOST
    )
    native.multi_spike = _flag("multi_spike", options.get("multi_spike", False))
    for name in ("v_min", "v_max", "tau_us"):
        if options.get(name) is not None:
            setattr(native, name, _real(name, options[name]))
    if options.get("tau_us") is not None and not native.tau_us > 0:
        raise ValueError(f"tau_us must be positive, got {options['tau_us']!r}")
    if options.get("order_seed") is not None:
        native.permute = True
        native.order_seed = integer("order_seed", options["order_seed"], least=0, most=_MOST)
    for name in ("latch_us", "max_sops"):
        if options.get(name) is not None:
            setattr(native, name, integer(name, options[name], least=0, most=_MOST))
    _set_delays(native, content, options)
    return native


def _check_serial_only(options: Mapping[str, Any]) -> None:
    """The order of spikes means something where they go one by one."""
    schedule = options.get("schedule", "rank")
    if schedule == "serial":
        return
    depth, seeded = options.get("order") == "depth", options.get("order_seed") is not None
    for name, given in (("order", depth), ("order_seed", seeded)):
        if given:
            raise ValueError(f"{name} is for schedule='serial', got schedule={schedule!r}")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _set_delays(native: Any, content: bytes, options: Mapping[str, Any]) -> None:
    given = {name: options[name] for name in _PER_PROJECTION if options.get(name) is not None}
    if not given:
        return
    names = extension().projection_names(content)
    for option, value in given.items():
        if not isinstance(value, Mapping):
            value = dict.fromkeys(names, value)
        for name in value:
            if name not in names:
                raise ValueError(
                    f"{option} must name projections of the network ({', '.join(names)}), got "
                    f"{name!r}"
                )
        if option == "drop":
            numbers: list[Any] = [_real(option, value.get(name, 0.0)) for name in names]
            if not all(0 <= n <= 1 for n in numbers):
                raise ValueError(f"drop must lie in [0, 1], got {options[option]!r}")
        else:
            numbers = [integer(option, value.get(name, 0), least=0, most=10**18) for name in names]
        setattr(native, option, numbers)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, got {value!r}")
    return value


def _real(name: str, value: Any) -> float:
    plain = not isinstance(value, (str, bytes, bool)) and hasattr(value, "__float__")
    if not plain or getattr(value, "ndim", None) not in (None, 0):
        raise ValueError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if np.isnan(number):
        raise ValueError(f"{name} must be a number, got nan")
    return number


def _is_dense(x: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return True
    return isinstance(x, np.ndarray) and x.dtype.names is None and x.dtype != object
