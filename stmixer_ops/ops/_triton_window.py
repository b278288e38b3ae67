"""What the Triton kernels with a tensor-core product share: windows of images, bits as operands.

Activations have the channels innermost: an image is ``H * W`` rows, a row C values or
``ceil(C / 32)`` words of spikes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def multiply_add(a, b, total):
    """``total + a @ b`` on tensor cores, in float32.

    float32 operands are split into two tf32 numbers each (three products): about 22 bits of them
    count, where tf32 alone keeps 11.
    """
    return tl.dot(a, b, total, input_precision="tf32x3")


@triton.jit
def window_rows(
    pixel, tap, height, width, out_height, out_width,
    KERNEL: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """Where tap ``ky * KERNEL + kx`` of the windows of output pixels ``[M]`` reads.

    Returns the image, the row in it, and whether that lies in the image at all.
    """
    if KERNEL == 1 and STRIDE == 1 and PADDING == 0:
        image = pixel // (height * width)
        return image, pixel - image * (height * width), pixel >= 0
    else:
        line = pixel // out_width
        image = line // out_height
        y = (line - image * out_height) * STRIDE - PADDING + tap // KERNEL
        x = (pixel - line * out_width) * STRIDE - PADDING + tap % KERNEL
        return image, y * width + x, (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def expand_words(words, dtype: tl.constexpr):
    """Spikes ``[M, 32 W]``, 0 or 1, of words ``[M, W]``: the operand of a product is made in
    registers, memory only ever holds bits."""
    lanes = tl.arange(0, 32)
    fired = (words[:, :, None] >> lanes[None, None, :]) & 1
    return as_spikes(tl.reshape(fired, (words.shape[0], words.shape[1] * 32)) != 0, dtype)


@triton.jit
def as_spikes(fired, dtype: tl.constexpr):
    """0 or 1 in ``dtype``; by way of float32, because the interpreter has no bool to bfloat16."""
    return tl.cast(tl.where(fired, 1.0, 0.0), dtype)


@triton.jit
def fold_words(fired):
    """Words ``[M, N / 32]`` of spikes ``[M, N]``."""
    lanes = tl.arange(0, 32)
    lines = tl.reshape(tl.cast(fired, tl.int32), (fired.shape[0], fired.shape[1] // 32, 32))
    return tl.sum(lines << lanes[None, None, :], axis=2)


def dense_images(x: Tensor, *, one_after_the_other: bool = False) -> Tensor:
    """``x [T, B, H, W, C]`` itself if each image is dense, else a copy in which it is.

    Images may lie anywhere (steps on one another too), unless a step must be one run of them.
    """
    height, width, channels = x.shape[2:]
    wanted = [width * channels, channels, 1]
    if one_after_the_other:
        wanted = [height * width * channels, *wanted]
    sizes, strides = x.shape[-len(wanted) :], x.stride()[-len(wanted) :]
    if all(n == 1 or a == b for n, a, b in zip(sizes, strides, wanted, strict=True)):
        return x
    if x.stride(0) == 0:  # a copy of one step serves all
        return x[:1].contiguous().expand(x.shape)
    return x.contiguous()
