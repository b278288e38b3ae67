"""Launchers of the BN + residual + LIF kernels on the CPU."""

from __future__ import annotations

from functools import partial

from .. import _native
from . import kernels

bn_lif_forward = partial(kernels.bn_lif_forward, _native.run)
bn_lif_backward = partial(kernels.bn_lif_backward, _native.run)
