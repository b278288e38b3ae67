"""What whole networks need at the least: the ops of ``traffic`` put together as the models are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import traffic
from .traffic import Kernel

_CONV = 9  # taps of a 3x3 convolution


@dataclass(frozen=True)
class Shape:
    """An STMixer and its input, by default stmixer_4_384_16 at 32x32 with T=4."""

    batch: int
    steps: int = 4
    image: int = 32
    in_channels: int = 3
    dim: int = 384
    depth: int = 4
    heads: int = 16
    ratio: int = 4
    downsample: int = 2
    classes: int = 10

    @property
    def tokens(self) -> int:
        return (self.image >> self.downsample) ** 2

    @property
    def stream(self) -> int:
        """Values of the stream: time, batch, tokens, channels."""
        return self.steps * self.batch * self.tokens * self.dim

    def convolutions(self) -> list[tuple[int, int, int, int]]:
        """Of the patch splitting: channels in and out, pixels in and out."""
        eighth = self.dim // 8
        widths = [self.in_channels, eighth, 2 * eighth, 4 * eighth, self.dim, self.dim - eighth]
        strides = [1] * (5 - self.downsample) + [2] * self.downsample
        pixels = [(self.image // math.prod(strides[:i])) ** 2 for i in range(6)]
        return [(widths[i], widths[i + 1], pixels[i], pixels[i + 1]) for i in range(5)]

    @property
    def patch(self) -> int:
        return 1 << self.downsample

    @property
    def parameters(self) -> int:
        weights = sum(_CONV * a * b + 2 * b for a, b, _, _ in self.convolutions())
        protect = self.in_channels * self.patch**2 * (self.dim // 8) + 2 * (self.dim // 8)
        block = 2 * self.dim**2 + self.heads * self.tokens**2
        block += 2 * self.ratio * self.dim**2 + 2 * (3 + self.ratio) * self.dim
        return weights + protect + self.depth * block + (self.dim + 1) * self.classes


# -- Training --------------------------------------------------------------------------------------


def block_training(net: Shape, last: bool = False) -> list[Kernel]:
    """One block whose input's spikes the kernel before has made, as it makes the next block's."""
    c, r, rows = net.dim, net.ratio, net.stream / net.dim

    def pointwise(inputs: int, outputs: int) -> list[Kernel]:
        return traffic.spike_product(
            rows * inputs, rows * outputs, inputs * outputs, rows * inputs * outputs
        )

    return [
        *pointwise(c, c),
        *traffic.bn_lif(net.stream),
        *traffic.token_mix_lif(net.stream, net.tokens, net.heads),
        *pointwise(c, c),
        *traffic.bn_lif(net.stream, residual=True, bits=True),
        *pointwise(c, r * c),
        *traffic.bn_lif(r * net.stream, bits=True),
        *pointwise(r * c, c),
        *(
            traffic.batch_norm(net.stream, residual=True)
            if last
            else traffic.bn_lif(net.stream, residual=True, bits=True)
        ),
    ]


def embedding_training(net: Shape) -> list[Kernel]:
    """A still image: the layers that read it run once, not once per step."""
    steps, kernels = net.steps, []
    for i, (a, b, before, after) in enumerate(net.convolutions()):
        images = net.batch * (steps if i else 1)
        product = traffic.spike_product if i else traffic.real_product
        outputs = images * after * b
        kernels += product(images * before * a, outputs, _CONV * a * b, outputs * _CONV * a)
        values = steps * net.batch * after * b
        kernels += (
            traffic.bn_lif(values, bits=True, static=1 if i else steps)
            if i < 4
            else traffic.batch_norm(values)
        )
    pixels, protected = net.batch * net.image**2 * net.in_channels, net.batch * net.tokens * c8(net)
    taps = net.in_channels * net.patch**2
    kernels += traffic.real_product(pixels, protected, taps * c8(net), protected * taps)
    kernels += traffic.batch_norm(protected)
    return kernels + traffic.lif(net.stream, bits=True)


def c8(net: Shape) -> int:
    return net.dim // 8


def training_step(net: Shape, size: int = 2) -> list[Kernel]:
    """Forward, backward and AdamW under autocast: weights in float32, cast once."""
    kernels = embedding_training(net)
    for i in range(net.depth):
        kernels += block_training(net, last=i == net.depth - 1)
    stream = net.stream * size
    return [
        Kernel("cast weights", net.parameters * traffic.STATE, net.parameters * size),
        *kernels,
        Kernel("mean", stream, 0),
        Kernel("mean backward", 0, stream),
        Kernel("AdamW", net.parameters * 4 * traffic.STATE, net.parameters * 3 * traffic.STATE),
    ]


# -- Inference -------------------------------------------------------------------------------------


def inference(net: Shape, size: int = 2) -> list[Kernel]:
    """Batch norms folded, every layer one kernel, bits between them."""
    kernels = []
    for i, (a, b, before, after) in enumerate(net.convolutions()):
        steps, values = net.steps, net.steps * net.batch * after * b
        if i == 0:  # real-valued, once for all steps
            pixels = net.batch * before * a
            macs = values / steps * _CONV * a
            read = (pixels + _CONV * a * b) * size
            kernels.append(Kernel("conv_lif", read, values * traffic.BIT, 2 * macs))
        else:
            spikes = steps * net.batch * before * a
            kernels += traffic.conv_lif(spikes, values, _CONV * a * b, values * _CONV * a)
    taps, protected = net.in_channels * net.patch**2, net.batch * net.tokens * c8(net)
    pixels = net.batch * net.image**2 * net.in_channels
    kernels.append(
        Kernel(
            "protect",
            (pixels + taps * c8(net)) * size,
            protected * size,
            2 * protected * taps,
        )
    )
    # The stream: written by the last convolution beside the spikes of the first block.
    kernels.append(Kernel("stream", 0, net.stream * size))
    for i in range(net.depth):
        kernels += block_inference(net, last=i == net.depth - 1)
    return [*kernels, Kernel("mean and head", net.stream * size + net.dim * net.classes * size, 0)]


def block_inference(net: Shape, last: bool = False) -> list[Kernel]:
    c, r, rows = net.dim, net.ratio, net.stream / net.dim

    def pointwise(inputs: int, outputs: int, **options: bool) -> list[Kernel]:
        values = rows * outputs
        return traffic.conv_lif(rows * inputs, values, inputs * outputs, values * inputs, **options)

    return [
        *pointwise(c, c),
        *traffic.token_mix_lif_inference(net.stream, net.tokens, net.heads),
        *pointwise(c, c, residual=True),
        *pointwise(c, r * c),
        *pointwise(r * c, c, residual=True, fires=not last),
    ]
