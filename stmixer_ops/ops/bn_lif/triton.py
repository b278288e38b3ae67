"""Launchers of the Triton kernels of BN + residual + LIF.

Bytes per neuron-step in a dtype of b bytes. Forward: b in training for the statistics of x, then
one pass that reads x and the residual and writes the spikes and the sum (2 b to 4 b; 1/8 for bits).
Backward: one pass that reads x, the sum and the gradients there are and writes that of the sum (3 b
to 5 b), and one that turns it into that of x (3 b in training, 2 b else). Beyond 8 steps backward
reads what the neurons integrate twice and keeps a membrane every 8 steps.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
from torch import Tensor

from .. import _native, _triton
from ..pack import triton as pack_triton
from . import buffers
from . import triton_kernels as kernels
from .buffers import BackwardCall, ForwardCall

_PROGRAMS = 1024  # that sum over positions, together: a few for each multiprocessor
_MAX_COUNT = 8  # steps whose input, sum, membrane and gradients fit in registers together


class _Layout(NamedTuple):
    """How the positions and channels of a dense step are cut into tiles."""

    channels: int
    inner: int
    positions: int
    position_tiles: int
    channel_tiles: int
    constants: dict[str, object]

    @classmethod
    def of(cls, x: Tensor, inner: int, channel_dim: int, count: int) -> _Layout:
        channels = x.shape[channel_dim]
        positions = x[0].numel() // channels
        # Room for three values per neuron-step beside the membranes.
        size = _triton.neurons_per_program(2 * count, x.dtype)
        last = inner == 1 and channels > 1
        run = channels if last else inner if inner > 1 else positions
        contiguous = min(128, triton.next_power_of_2(run))
        if last:
            across, along = contiguous, size // contiguous
        else:
            across = min(size // contiguous, triton.next_power_of_2(channels))
            along = size // across
        return cls(
            channels,
            inner,
            positions,
            triton.cdiv(positions, along),
            triton.cdiv(channels, across),
            {
                "LAST": last, "CH": across, "POS": along, "COUNT": count,
                "STEPS": x.shape[0], "STATE": _triton.state_type(x.dtype),
            },
        )  # fmt: skip

    @property
    def grid(self) -> tuple[int, int]:
        """A program for each tile."""
        return self.position_tiles, self.channel_tiles

    @property
    def sum_grid(self) -> tuple[int, int]:
        """Programs that each sum over many tiles."""
        programs = triton.cdiv(_PROGRAMS, self.channel_tiles)
        return min(self.position_tiles, programs), self.channel_tiles

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.channels, self.inner, self.positions

    def partials(self, mean: Tensor) -> Tensor:
        return mean.new_empty((2, self.sum_grid[0], self.channels))

    def per_channel(self) -> tuple[tuple[int], dict[str, int]]:
        """Grid and tile of a kernel that finishes sums."""
        return (triton.cdiv(self.channels, 16),), {"CH": 16}


def bn_lif_forward(call: ForwardCall) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, inner, weight, bias, mean, var, residual, v_init, s, total, v, bits = buffers.forward(call)
    if x.numel():
        layout = _Layout.of(x, inner, call.channel_dim, min(x.shape[0], 8))
        if call.training:
            partials = layout.partials(mean)
            kernels.statistics[layout.sum_grid](
                x, partials, x.stride(0), *layout.sizes, layout.position_tiles,
                **layout.constants, **_triton.NO_FUSION,
            )  # fmt: skip
            grid, tile = layout.per_channel()
            kernels.moments[grid](
                x, partials, mean, var, layout.sum_grid[0], x.shape[0] * layout.positions,
                layout.channels, inner, **tile, **_triton.NO_FUSION,
            )  # fmt: skip
        kernels.forward[layout.grid](
            x, weight, bias, mean, var, residual, v_init, _triton.requested(total), s,
            _triton.requested(v), _triton.requested(bits), x.stride(0),
            0 if residual is None else residual.stride(0), *layout.sizes, EPS=call.eps,
            **layout.constants, **_triton.neuron(call.threshold, call.decay, call.reset),
            **_triton.NO_FUSION,
        )  # fmt: skip
    bits = pack_triton.pack_rows(s) if call.pack and not bits.numel() else bits
    return s, total, v, bits, mean, var


def bn_lif_backward(call: BackwardCall) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    gs, gsum, gv, x, inner, total, v_init, weight, bias, g, gx, gweight, gbias, gv_init = (
        buffers.backward(call)
    )
    if x.numel():
        count = _triton.steps_at_once(x.shape[0], _MAX_COUNT)
        layout = _Layout.of(x, inner, call.channel_dim, count)
        partials = layout.partials(call.mean)
        checkpoints = _triton.checkpoints(gv_init, x, count)
        kernels.backward[layout.sum_grid](
            gs, gsum, gv, x, total, v_init, weight, bias, call.mean, call.var, g,
            _triton.requested(gv_init), checkpoints, partials, x.stride(0), *layout.sizes,
            layout.position_tiles, EPS=call.eps,
            **layout.constants, **_triton.differentiable_neuron(*call.neuron),
            **_triton.NO_FUSION,
        )  # fmt: skip
        grid, tile = layout.per_channel()
        kernels.parameter_gradients[grid](
            partials, gweight, gbias, layout.sum_grid[0], layout.channels, **tile,
            **_triton.NO_FUSION,
        )  # fmt: skip
        layout = _Layout.of(x, inner, call.channel_dim, min(x.shape[0], 8))
        kernels.input_gradient[layout.grid](
            g, x, weight, call.mean, call.var, gweight, gbias, gx, x.stride(0),
            x.shape[0] * layout.positions, *layout.sizes, EPS=call.eps, TRAINING=call.training,
            **layout.constants, **_triton.NO_FUSION,
        )  # fmt: skip
    gresidual = g if call.residual_gradient else _native.placeholder(x, x.dtype)
    return gx, gresidual, gweight, gbias, gv_init
