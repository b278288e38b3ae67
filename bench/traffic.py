"""Bytes and FLOPs that the ops need at the least, launch by launch.

A tensor that a kernel touches counts once, whatever caches do; intermediate values of a fused
kernel count nothing. Real-valued tensors take ``size`` bytes a value (2 for bfloat16), spikes the
same where autograd hands them on and 1/8 byte where only bits are needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BIT = 1 / 8
STATE = 4
"""Bytes of a membrane, a statistic, or a weight's gradient."""


@dataclass(frozen=True)
class Kernel:
    """One launch: bytes from and to memory, and FLOPs of its matrix product (2 per MAC)."""

    name: str
    read: float
    written: float
    flops: float = 0.0

    @property
    def bytes(self) -> float:
        return self.read + self.written


@dataclass(frozen=True)
class Machine:
    """What bounds a kernel; by default an H200 with dense bfloat16 products.

    Attributes:
        bandwidth: bytes per second of memory.
        flops: FLOPs per second of the tensor cores.
        launch: seconds that each kernel costs beside its work (in a graph about 1e-6).
    """

    bandwidth: float = 4.8e12
    flops: float = 989e12
    launch: float = 0.0

    def seconds(self, kernels: Iterable[Kernel]) -> float:
        """One after the other, each bound by its bytes or by its product."""
        return sum(
            self.launch + max(k.bytes / self.bandwidth, k.flops / self.flops) for k in kernels
        )


def total_bytes(kernels: Iterable[Kernel]) -> float:
    return sum(k.bytes for k in kernels)


def total_flops(kernels: Iterable[Kernel]) -> float:
    return sum(k.flops for k in kernels)


# -- Training: forward and backward ----------------------------------------------------------------


def lif(values: float, size: int = 2, bits: bool = False, static: int = 1) -> list[Kernel]:
    """``values`` neuron-steps; ``static``: the input is one step repeated so often (T-stride 0)."""
    x = values * size / static
    s = values * size
    return [
        Kernel("lif", x, s + values * BIT * bits),
        Kernel("lif backward", s + x, s),
    ]


def bn_lif(
    values: float, size: int = 2, residual: bool = False, bits: bool = False, static: int = 1
) -> list[Kernel]:
    """Statistics in a read of their own, then one pass; backward the same, recomputing membranes.

    With a residual the sum is written, and the gradient of the sum is a result that the second pass
    of backward reads; without one both passes recompute it.
    """
    v, x = values * size, values * size / static
    forward = [
        Kernel("bn statistics", x, 0),
        Kernel("bn_lif", x + v * residual, v + v * residual + values * BIT * bits),
    ]
    if residual:
        return [
            *forward,
            Kernel("bn_lif backward, sums", 4 * v, v),  # gs, gsum, sum, x -> gradient of the sum
            Kernel("bn_lif backward", 2 * v, v),
        ]
    return [
        *forward,
        Kernel("bn_lif backward, sums", v + x, 0),
        Kernel("bn_lif backward", v + x, x),
    ]


def batch_norm(values: float, size: int = 2, residual: bool = False) -> list[Kernel]:
    """Where no neurons follow."""
    v = values * size
    return [
        Kernel("bn statistics", v, 0),
        Kernel("bn", v + v * residual, v),
        Kernel("bn backward, sums", 2 * v, 0),
        Kernel("bn backward", 2 * v, v),
    ]


def token_mix_lif(values: float, tokens: int, heads: int, size: int = 2) -> list[Kernel]:
    """The currents never reach memory; backward makes them again from the bits."""
    weights, product = heads * tokens * tokens, 2 * values * tokens
    return [
        Kernel("token_mix_lif", (values + weights) * size, values * (size + BIT), product),
        Kernel(
            "token_mix_lif gradients",
            values * (size + BIT) + weights * size,
            values * size + weights * STATE,
            3 * product,
        ),
    ]


def spike_product(
    inputs: float, outputs: float, weights: float, macs: float, size: int = 2
) -> list[Kernel]:
    """spike_linear and spike_conv2d: bits in, currents out; ``inputs``, ``outputs`` in values."""
    return [
        Kernel("product", inputs * BIT + weights * size, outputs * size, 2 * macs),
        Kernel("product, input gradient", (outputs + weights) * size, inputs * size, 2 * macs),
        Kernel(
            "product, weight gradient", outputs * size + inputs * BIT, weights * STATE, 2 * macs
        ),
    ]


def real_product(
    inputs: float, outputs: float, weights: float, macs: float, size: int = 2
) -> list[Kernel]:
    """The first convolution: a real-valued input that wants no gradient."""
    return [
        Kernel("product", (inputs + weights) * size, outputs * size, 2 * macs),
        Kernel("product, weight gradient", (outputs + inputs) * size, weights * STATE, 2 * macs),
    ]


# -- Inference: batch norm folded, bits from neuron to neuron --------------------------------------


def lif_inference(
    values: float, size: int = 2, dense: bool = False, packed: bool = True
) -> list[Kernel]:
    return [Kernel("lif", values * size, values * (size * dense + BIT * packed))]


def pack(values: float, size: int = 2) -> list[Kernel]:
    return [Kernel("pack_spikes", values * size, values * BIT)]


def unpack(values: float, size: int = 2) -> list[Kernel]:
    return [Kernel("unpack_spikes", values * BIT, values * size)]


def conv_lif(
    inputs: float,
    outputs: float,
    weights: float,
    macs: float,
    size: int = 2,
    residual: bool = False,
    fires: bool = True,
) -> list[Kernel]:
    """A product of bits with bias, residual sum, neurons and packing in its epilogue."""
    stream = outputs * size * (residual or not fires)
    return [
        Kernel(
            "conv_lif",
            inputs * BIT + weights * size + outputs * size * residual,
            stream + outputs * BIT * fires,
            2 * macs,
        )
    ]


def token_mix_lif_inference(values: float, tokens: int, heads: int, size: int = 2) -> list[Kernel]:
    weights = heads * tokens * tokens
    return [
        Kernel(
            "token_mix_lif",
            values * BIT + weights * size,
            values * BIT,
            2 * values * tokens,
        )
    ]


# -- What SpikingJelly's Triton kernels move -------------------------------------------------------


def spikingjelly_lif(values: float, steps: int, size: int = 2) -> list[Kernel]:
    """Three values of each step forward and three backward, the charged membrane among them.

    12 + 12 / T bytes per neuron-step in bfloat16: the membrane in the input's type, and six values
    per neuron for the state before and after.
    """
    return _spikingjelly(values, steps, size, size)


def spikingjelly2_lif(values: float, steps: int, size: int = 2) -> list[Kernel]:
    """Version 2.0.0, whose membranes are float32: 16 + 24 / T bytes in bfloat16."""
    return _spikingjelly(values, steps, size, STATE)


def _spikingjelly(values: float, steps: int, size: int, state: int) -> list[Kernel]:
    x, h, v = values * size, values * state, values / steps * state
    return [
        Kernel("zeros", 0, v),  # the membrane before the first step
        Kernel("lif", x + v, x + h + v),
        Kernel("zeros", 0, v),  # the gradient of the membrane after the last
        Kernel("lif backward", x + h + v, x + v),
    ]
