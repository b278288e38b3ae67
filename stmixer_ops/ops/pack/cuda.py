"""Launchers of the packing kernels on a GPU."""

from __future__ import annotations

from functools import partial

from .. import _cuda
from . import kernels

pack_rows = partial(kernels.pack_rows, _cuda.run)
unpack_rows = partial(kernels.unpack_rows, _cuda.run)
