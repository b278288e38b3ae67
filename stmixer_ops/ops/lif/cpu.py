"""Launchers of the LIF kernels on the CPU."""

from __future__ import annotations

from functools import partial

from .. import _native
from . import kernels

lif_forward = partial(kernels.lif_forward, _native.run)
lif_backward = partial(kernels.lif_backward, _native.run)
