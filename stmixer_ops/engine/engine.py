"""The engine as Python sees it: arrays in, logits out; no PyTorch unless it is already there."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .._extension import extension
from ..graph import PRECISIONS, Graph, stmx
from .network import CompiledNetwork, read_content, thread_count, unusable
from .profile import Profile, StepProfile
from .source import Source, address
from .stats import LayerStats, Stats

if TYPE_CHECKING:
    import torch
    from torch import nn

    Array = np.ndarray | torch.Tensor

# What goes in also comes out.
_Kind = TypeVar("_Kind", np.ndarray, "torch.Tensor")


@dataclass(frozen=True)
class RunResult:
    """What :meth:`Engine.run` gives.

    Attributes:
        logits: ``[B, classes]`` float32.
        spikes: module path -> uint8 ``[T, B, C, H, W]`` or ``[T, B, C, N]``, in order of
            execution; empty unless recorded.
        stats: per layer neurons, spikes, rate, sops, macs.
    """

    logits: Array
    spikes: dict[str, Array]
    stats: Stats


class Engine(CompiledNetwork):
    """A spiking network that runs on the CPU, step by step: a spike adds a row of weights.

    Made of a trained model by :meth:`compile`, of a file by :meth:`load`, or of a network of your
    own, described as a :class:`~stmixer_ops.Graph`, whose documentation has an example.

    Takes images ``[B, C, H, W]`` (repeated for the model's T steps) or sequences
    ``[T, B, C, H, W]`` with a T of their own (``[B, T, ...]`` for a ``batch_first`` model): finite
    float32, NumPy or CPU torch; results are of the same kind. Results do not depend on batch,
    number of threads or instruction set, to the last bit. Several threads may call one engine at
    once.

    Attributes:
        precision: ``"fp32"`` or ``"int8"``.
        num_threads: threads that one call uses.
        isa: instruction set in use.
        steps: time steps of a static image.
        input_shape: ``(C, H, W)`` of an image.
        num_classes: width of the logits.
        mean, std: per input channel, what images in [0, 1] are normalised with before they come
            here, ``(x - mean) / std``; None where the network does not say.
        step_us: microseconds of the world that a time step stands for, or None.
    """

    def __init__(self, graph: Graph, num_threads: int | None = None) -> None:
        """
        Args:
            graph: a network as data; copied, so later changes to it have no effect.
            num_threads: by default the CPUs this process may use.
        Raises:
            ValueError: naming the node of the graph that is wrong, or that this engine cannot run:
                neurons that give several spikes a step, a mean of spikes (average a current), token
                mixing with a bias. Cycles and delays cannot be expressed.
        """
        self._open(stmx.encode(graph), thread_count(num_threads))

    def _open(self, content: bytes, num_threads: int) -> None:
        """From the bytes of a file, which are kept for :meth:`save` and for copies."""
        self._native = extension().Engine(content, num_threads)
        self._content = content
        self._stats: Stats | None = None

    @classmethod
    def _of(cls, content: bytes, num_threads: int) -> Engine:
        engine = cls.__new__(cls)
        engine._open(content, num_threads)
        return engine

    @classmethod
    def compile(
        cls,
        model: nn.Module,
        precision: str = "fp32",
        calibration: Any = None,
        num_threads: int | None = None,
        *,
        int16_layers: Collection[str] | None = None,
        mean: Any = None,
        std: Any = None,
        step_us: int | None = None,
    ) -> Engine:
        """Compile a trained model as it is in eval mode: batch norms folded, surrogates left out.

        Args:
            model: a :class:`~stmixer_ops.STMixer`, on any device and of any floating dtype;
                copied, so later changes to it have no effect.
            precision: ``"fp32"``, or ``"int8"``: integers throughout, see
                :mod:`stmixer_ops.graph.quantize`.
            calibration: for int8, sample inputs as the model takes them, of which the first 256
                are used: they tell the range of the input and which layers need 16-bit weights.
            num_threads: by default the CPUs this process may use.
            int16_layers: for int8, module paths of layers that get 16-bit weights in any case.
            mean, std: one number per input channel, with which images in [0, 1] were normalised in
                training; kept for those who prepare images, and saved.
            step_us: microseconds of the world that a time step stands for; kept and saved.
        Raises:
            ValueError: a module that cannot be expressed, or a value that is not finite, by
                module path.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be 'fp32' or 'int8', got {precision!r}")
        if precision == "fp32":
            for name, value in (("calibration", calibration), ("int16_layers", int16_layers)):
                if value is not None:
                    raise ValueError(f"{name} is for precision='int8'; fp32 needs none")
        from ..graph.export import export

        graph = export(model)
        graph.mean, graph.std = _numbers(mean), _numbers(std)
        graph.step_us = step_us
        if precision == "int8":
            from .calibrate import calibrated

            graph = calibrated(graph, calibration, int16_layers, run=lambda g: cls(g, num_threads))
        return cls(graph, num_threads)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | bytes | bytearray | memoryview,
        num_threads: int | None = None,
    ) -> Engine:
        """Read a file of :meth:`save`; needs no PyTorch, and nothing in the file executes.

        Args:
            path: the file, or its content as bytes.
            num_threads: by default the CPUs this process may use.
        Raises:
            ValueError: naming the file and what is wrong with it.
        """
        num_threads = thread_count(num_threads)
        name, content = read_content(path)
        try:
            return cls._of(content, num_threads)
        except ValueError as error:
            raise unusable(name, content, error) from None

    def _source(self, x: Any) -> Source:
        return Source(x, self.input_shape, self.steps, self._native.batch_first)

    def __call__(self, x: _Kind) -> _Kind:
        """Logits ``[B, classes]``."""
        source = self._source(x)
        logits = source.empty((source.batch, self.num_classes), "float32")
        if source.batch:
            self._native.run(*source.arguments, address(logits))
        return logits

    def run(self, x: Array, record: bool = False) -> RunResult:
        """Logits and statistics, and with ``record`` the spikes of every population."""
        source = self._source(x)
        logits = source.empty((source.batch, self.num_classes), "float32")
        layers = self._native.layers(source.steps, source.sequence)
        spikes = {}
        if record:
            for name, neurons, _ in layers:
                if neurons:
                    shape = (source.steps, source.batch, *self._native.spike_shapes[name])
                    spikes[name] = source.empty(shape, "uint8")
        activity = [(0, 0)] * len(layers)
        if source.batch:
            activity, _ = self._native.record(
                *source.arguments, address(logits), [address(s) for s in spikes.values()]
            )
        self._stats = _make_stats(layers, activity, source)
        return RunResult(logits, spikes, self._stats)

    @property
    def stats(self) -> Stats:
        """Statistics of the latest :meth:`run` (plain calls are not counted).

        Raises:
            RuntimeError: before the first one.
        """
        if self._stats is None:
            raise RuntimeError("no statistics yet: call engine.run(x) first")
        return self._stats

    def profile(self, x: Array, repeat: int = 20) -> Profile:
        """Each step's median time over ``repeat`` calls, its kernel, sops and bytes."""
        source = self._source(x)
        if not source.batch:
            raise ValueError(f"x must hold an image to time, got shape {list(x.shape)}")
        logits = source.empty((source.batch, self.num_classes), "float32")
        calls = [
            self._native.record(*source.arguments, address(logits), [])[1]
            for _ in range(repeat + 1)
        ][1:]
        # (seconds, sops, bytes of lists) per step; only the seconds differ between calls.
        medians = np.median(np.array(calls)[:, :, 0], axis=0) * 1e3
        return Profile(
            [
                StepProfile(name, kernel, float(time), sops, weights + lists)
                for (name, kernel, weights), time, (_, sops, lists) in zip(
                    self._native.plan, medians, calls[0], strict=True
                )
            ]
        )

    @property
    def precision(self) -> str:
        return self._native.precision

    @property
    def steps(self) -> int:
        return self._native.steps

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self._native.input_shape

    @property
    def mean(self) -> tuple[float, ...] | None:
        return tuple(self._native.mean) or None

    @property
    def std(self) -> tuple[float, ...] | None:
        return tuple(self._native.std) or None

    @property
    def step_us(self) -> int | None:
        return self._native.step_us or None

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine._of, (self._content, self.num_threads)

    def __repr__(self) -> str:
        channels, height, width = self.input_shape
        return (
            f"Engine({channels}x{height}x{width} -> {self.num_classes}, T={self.steps}, "
            f"{self.precision}, {self.num_threads} threads, {self.isa})"
        )


def _make_stats(layers: list[Any], activity: list[tuple[int, int]], source: Source) -> Stats:
    rows, counts = [], iter(activity)
    for name, neurons, macs in layers:
        if not neurons:
            rows.append(LayerStats(name, macs=macs * source.batch))
            continue
        spikes, sops = next(counts)
        rate = spikes / max(neurons * source.steps * source.batch, 1)
        rows.append(LayerStats(name, neurons, spikes, rate, sops))
    return Stats(rows, source.batch, source.steps)


def _numbers(values: Any) -> list[float] | None:
    """Of a number, a sequence, an array or a tensor."""
    return None if values is None else np.asarray(values, np.float64).reshape(-1).tolist()
