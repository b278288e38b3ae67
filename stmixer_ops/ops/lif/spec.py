"""The options every LIF-carrying op shares, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..._numbers import real_number
from ...surrogate import Dspike, Surrogate

# Arguments of the operators: LIFSpec.neuron, and behind it LIFSpec.gradient.
NEURON_SCHEMA = "float threshold, float decay, str reset"
GRADIENT_SCHEMA = "bool detach_reset, str surrogate, float scale"

Reset = Literal["hard", "soft"]
SurrogateLike = Surrogate | Callable[[Tensor], Tensor]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """Membranes are float64 for float64 input and float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class LIFSpec:
    """``v = decay * v + x``; spike where ``v >= threshold``; hard or soft reset."""

    threshold: float = 1.0
    decay: float = 0.5
    reset: Reset = "hard"
    detach_reset: bool = False
    surrogate: SurrogateLike = field(default_factory=lambda: Dspike(2.5))

    def __post_init__(self) -> None:
        if type(self.threshold) is not float or type(self.decay) is not float:
            for name in ("threshold", "decay"):
                value = getattr(self, name)
                if type(value) not in (float, int):
                    object.__setattr__(self, name, real_number(name, value))
        if self.reset not in ("hard", "soft"):
            raise ValueError(f"reset must be 'hard' or 'soft', got {self.reset!r}")
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(
                f"decay must lie in (0, 1], the membrane's factor per step, got {self.decay!r}"
            )
        if not abs(self.threshold) < math.inf:
            raise ValueError(f"threshold must be a finite number, got {self.threshold!r}")
        if not callable(self.surrogate):
            raise TypeError(
                "surrogate must be one of stmixer_ops.surrogate or a callable u -> spikes, "
                f"got {self.surrogate!r}"
            )

    @property
    def neuron(self) -> tuple[float, float, str]:
        """What a kernel reads that charges, fires and resets."""
        return self.threshold, self.decay, self.reset

    @property
    def gradient(self) -> tuple[bool, str, float]:
        """What a kernel reads besides that differentiates; only of surrogates that kernels know."""
        assert isinstance(self.surrogate, Surrogate)
        return self.detach_reset, self.surrogate.name, self.surrogate.scale


def check_time_first(x: Tensor, argument: str, min_dim: int = 1) -> None:
    """Refuse anything but a floating ``[T, ...]`` tensor with at least one step."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument} must be a tensor, got {type(x).__name__}")
    if x.dim() < min_dim:
        raise ValueError(
            f"{argument} must have at least {min_dim} dimensions, time first, "
            f"got shape {tuple(x.shape)}"
        )
    if x.shape[0] == 0:
        raise ValueError(f"{argument} must have T >= 1 time steps, got shape {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(f"{argument} must be float32, float64, bfloat16 or float16, got {x.dtype}")


def check_pack(pack: object) -> None:
    """Refuse anything but False, True and ``"only"``."""
    if pack not in (False, True, "only"):
        raise ValueError(f"pack must be False, True or 'only', got {pack!r}")


def check_state(v_init: Tensor | None, x: Tensor) -> None:
    """``v_init`` must be a membrane for ``x``: same device, shape ``x.shape[1:]``, state dtype."""
    if v_init is None:
        return
    expected = state_dtype(x.dtype)
    if v_init.shape != x.shape[1:]:
        raise ValueError(
            f"v_init must have the shape of one time step, {tuple(x.shape[1:])}, "
            f"got {tuple(v_init.shape)}"
        )
    if v_init.dtype != expected:
        raise TypeError(f"v_init must be {expected} for {x.dtype} input, got {v_init.dtype}")
    if v_init.device != x.device:
        raise ValueError(f"v_init must be on {x.device} like the input, got {v_init.device}")
