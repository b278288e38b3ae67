"""Launchers of the BN + residual + LIF kernels on a GPU."""

from __future__ import annotations

from functools import partial

from .. import _cuda
from . import kernels

bn_lif_forward = partial(kernels.bn_lif_forward, _cuda.run)
bn_lif_backward = partial(kernels.bn_lif_backward, _cuda.run)
