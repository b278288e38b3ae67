"""Operators that multiply two tensors and add up: what a spike costs there, and a real number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import functional as F

Arguments = tuple[Any, ...]
Count = Callable[[Tensor], int]


class Product(NamedTuple):
    """One product of two operands, either of which may be spikes.

    Attributes:
        left, right: the operands (``right`` is None for weights that no spike can be).
        macs: multiply-accumulates if both are real numbers, zero padding included.
        of_left, of_right: additions that these spikes in the place of an operand cause, the other
            one being real numbers.
        of_both: additions where both are spikes.
    """

    left: Tensor
    right: Tensor
    macs: int
    of_left: Count
    of_right: Count | None = None
    of_both: Callable[[Tensor, Tensor], int] | None = None


def total(x: Tensor) -> int:
    return int(x.sum(dtype=torch.int64))


def matmul(a: Tensor, b: Tensor) -> Product:
    """``[..., m, k] @ [..., k, n]`` of equal leading dimensions."""
    rows, columns = a.shape[-2], b.shape[-1]

    def pairs(a: Tensor, b: Tensor) -> int:
        return total(a.sum(-2, dtype=torch.int64) * b.sum(-1, dtype=torch.int64))

    return Product(
        a,
        b,
        a.numel() * columns,
        lambda spikes: total(spikes) * columns,
        lambda spikes: total(spikes) * rows,
        pairs,
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Product]:
    """``(q k^T) v`` of ``[..., N, C]``, counted in that order; the scores are real numbers."""
    yield matmul(q, k.transpose(-1, -2))
    yield matmul(q.new_empty(1).expand(*q.shape[:-1], k.shape[-2]), v)


def convolution(
    x: Tensor,
    weight: Tensor,
    _bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *_: Any,
) -> Product:
    """Of any number of dimensions; a spike at the border reaches fewer outputs."""
    sizes, kernel = x.shape[2:], weight.shape[2:]
    spread = [
        _reached(size, kernel[i], _at(stride, i), _at(padding, i), _at(dilation, i))
        if not transposed
        else _scattered(
            size, kernel[i], _at(stride, i), _at(padding, i), _at(dilation, i),
            _at(output_padding, i),
        )
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    per_tap = weight.shape[1] if transposed else weight.shape[0] // groups

    def operations(spikes: Tensor) -> int:
        reached = spikes.sum((0, 1), dtype=torch.int64).cpu()
        for axis, counts in enumerate(spread):
            reached = reached * counts.view(-1, *[1] * (len(spread) - axis - 1))
        return int(reached.sum()) * per_tap

    if transposed:
        macs = x.numel() * weight[0].numel()
    else:
        outputs = math.prod(
            (size + 2 * _at(padding, i) - _at(dilation, i) * (kernel[i] - 1) - 1) // _at(stride, i)
            + 1
            for i, size in enumerate(sizes)
        )
        macs = x.shape[0] * outputs * weight.numel()
    return Product(x, weight, macs, operations)


def _at(values: Sequence[int], axis: int) -> int:
    return values[axis] if len(values) > 1 else values[0]


def _reached(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """For each of ``size`` positions along an axis, how many windows of the kernel cover it."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    taps = torch.arange(outputs)[:, None] * stride + torch.arange(kernel) * dilation - padding
    return torch.bincount(taps[(taps >= 0) & (taps < size)], minlength=size)


def _scattered(
    size: int, kernel: int, stride: int, padding: int, dilation: int, output_padding: int
) -> Tensor:
    """The same of a transposed convolution: how many taps of each position lie in the output."""
    outputs = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    taps = torch.arange(size)[:, None] * stride + torch.arange(kernel) * dilation - padding
    return ((taps >= 0) & (taps < outputs)).sum(1)


def _token_mix(s: Tensor, weight: Tensor, channels: int | None = None) -> Product:
    """One matrix over the tokens per head; ``s [T, B, C, N]``, or words along ``channels``."""
    tokens = s.shape[3]
    macs = s.numel() * tokens if channels is None else s[:, :, 0].numel() * channels * tokens

    def operations(spikes: Tensor) -> int:
        return total(_unpacked(spikes, channels)) * tokens

    return Product(s, weight, macs, operations)


def _conv_lif(s: Tensor, weight: Tensor, stride: int, padding: int) -> Product:
    channels = weight.shape[1]
    x = s.new_empty(1).expand(s.shape[0] * s.shape[1], channels, *s.shape[3:])
    dense = convolution(x, weight, None, [stride], [padding], [1], False, [0], 1)

    def operations(spikes: Tensor) -> int:
        return dense.of_left(_unpacked(spikes, channels).flatten(0, 1))

    return Product(s, weight, dense.macs, operations)


def _unpacked(spikes: Tensor, channels: int | None) -> Tensor:
    """Dense spikes ``[T, B, C, ...]``, also of int32 words along the channels."""
    if channels is None or spikes.dtype != torch.int32:
        return spikes
    return F.unpack_spikes(spikes, channels, 2, backend="reference")


def _column(x: Tensor) -> Tensor:
    return x.unsqueeze(-1)


PRODUCTS: dict[str, Callable[..., Iterator[Product]]] = {}


def _add(names: str, make: Callable[..., Product]) -> None:
    PRODUCTS.update(dict.fromkeys(names.split(), lambda *args: iter([make(*args)])))


_add("mm bmm _int_mm", lambda a, b, *_: matmul(a, b))
_add("addmm baddbmm addbmm _addmm_activation", lambda _, a, b, *__: matmul(a, b))
_add("mv", lambda a, v: matmul(a, _column(v)))
_add("addmv", lambda _, a, v, *__: matmul(a, _column(v)))
_add("dot vdot", lambda a, b: matmul(a[None], _column(b)))
_add("convolution _convolution convolution_overrideable", convolution)
_add("stmixer::token_mix stmixer::token_mix_lif", lambda s, weight, *_: _token_mix(s, weight))
_add("stmixer::token_mix_lif_bits", lambda s, w, v_init, channels, *_: _token_mix(s, w, channels))
_add(
    "stmixer::conv_lif",
    lambda s, weight, bias, residual, v_init, stride, padding, *_: _conv_lif(
        s, weight, stride, padding
    ),
)
for _kernel in ("flash_attention", "flash_attention_for_cpu", "efficient_attention"):
    PRODUCTS[f"_scaled_dot_product_{_kernel}"] = lambda q, k, v, *_: attention(q, k, v)
PRODUCTS["_scaled_dot_product_cudnn_attention"] = lambda q, k, v, *_: attention(q, k, v)

_MULTIPLIES = re.compile(
    r"mm$|mm_|mm\d|mv$|dot$|matmul|attention|conv(?!ert)|^linear$|linear_(fp|int|quantize)|"
    r"_linear$|rnn|lstm$|gru$|trilinear|cdist|pdist|fft_[^cfrs]|_fft_|stft|linalg_(?!.*norm)|"
    r"addr$|transformer|multi_head|inverse$|cholesky|solve"
)
_FREE = re.compile(r"_?upsample|_use_|_cudnn_rnn_flatten|is_|slice_inverse|_nested")
_OWN = re.compile(r"stmixer::(bn_lif_forward|lif_forward|pack_rows|unpack_rows)")


def is_unknown_product(name: str) -> bool:
    """Whether an operator that ``PRODUCTS`` lacks may multiply, nobody can tell how much."""
    if "::" in name:
        return not _OWN.match(name) and not name.startswith(("profiler::", "c10d", "_c10d"))
    return bool(_MULTIPLIES.search(name)) and not _FREE.match(name)
