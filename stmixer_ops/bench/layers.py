"""Single layers, as the engine and as dense libraries know them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..engine import Graph


@dataclass(frozen=True)
class Layer:
    """A projection of spikes ``[C, H, W]``, as the engine and as PyTorch say it.

    ``kind``, ``stride`` and ``padding`` are those of ``Graph.projection``; ``weight`` is a shape.
    """

    name: str
    image: tuple[int, int, int]
    kind: str
    weight: tuple[int, ...]
    stride: int = 1

    @property
    def padding(self) -> int:
        return self.weight[-1] // 2 if self.kind == "conv" else 0

    @property
    def output(self) -> tuple[int, int, int]:
        _, height, width = self.image
        if self.kind == "token_mix":
            return self.image
        return (self.weight[0], -(-height // self.stride), -(-width // self.stride))


LAYERS = (
    Layer("3x3, 96 to 192, 32x32", (96, 32, 32), "conv", (192, 96, 3, 3)),
    Layer("3x3 stride 2, 192 to 384, 32x32", (192, 32, 32), "conv", (384, 192, 3, 3), stride=2),
    Layer("pointwise, 384 to 1536, 64 tokens", (384, 1, 64), "linear", (1536, 384)),
    Layer("pointwise, 1536 to 384, 64 tokens", (1536, 1, 64), "linear", (384, 1536)),
    Layer("token mixing, 16 heads of 64x64", (384, 1, 64), "token_mix", (16, 64, 64)),
)


class Dense(nn.Module):
    """The same projection of a batch of one, without neurons."""

    def __init__(self, layer: Layer, weight: np.ndarray) -> None:
        super().__init__()
        self.layer = layer
        if layer.kind == "token_mix":  # the tokens stand last, so that nothing is transposed
            weight = np.ascontiguousarray(weight.swapaxes(1, 2))
        self.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[1, C, H, W]``; pointwise over tokens ``[N, C]``, as every library likes it best."""
        if self.layer.kind == "conv":
            return nn.functional.conv2d(
                x, self.weight, stride=self.layer.stride, padding=self.layer.padding
            )
        if self.layer.kind == "linear":
            return nn.functional.linear(x, self.weight)
        heads, tokens, _ = self.weight.shape
        return torch.matmul(x.view(heads, -1, tokens), self.weight)

    def input(self, x: np.ndarray) -> np.ndarray:
        """The engine's input as ``forward`` takes it."""
        if self.layer.kind == "linear":
            return np.ascontiguousarray(x.reshape(self.layer.image[0], -1).T)
        return x if self.layer.kind == "conv" else x.reshape(self.layer.image[0], -1)


def graph_of(layer: Layer, weight: np.ndarray) -> Graph:
    """0/1 images pass neurons unchanged, then the layer drives neurons; a readout ends it."""
    channels = layer.image[0]
    graph = Graph()
    image = graph.add_input("input", layer.image)
    identity = np.eye(channels, dtype=np.float32)[:, :, None, None]
    copy = graph.projection("identity", "conv", image, identity)
    graph.add_current("copy", layer.image, [copy])
    spikes = graph.add_lif("spikes", "copy", layer.image, threshold=0.5)
    projection = graph.projection(
        "layer", layer.kind, spikes, weight, stride=layer.stride, padding=layer.padding
    )
    graph.add_current("current", layer.output, [projection])
    fired = graph.add_lif("fired", "current", layer.output)
    ones = np.ones((1, layer.output[0]), np.float32)
    graph.add_current(
        "sum", (1, *layer.output[1:]), [graph.projection("sum", "linear", fired, ones)]
    )
    graph.add_current("mean", (1, 1, 1), [graph.projection("mean", "mean", "sum")])
    head = graph.projection("head", "linear", "mean", np.ones((1, 1), np.float32))
    graph.add_current("head", (1, 1, 1), [head])
    graph.add_readout("logits", "head", 1)
    return graph
