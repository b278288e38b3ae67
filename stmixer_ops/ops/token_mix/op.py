"""token_mix and token_mix_lif: checks, choice of backend, registration, autograd."""

from __future__ import annotations

from torch import Tensor

from .._backend import choose
from ..lif.spec import LIFSpec, check_time_first
from ..pack import op as pack_op
from . import reference


def check(s: Tensor, weight: Tensor) -> None:
    check_time_first(s, "s")
    if s.dim() != 4:
        raise ValueError(f"s must be [T, B, C, N], got shape {tuple(s.shape)}")
    tokens = s.shape[3]
    if weight.dim() != 3 or weight.shape[1:] != (tokens, tokens):
        raise ValueError(
            f"weight must be [heads, {tokens}, {tokens}] for the {tokens} tokens of s, "
            f"got shape {tuple(weight.shape)}"
        )
    if weight.shape[0] == 0 or s.shape[2] % weight.shape[0]:
        raise ValueError(
            f"the heads of weight ({weight.shape[0]}) must divide the channels of s ({s.shape[2]})"
        )
    if weight.dtype != s.dtype:
        raise TypeError(f"weight must be {s.dtype} like s, got {weight.dtype}")


def token_mix(s: Tensor, weight: Tensor, backend: str | None) -> Tensor:
    choose("token_mix", backend, {"reference": None})
    return reference.token_mix(s, weight)


def token_mix_lif(
    s: Tensor,
    weight: Tensor,
    spec: LIFSpec,
    v_init: Tensor | None,
    pack: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Spikes, last membrane, and bits if ``pack``."""
    choose("token_mix_lif", backend, {"reference": None})
    out, v = reference.token_mix_lif(s, weight, spec, v_init)
    return out, v, pack_op.pack_spikes(out, out.dim() - 1, backend) if pack else None
