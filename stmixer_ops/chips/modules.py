"""What can be read from a module tree that does not export to a graph.

A chain of layers, pools and neurons (``nn.Sequential``) is read exactly. Of any other network each
layer is taken to drive the next neurons in order of definition: weights, thresholds and operations
are its own, connections are not known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.export import export
from ..models.base import SpikingClassifier
from ..models.spikformer import SpikformerBlock
from ..nn import LIF, SSA, STM
from ..nn.effective import is_norm, with_plain_weights
from ..nn.fused import Folded
from ..nn.inference import fold_obstacle, folded_values
from ..nn.sml import SurrogateModule
from ..nn.wrappers import kept_modes, module_paths, unwrap
from .from_graph import from_graph
from .network import Bias, Network, Operation, Population, Shape, Synapses

_LAYERS = (nn.Conv2d, nn.Linear)
_NEUTRAL = (
    nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Unflatten, nn.AvgPool2d, nn.Sequential,
    nn.ModuleList,
)  # fmt: skip
_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_OTHER_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


def from_module(model: nn.Module, input_shape: Shape | None = None) -> Network:
    """The network of a module: exported where that is possible.

    Raises:
        ValueError: a weight that is not finite, by path.
    """
    try:
        return from_graph(export(model))
    except ValueError as error:
        reason = str(error)
    plain = with_plain_weights(unwrap(model))
    for path, value in plain.state_dict().items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ValueError(f"{path} holds a value that is not finite")
    if input_shape is None:
        size = getattr(plain, "img_size", None), getattr(plain, "in_channels", None)
        input_shape = None if None in size else (size[1], *size[0])  # type: ignore[misc]
    with torch.no_grad():
        if input_shape is not None and type(plain) is nn.Sequential:
            network = _Chain(input_shape).read(plain)
            if network is not None:
                return network
        return _Order(plain, input_shape, reason).network


class _Pending:
    """A layer that waits for the neurons behind it."""

    def __init__(self, path: str, layer: Any) -> None:
        self.path, self.layer = path, layer
        self.weight = layer.weight.detach().double()
        bias = getattr(layer, "bias", None)  # STM has none
        self.bias = None if bias is None else bias.detach().double()

    def fold(self, bn: Any) -> None:
        self.weight, self.bias = folded_values(self.layer, bn)

    def synapses(self, lif: LIF, source: str | None, inputs: Shape | None,
                 outputs: Shape | None, pool: int = 1) -> Synapses:  # fmt: skip
        weight = self.weight.cpu().numpy()
        kind = {3: "token_mix", 4: "conv"}.get(weight.ndim, "linear")
        stride, padding = 1, 0
        if isinstance(self.layer, nn.Conv2d):
            stride = self.layer.stride[0]
            padding = 0 if isinstance(self.layer.padding, str) else int(self.layer.padding[0])
        return Synapses(
            self.path, kind, source, weight, _threshold(lif).reshape([1] * weight.ndim),
            inputs, outputs, stride, padding, pool,
        )  # fmt: skip

    def biases(self, lif: LIF) -> tuple[Bias, ...]:
        if self.bias is None or not bool(self.bias.any()):
            return ()
        return (Bias(self.path, float(self.bias.abs().max() / abs(_threshold(lif)))),)


def _threshold(lif: LIF) -> np.ndarray:
    """In units of the weights."""
    return np.asarray((lif.threshold - lif.v_reset) / lif.input_scale)


def _population(
    path: str, lif: LIF, shape: Shape | None, synapses: list[Synapses], biases: tuple[Bias, ...]
) -> Population:
    return Population(
        path, shape, lif.decay, lif.reset_mode == "soft", 1, float(_threshold(lif)),
        tuple(synapses), biases,
    )  # fmt: skip


class _Chain:
    """Layer, batch norm, neurons, sum of neighbours, and again; the last layer is the readout."""

    def __init__(self, input_shape: Shape) -> None:
        self.network = Network({"input": input_shape})
        self.source, self.shape, self.pool = "input", input_shape, 1
        self.pending: _Pending | None = None

    def read(self, model: nn.Sequential) -> Network | None:
        """None if something else stands in the chain."""
        for path, module in _leaves(model):
            if not self.step(path, module):
                return None
        if self.pending is not None:
            self.network.classes = len(self.pending.weight)
        return self.network

    def step(self, path: str, module: nn.Module) -> bool:
        if isinstance(module, LIF):
            return self.fire(path, module)
        if isinstance(module, _LAYERS):
            if self.pending is not None:
                self.network.operations.append(Operation(path, "cascade"))
                between = self.outputs(self.pending)
                if between is None:
                    return False
                self.shape, self.pool = between, 1
            self.pending = _Pending(path, module)
        elif is_norm(module):
            if self.pending is None or fold_obstacle(module) is not None:
                self.network.operations.append(
                    Operation(path, "batch norm", fold_obstacle(module) or "no layer before it")
                )
            else:
                self.pending.fold(module)
        elif isinstance(module, nn.AvgPool2d):
            return self.sum_up(module)
        elif isinstance(module, _MAX_POOLS):
            return False
        else:
            return isinstance(module, (*_NEUTRAL, Folded))
        return True

    def fire(self, path: str, lif: LIF) -> bool:
        layer, self.pending = self.pending, None
        if layer is None:
            return False
        outputs = self.outputs(layer)
        if outputs is None:
            return False
        layer.weight = layer.weight / self.pool**2  # the mean of neighbours
        synapses = [layer.synapses(lif, self.source, self.shape, outputs, self.pool)]
        biases = layer.biases(lif)
        self.network.populations.append(_population(path, lif, outputs, synapses, biases))
        self.source, self.shape, self.pool = path, outputs, 1
        return True

    def outputs(self, pending: _Pending) -> Shape | None:
        layer, (channels, height, width) = pending.layer, self.shape
        if isinstance(layer, nn.Linear):
            if layer.in_features != channels * height * width:
                return None
            pending.weight = pending.weight.reshape(-1, *self.shape)  # a kernel of the whole map
            return layer.out_features, 1, 1
        uniform = len(set(layer.stride)) == 1 and not isinstance(layer.padding, str)
        simple = layer.groups == 1 and set(layer.dilation) == {1} and uniform
        if not simple or len(set(layer.padding)) != 1 or layer.in_channels != channels:
            return None
        height, width = (
            (size + 2 * int(layer.padding[0]) - kernel) // layer.stride[0] + 1
            for size, kernel in zip((height, width), layer.kernel_size, strict=True)
        )
        return layer.out_channels, height, width

    def sum_up(self, module: nn.AvgPool2d) -> bool:
        edge = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
        same = {module.kernel_size, module.stride} <= {edge, (edge, edge)}
        if not same or module.padding not in (0, (0, 0)) or self.pending or self.pool != 1:
            return False
        channels, height, width = self.shape
        self.pool, self.shape = edge, (channels, height // edge, width // edge)
        return True


class _Order:
    """Every layer drives the next neurons."""

    def __init__(self, model: nn.Module, input_shape: Shape | None, reason: str) -> None:
        self.network = Network(steps=getattr(model, "T", 1), unread=reason)
        if input_shape is not None:
            self.network.inputs["input"] = input_shape
        self.shapes = _spike_shapes(model, input_shape)
        pending: list[_Pending] = []
        for path, module in _leaves(model):
            if isinstance(module, SSA):
                self.operation(path, "spike product")
            elif isinstance(module, LIF):
                self.fire(path, module, pending)
                pending = []
            elif isinstance(module, (*_LAYERS, STM)) and module.weight is not None:
                pending.append(_Pending(path, module))
            elif is_norm(module):
                obstacle = fold_obstacle(module)
                if pending and obstacle is None and _matches(pending[-1], module):
                    pending[-1].fold(module)
                else:
                    self.operation(path, "batch norm", obstacle or "no layer before it")
            elif isinstance(module, _MAX_POOLS):
                self.operation(path, "max pool")
            elif isinstance(module, _OTHER_NORMS):
                self.operation(path, "normalisation")
            elif isinstance(module, nn.MultiheadAttention):
                self.operation(path, "spike product")
            elif not isinstance(module, (*_NEUTRAL, Folded)):
                self.operation(path, type(module).__name__)
        if pending:
            self.network.classes = len(pending[-1].weight)

    def operation(self, path: str, name: str, detail: str = "") -> None:
        self.network.operations.append(Operation(path, name, detail))

    def fire(self, path: str, lif: LIF, pending: list[_Pending]) -> None:
        shape = self.shapes.get(path)
        synapses = [p.synapses(lif, None, None, shape) for p in pending]
        biases = tuple(b for p in pending for b in p.biases(lif))
        self.network.populations.append(_population(path, lif, shape, synapses, biases))


def _matches(pending: _Pending, bn: Any) -> bool:
    return pending.weight.shape[0] == bn.running_var.shape[0]


def _leaves(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules that do something themselves, in order of definition; an SSA before its parts."""
    children = list(model.named_children())
    if isinstance(model, SpikingClassifier):  # the head is defined first and runs last
        children.sort(key=lambda child: child[0] == "head")
    if not path and (not children or isinstance(model, SSA)):
        yield path, model
    for name, child in children:
        child_path = f"{path}.{name}" if path else name
        if isinstance(child, SurrogateModule):
            continue  # in training only
        if isinstance(model, SpikformerBlock) and name in ("norm1", "norm2"):
            continue  # in the official files, used by nothing
        alone = isinstance(child, (LIF, nn.MultiheadAttention)) or not any(child.children())
        if alone or isinstance(child, SSA):
            yield child_path, child
        if not alone:
            yield from _leaves(child, child_path)


class _Sizes:
    """An observer of neurons that keeps nothing but the shapes of their spikes."""

    def __init__(self, model: nn.Module) -> None:
        self.paths = module_paths(model)
        self.found: dict[str, Shape] = {}

    def report(self, lif: LIF, spikes: Tensor, bits: Tensor | None = None) -> None:
        if lif in self.paths:
            self.found[self.paths[lif]] = _three(spikes)

    def count(self, products: Any) -> None:
        """Products are not asked for."""

    paused = nullcontext


def _spike_shapes(model: nn.Module, input_shape: Shape | None) -> dict[str, Shape]:
    """Path -> ``[C, H, W]`` of one step, from a run on a silent input; without one, empty."""
    weight = next(model.parameters(), None)
    if input_shape is None or weight is None:
        return {}
    for lead in ((1, 1), (1,)):
        x = torch.zeros(*lead, *input_shape, device=weight.device, dtype=weight.dtype)
        sizes = _Sizes(model)
        LIF.observers.append(sizes)
        try:
            with kept_modes(model):
                model.eval()(x)
        except Exception:  # whatever a foreign forward raises, its sizes are not known then
            continue
        finally:
            LIF.observers.remove(sizes)
        return sizes.found
    return {}


def _three(spikes: Tensor) -> Shape:
    """Of ``[T, B, C, ...]``."""
    channels, *positions = spikes.shape[2:] if spikes.dim() > 2 else (spikes.shape[-1],)
    if len(positions) == 2:
        return channels, positions[0], positions[1]
    return channels, 1, math.prod(positions)
