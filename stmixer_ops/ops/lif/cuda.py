"""Launchers of the LIF kernels on a GPU."""

from __future__ import annotations

from functools import partial

from .. import _cuda
from . import kernels

lif_forward = partial(kernels.lif_forward, _cuda.run)
lif_backward = partial(kernels.lif_backward, _cuda.run)
