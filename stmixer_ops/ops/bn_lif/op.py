"""bn_lif: checks, choice of backend, registration, autograd."""

from __future__ import annotations

from torch import Tensor

from .._backend import choose
from ..lif.spec import LIFSpec
from ..pack import op as pack_op
from . import reference


def check(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    residual: Tensor | None,
    channel_dim: int,
) -> int:
    """The normalised ``channel_dim``; every per-channel tensor must be ``[C]``."""
    dim = pack_op.check(x, channel_dim, "x")
    if dim == 0:
        raise ValueError("channel_dim must not be 0, which is time")
    channels = x.shape[dim]
    given = {"weight": weight, "bias": bias, "running_mean": running_mean,
             "running_var": running_var}
    for name, value in given.items():
        if value is not None and value.shape != (channels,):
            raise ValueError(
                f"{name} must have shape ({channels},), the channels of x along dim {dim}, "
                f"got {tuple(value.shape)}"
            )
    if not training and (running_mean is None or running_var is None):
        raise ValueError("running_mean and running_var are needed unless training=True")
    if training and x.numel() <= channels:
        raise ValueError(
            f"training needs more than one value per channel, got x of shape {tuple(x.shape)}"
        )
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual must be {x.dtype} of shape {tuple(x.shape)} like x, "
            f"got {residual.dtype} {tuple(residual.shape)}"
        )
    return dim


def bn_lif(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    residual: Tensor | None,
    keep_sum: bool,
    channel_dim: int,
    pack: bool,
    spec: LIFSpec,
    v_init: Tensor | None,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Spikes, what the LIF integrated, last membrane, and bits if ``pack``."""
    choose("bn_lif", backend, {"reference": None})
    s, total, v = reference.bn_lif(
        x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps,
        residual=residual, keep_sum=keep_sum, channel_dim=channel_dim, spec=spec, v_init=v_init,
    )
    return s, total, v, pack_op.pack_spikes(s, s.dim() - 1, backend) if pack else None
