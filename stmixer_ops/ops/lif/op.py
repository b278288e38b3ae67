"""lif: choice of backend, registration, autograd."""

from __future__ import annotations

from torch import Tensor

from .._backend import choose
from ..pack import op as pack_op
from . import reference
from .spec import LIFSpec


def lif(
    x: Tensor, spec: LIFSpec, v_init: Tensor | None, pack: bool, backend: str | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes, last membrane, and bits if ``pack``."""
    choose("lif", backend, {"reference": None})
    s, v = reference.lif(x, spec, v_init)
    return s, v, pack_op.pack_spikes(s, s.dim() - 1, backend) if pack else None
