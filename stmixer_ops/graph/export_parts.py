"""What exporters share: layers with norms folded in, patch splitting with pools, attention."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..models.base import SpikingClassifier
from ..nn import LIF, SPS, SSA
from ..nn.effective import acts_beside_forward, is_norm, merge_hint
from ..nn.embed import ConvBNLIF, InputConv2d
from ..nn.fused import Folded
from ..nn.inference import fold_obstacle, folded_values
from ..nn.layers import CountedLinear, SpikeConv2d, SpikeLinear
from ..nn.wrappers import unwrap
from .graph import Description, Graph

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def refuse_hooks(module: nn.Module, path: str) -> None:
    """Refuse what a call does that the module's class does not say."""
    reason = acts_beside_forward(module)
    if reason is not None:
        raise ValueError(
            f"the engine cannot express {path or 'the model'} ({type(module).__name__}): {reason}"
        )


def require(module: nn.Module | None, kind: type[ModuleT], path: str) -> ModuleT:
    """``module`` itself if it is exactly of this kind: a subclass may compute something else."""
    module = None if module is None else unwrap(module)
    if type(module) is not kind:
        raise ValueError(
            f"the engine cannot express {path or 'the model'} ({type(module).__name__}); "
            f"it knows {kind.__name__} there"
        )
    return module


def check_children(module: nn.Module, names: str, path: str) -> None:
    """Refuse children beside ``names``: whoever put them there expects them to act."""
    for name, child in module.named_children():
        if name not in names.split():
            raise ValueError(
                f"the engine cannot express {join(path, name)} ({type(child).__name__})"
            )


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def float64(tensor: Tensor, path: str) -> np.ndarray:
    value = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(value).all():
        raise ValueError(f"{path} holds a value that is not finite")
    return value


def fold(layer: Any, bn: Any, path: str, bn_path: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight ``[out, ...]`` and bias of ``layer`` followed by ``bn`` in eval mode, in float64."""
    name = f"{bn_path} ({type(bn).__name__})"
    if not is_norm(bn) and type(bn) is not Folded:
        raise ValueError(f"the engine cannot express {name}")
    for module, module_path in ((layer, path), (bn, bn_path)):
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            float64(value, f"{module_path}.{key}")
    obstacle = fold_obstacle(bn)
    if obstacle is not None:
        raise ValueError(f"the engine cannot express {name} {obstacle}")
    weight, bias = folded_values(layer, bn)
    return weight.cpu().numpy(), bias.cpu().numpy()


def output_size(size: tuple[int, int], conv: nn.Conv2d) -> tuple[int, int]:
    height, width = (
        (extent + 2 * int(conv.padding[i]) - conv.kernel_size[i]) // conv.stride[i] + 1
        for i, extent in enumerate(size)
    )
    return height, width


class Exporter:
    """Adds the parts of a model to ``graph``, by module path, in order of execution.

    Attributes:
        tokens: shape of the stream, (C, N).
    """

    def __init__(self, model: SpikingClassifier) -> None:
        self.graph = Graph(steps=model.T, batch_first=model.batch_first)
        self.tokens = (model.embed_dim, model.num_tokens)
        self.image = self.graph.add_input("input", (model.in_channels, *model.img_size))

    # -- neurons and projections -------------------------------------------------------------------

    def lif(self, module: nn.Module | None, path: str, current: str, shape: tuple[int, ...]) -> str:
        """Neurons; v - v_reset is what the engine calls the membrane."""
        lif = require(module, LIF, path)
        return self.graph.add_lif(
            path,
            current,
            shape,
            threshold=lif.threshold - lif.v_reset,
            decay=lif.decay,
            input_scale=lif.input_scale,
            soft_reset=lif.reset_mode == "soft",
        )

    def conv(
        self, stage: ConvBNLIF, path: str, source: str, offset: int = 0
    ) -> tuple[Description, np.ndarray]:
        """The convolution of a stage with its BN folded in, and the bias that is left."""
        check_children(stage, "conv bn lif", path)
        conv, conv_path = stage.conv, f"{path}.conv"
        if type(conv) not in (nn.Conv2d, InputConv2d, SpikeConv2d):
            raise ValueError(
                f"the engine cannot express {conv_path} ({type(conv).__name__}){merge_hint(conv)}"
            )
        simple = conv.groups == 1 and set(conv.dilation) == {1} and conv.padding_mode == "zeros"
        uniform = len(set(conv.stride)) == 1 and len(set(conv.padding)) == 1
        if not simple or not uniform or isinstance(conv.padding, str):
            raise ValueError(
                f"the engine cannot express {conv_path} ({type(conv).__name__}): it knows zero "
                "padding and one stride for both axes, no groups and no dilation"
            )
        weight, bias = fold(conv, stage.bn, conv_path, f"{path}.bn")
        projection = self.graph.projection(
            conv_path, "conv", source, weight,
            stride=conv.stride[0], padding=conv.padding[0], channel_offset=offset,
        )  # fmt: skip
        return projection, bias

    def linear(
        self, layer: Any, bn: Any, path: str, bn_path: str, source: str
    ) -> tuple[Description, np.ndarray]:
        if type(layer) not in (nn.Linear, CountedLinear, SpikeLinear):
            raise ValueError(
                f"the engine cannot express {path} ({type(layer).__name__}){merge_hint(layer)}"
            )
        weight, bias = fold(layer, bn, path, bn_path)
        return self.graph.projection(path, "linear", source, weight), bias

    def layer(self, layer: Any, bn: Any, path: str, bn_path: str, source: str) -> str:
        """The current of a linear layer with its BN folded in: tokens."""
        projection, bias = self.linear(layer, bn, path, bn_path, source)
        shape = (layer.out_features, self.tokens[1])
        return self.graph.add_current(bn_path, shape, [projection], bias=bias)

    def stage(
        self, stage: ConvBNLIF, path: str, source: str, size: tuple[int, int]
    ) -> tuple[str, tuple[int, int]]:
        """Convolution, BN and neurons; these, and height and width of what comes out."""
        projection, bias = self.conv(stage, path, source)
        size = output_size(size, stage.conv)
        shape = (stage.conv.out_channels, *size)
        current = self.graph.add_current(f"{path}.bn", shape, [projection], bias=bias)
        return self.lif(stage.lif, f"{path}.lif", current, shape), size

    def identity(self, source: str) -> Description:
        return self.graph.projection(f"{source}.identity", "identity", source)

    def emit(self, current: str, shape: tuple[int, ...]) -> str:
        """A population that emits the values of a current, integers made of spikes."""
        return self.graph.add_graded(f"{current}.out", current, shape)

    # -- parts that several models have ------------------------------------------------------------

    def sps(self, module: nn.Module, path: str, size: tuple[int, int]) -> str:
        """The stream: integers, spikes of the last stage and of ``position``."""
        embed = require(module, SPS, path)
        check_children(embed, "main pool position", path)
        source = self.image
        for i, child in enumerate(embed.main):
            stage_path = f"{path}.main.{i}"
            stage = require(child, ConvBNLIF, stage_path)
            source, size = self.stage(stage, stage_path, source, size)
            if i >= len(embed.main) - embed.downsample:
                shape = (stage.conv.out_channels, *size)
                source, size = self.max_pool(embed.pool, f"{path}.pool", stage_path, source, shape)
        stage = require(embed.position, ConvBNLIF, f"{path}.position")
        added, _ = self.stage(stage, f"{path}.position", source, size)
        terms = [self.identity(source), self.identity(added)]
        return self.graph.add_current(path, (self.tokens[0], *size), terms)

    def max_pool(
        self, module: nn.Module, path: str, stage_path: str, source: str, shape: tuple[int, ...]
    ) -> tuple[str, tuple[int, int]]:
        """A population of pooled spikes, and its height and width."""
        pool = require(module, nn.MaxPool2d, path)
        sizes = (pool.kernel_size, pool.stride, pool.padding)
        if not all(isinstance(n, int) for n in sizes) or pool.dilation != 1 or pool.ceil_mode:
            raise ValueError(
                f"the engine cannot express {path} (MaxPool2d): it knows one size for both axes, "
                "no dilation and no ceil_mode"
            )
        kernel, stride, padding = cast(tuple[int, int, int], sizes)
        height, width = ((n + 2 * padding - kernel) // stride + 1 for n in shape[1:])
        name, pooled = f"{stage_path}.pool", (shape[0], height, width)
        projection = self.graph.projection(
            name, "max_pool", source, kernel=kernel, stride=stride, padding=padding
        )
        return self.emit(self.graph.add_current(name, pooled, [projection]), pooled), (
            height,
            width,
        )

    def ssa(self, module: nn.Module, stage: str, path: str, source: str) -> str:
        """The current of spiking self-attention after ``proj`` and its BN, of this stage."""
        ssa = require(module, SSA, path)
        if ssa.stage != stage:
            raise ValueError(
                f"the engine cannot express {path} (SSA) of stage {ssa.stage!r}; "
                f"it knows {stage!r} there"
            )
        names = " ".join(f"{name} {name}_bn {name}_lif" for name in ("q", "k", "v"))
        last = "proj proj_bn proj_lif" if stage == "block" else "proj proj_bn"
        check_children(ssa, f"{names} attn_lif {last}", path)
        populations = [
            self.lif(
                getattr(ssa, f"{name}_lif"),
                f"{path}.{name}_lif",
                self.layer(
                    getattr(ssa, name), getattr(ssa, f"{name}_bn"), f"{path}.{name}",
                    f"{path}.{name}_bn", source,
                ),
                self.tokens,
            )
            for name in ("q", "k", "v")
        ]  # fmt: skip
        query, key, value = populations
        product = self.graph.projection(
            path, "spike_product", query, key=key, value=value, heads=ssa.num_heads, scale=ssa.scale
        )
        current = self.graph.add_current(f"{path}.product", self.tokens, [product])
        spikes = self.lif(ssa.attn_lif, f"{path}.attn_lif", current, self.tokens)
        return self.layer(ssa.proj, ssa.proj_bn, f"{path}.proj", f"{path}.proj_bn", spikes)

    def head(self, module: nn.Module, stream: str) -> None:
        """The readout: mean over tokens and steps, then the head."""
        channels = self.tokens[0]
        mean = self.graph.projection("mean", "mean", stream)
        current, classes = self.graph.add_current("mean", (channels, 1, 1), [mean]), channels
        if type(module) is not nn.Identity:
            head = require(module, nn.Linear, "head")
            weight = float64(head.weight, "head.weight")
            bias = None if head.bias is None else float64(head.bias, "head.bias")
            classes = head.out_features
            projection = self.graph.projection("head", "linear", current, weight)
            current = self.graph.add_current("head", (classes, 1, 1), [projection], bias=bias)
        self.graph.add_readout("logits", current, classes)
