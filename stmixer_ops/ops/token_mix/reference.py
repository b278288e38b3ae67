"""Spiking token mixing (STM) in plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..lif import reference as lif_reference
from ..lif.spec import LIFSpec, state_dtype


def token_mix(s: Tensor, weight: Tensor) -> Tensor:
    """``y[t,b,c,m] = sum_n weight[h,m,n] s[t,b,c,n]``, h the head that channel c belongs to."""
    heads = weight.shape[0]
    mixed = s.unflatten(2, (heads, s.shape[2] // heads)) @ weight.transpose(-1, -2)
    return mixed.flatten(2, 3)


def token_mix_lif(
    s: Tensor, weight: Tensor, spec: LIFSpec, v_init: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Spikes and last membrane of a LIF fed by :func:`token_mix`.

    The currents stay in the state's dtype: they are never rounded to a narrower input's.
    """
    dtype = state_dtype(s.dtype)
    out, v = lif_reference.lif(token_mix(s.to(dtype), weight.to(dtype)), spec, v_init)
    return out.to(s.dtype), v
