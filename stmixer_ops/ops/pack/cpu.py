"""Launchers of the packing kernels on the CPU."""

from __future__ import annotations

from functools import partial

from .. import _native
from . import kernels

pack_rows = partial(kernels.pack_rows, _native.run)
unpack_rows = partial(kernels.unpack_rows, _native.run)
