"""From a module tree to the engine's graph: what is read, what is folded, what is refused."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..models import STMixer
from ..nn import IPSPS, LIF, STM, STMBlock
from ..nn.block import ChannelMLP, TokenMixer
from ..nn.effective import acts_beside_forward, is_norm, merge_hint, with_plain_weights
from ..nn.embed import ConvBNLIF, InputConv2d
from ..nn.fused import Folded
from ..nn.inference import fold_obstacle, folded_values
from ..nn.layers import CountedLinear, SpikeConv2d, SpikeLinear
from ..nn.wrappers import inner, unwrap
from .graph import Description, Graph

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_Branch = TokenMixer | ChannelMLP


def export(model: nn.Module) -> Graph:
    """The graph of a :class:`~stmixer_ops.STMixer` in eval mode.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a module that cannot be expressed, or a value that is not finite, by path.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    outer = model
    while (inside := inner(outer)) is not None:
        _refuse_hooks(outer, "")
        outer = inside
    plain = with_plain_weights(outer)
    for path, module in plain.named_modules():
        if not path.startswith("surrogates"):
            _refuse_hooks(module, path)
    stmixer = _require(plain, STMixer, "")
    with torch.no_grad():
        return _Exporter(stmixer).graph


def _refuse_hooks(module: nn.Module, path: str) -> None:
    """Refuse what a call does that the module's class does not say."""
    reason = acts_beside_forward(module)
    if reason is not None:
        raise ValueError(
            f"the engine cannot express {path or 'the model'} ({type(module).__name__}): {reason}"
        )


def _require(module: nn.Module | None, kind: type[ModuleT], path: str) -> ModuleT:
    """``module`` itself if it is exactly of this kind: a subclass may compute something else."""
    module = None if module is None else unwrap(module)
    if type(module) is not kind:
        raise ValueError(
            f"the engine cannot express {path or 'the model'} ({type(module).__name__}); "
            f"it knows {kind.__name__} there"
        )
    return module


def _children(module: nn.Module, names: str, path: str) -> None:
    """Refuse children beside ``names``: whoever put them there expects them to act."""
    for name, child in module.named_children():
        if name not in names.split():
            raise ValueError(
                f"the engine cannot express {_join(path, name)} ({type(child).__name__})"
            )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _float64(tensor: Tensor, path: str) -> np.ndarray:
    value = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(value).all():
        raise ValueError(f"{path} holds a value that is not finite")
    return value


def _fold(layer: Any, bn: Any, path: str, bn_path: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight ``[out, ...]`` and bias of ``layer`` followed by ``bn`` in eval mode, in float64."""
    name = f"{bn_path} ({type(bn).__name__})"
    if not is_norm(bn) and type(bn) is not Folded:
        raise ValueError(f"the engine cannot express {name}")
    for module, module_path in ((layer, path), (bn, bn_path)):
        for key, value in (*module.named_parameters(), *module.named_buffers()):
            _float64(value, f"{module_path}.{key}")
    obstacle = fold_obstacle(bn)
    if obstacle is not None:
        raise ValueError(f"the engine cannot express {name} {obstacle}")
    weight, bias = folded_values(layer, bn)
    return weight.cpu().numpy(), bias.cpu().numpy()


class _Exporter:
    """Walks an STMixer in order of execution."""

    def __init__(self, model: STMixer) -> None:
        _children(model, "patch_embed blocks head surrogates", "")
        self.graph = Graph(steps=model.T, batch_first=model.batch_first)
        self.tokens = (model.embed_dim, model.num_tokens)
        source = self.graph.add_input("input", (model.in_channels, *model.img_size))
        stream = self.patch_embed(model.patch_embed, "patch_embed", source, model.img_size)
        for i, module in enumerate(model.blocks):
            path = f"blocks.{i}"
            block = _require(module, STMBlock, path)
            _children(block, "token_mixer channel_mlp", path)
            stream = self.token_mixer(block.token_mixer, f"{path}.token_mixer", stream)
            stream = self.channel_mlp(block.channel_mlp, f"{path}.channel_mlp", stream)
        self.head(model.head, stream, model.embed_dim)

    # -- neurons and projections -------------------------------------------------------------------

    def lif(self, module: nn.Module | None, path: str, current: str, shape: tuple[int, ...]) -> str:
        """Neurons; v - v_reset is what the engine calls the membrane."""
        lif = _require(module, LIF, path)
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
        _children(stage, "conv bn lif", path)
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
        weight, bias = _fold(conv, stage.bn, conv_path, f"{path}.bn")
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
        weight, bias = _fold(layer, bn, path, bn_path)
        return self.graph.projection(path, "linear", source, weight), bias

    # -- the rooms of the model --------------------------------------------------------------------

    def patch_embed(self, module: nn.Module, path: str, image: str, size: tuple[int, int]) -> str:
        embed = _require(module, IPSPS, path)
        _children(embed, "main protect", path)
        protect = _require(embed.protect, ConvBNLIF, f"{path}.protect")
        paths = [f"{path}.main.{i}" for i in range(len(embed.main))]
        stages = [_require(m, ConvBNLIF, p) for m, p in zip(embed.main, paths, strict=True)]
        source = image
        for stage, stage_path in zip(stages[:-1], paths[:-1], strict=True):
            projection, bias = self.conv(stage, stage_path, source)
            size = _output_size(size, stage.conv)
            shape = (stage.conv.out_channels, *size)
            current = self.graph.add_current(f"{stage_path}.bn", shape, [projection], bias=bias)
            source = self.lif(stage.lif, f"{stage_path}.lif", current, shape)
        # The stream: the protect path's channels first, then the main path's; no neurons.
        direct, direct_bias = self.conv(protect, f"{path}.protect", image)
        offset = protect.conv.out_channels
        projection, bias = self.conv(stages[-1], paths[-1], source, offset)
        for stage, stage_path in ((protect, f"{path}.protect"), (stages[-1], paths[-1])):
            if stage.lif is not None:
                raise ValueError(
                    f"the engine cannot express {stage_path}.lif ({type(stage.lif).__name__}): "
                    "the stream is real-valued there"
                )
        size = _output_size(size, stages[-1].conv)
        bias = np.concatenate([direct_bias, bias])
        return self.graph.add_current(
            path, (self.tokens[0], *size), [direct, projection], bias=bias
        )

    def token_mixer(self, module: nn.Module, path: str, stream: str) -> str:
        mixer = _require(module, TokenMixer, path)
        _children(mixer, "lif1 fc1 bn1 lif2 stm lif3 fc2 bn2", path)
        spikes = self.lif(mixer.lif1, f"{path}.lif1", stream, self.tokens)
        spikes = self.hidden(mixer, path, spikes, self.tokens[0])
        stm_path = f"{path}.stm"
        stm = _require(mixer.stm, STM, stm_path)
        mixing = self.graph.projection(
            stm_path, "token_mix", spikes, _float64(stm.weight, f"{stm_path}.weight")
        )
        current = self.graph.add_current(stm_path, self.tokens, [mixing])
        spikes = self.lif(mixer.lif3, f"{path}.lif3", current, self.tokens)
        return self.shortcut(mixer, path, spikes, stream)

    def channel_mlp(self, module: nn.Module, path: str, stream: str) -> str:
        mlp = _require(module, ChannelMLP, path)
        _children(mlp, "lif1 fc1 bn1 lif2 fc2 bn2", path)
        spikes = self.lif(mlp.lif1, f"{path}.lif1", stream, self.tokens)
        spikes = self.hidden(mlp, path, spikes, mlp.fc1.out_features)
        return self.shortcut(mlp, path, spikes, stream)

    def hidden(self, branch: _Branch, path: str, source: str, channels: int) -> str:
        """fc1, bn1, lif2 of either branch."""
        projection, bias = self.linear(branch.fc1, branch.bn1, f"{path}.fc1", f"{path}.bn1", source)
        shape = (channels, self.tokens[1])
        current = self.graph.add_current(f"{path}.bn1", shape, [projection], bias=bias)
        return self.lif(branch.lif2, f"{path}.lif2", current, shape)

    def shortcut(self, branch: _Branch, path: str, source: str, stream: str) -> str:
        """The stream after the branch: fc2 and bn2 added to the stream before it."""
        projection, bias = self.linear(branch.fc2, branch.bn2, f"{path}.fc2", f"{path}.bn2", source)
        return self.graph.add_current(path, self.tokens, [projection], [stream], bias)

    def head(self, module: nn.Module, stream: str, channels: int) -> None:
        mean = self.graph.projection("mean", "mean", stream)
        current, classes = self.graph.add_current("mean", (channels, 1, 1), [mean]), channels
        if type(module) is not nn.Identity:
            head = _require(module, nn.Linear, "head")
            weight = _float64(head.weight, "head.weight")
            bias = None if head.bias is None else _float64(head.bias, "head.bias")
            classes = head.out_features
            projection = self.graph.projection("head", "linear", current, weight)
            current = self.graph.add_current("head", (classes, 1, 1), [projection], bias=bias)
        self.graph.add_readout("logits", current, classes)


def _output_size(size: tuple[int, int], conv: nn.Conv2d) -> tuple[int, int]:
    height, width = (
        (extent + 2 * int(conv.padding[i]) - conv.kernel_size[i]) // conv.stride[i] + 1
        for i, extent in enumerate(size)
    )
    return height, width
