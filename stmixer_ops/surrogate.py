"""Surrogate derivatives of the spike, as frozen dataclasses.

A spike is the Heaviside step ``s = H(u)`` of ``u = v - threshold``; its derivative is replaced by
one of the functions below. Calling an instance gives the spike with that derivative attached, so
it also works wherever a callable surrogate is expected. ``alpha`` means what it means in
SpikingJelly; ``Dspike.gamma`` is the sharpness of the official STMixer code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._numbers import real_number

__all__ = ["ATan", "Dspike", "PiecewiseQuadratic", "Rect", "Sigmoid", "Surrogate"]


class _Spike(torch.autograd.Function):
    """``H(u)`` forward, ``derivative(u)`` backward."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(u)
        ctx.surrogate = surrogate
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return grad * ctx.surrogate.derivative(u), None


class _TransformedSpike(torch.autograd.Function):
    """:class:`_Spike` as ``torch.func`` wants it, which takes three times as long to call."""

    generate_vmap_rule = True
    backward = _Spike.backward

    @staticmethod
    def forward(u: Tensor, surrogate: Surrogate) -> Tensor:
        return (u >= 0).to(u.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:
        u, ctx.surrogate = inputs
        ctx.save_for_backward(u)
        ctx.save_for_forward(u)


class _ForwardSpike(_TransformedSpike):
    """With a forward-mode derivative, too. Dynamo refuses functions that have one."""

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Spike.backward(ctx, tangent)[0]


@dataclass(frozen=True)
class Surrogate:
    """Base of the surrogate derivatives; ``name`` is how operator schemas spell the kind."""

    name: ClassVar[str] = ""

    @property
    def scale(self) -> float:
        """The one number that shapes the curve (``alpha`` or ``gamma``)."""
        raise NotImplementedError

    def derivative(self, u: Tensor) -> Tensor:
        """``ds/du`` at ``u = v - threshold``, same shape and dtype as ``u``."""
        raise NotImplementedError

    def __call__(self, u: Tensor) -> Tensor:
        """Spikes ``H(u)`` (0 or 1, dtype of ``u``) with this derivative."""
        if forward_ad._current_level >= 0:
            return _ForwardSpike.apply(u, self)
        if torch._C._are_functorch_transforms_active():
            return _TransformedSpike.apply(u, self)
        if torch.jit.is_tracing():
            return self._traced(u)
        if torch.is_grad_enabled() and u.requires_grad:
            return _Spike.apply(u, self)
        return (u >= 0).to(u.dtype)

    def _traced(self, u: Tensor) -> Tensor:
        """For TorchScript, which knows no autograd functions: plus a 0 that has the gradient."""
        fired = (u >= 0).to(u.dtype)
        if torch.onnx.is_in_onnx_export():
            return fired
        zero = (u - u.detach()) * self.derivative(u.detach())
        return fired + torch.where(u.isfinite(), zero, 0)


def _check_positive(surrogate: Surrogate, argument: str, value: float) -> None:
    if type(value) not in (float, int):
        object.__setattr__(surrogate, argument, real_number(argument, value))
    if not 0 < value < math.inf:
        kind = type(surrogate).__name__
        raise ValueError(f"{kind}: {argument} must be a positive finite number, got {value!r}")


@dataclass(frozen=True)
class Dspike(Surrogate):
    """``gamma (1 - tanh^2(gamma u)) / (2 tanh gamma)`` for ``|u| <= 1``, else 0 (STMixer)."""

    gamma: float = 2.5
    name: ClassVar[str] = "dspike"

    def __post_init__(self) -> None:
        _check_positive(self, "gamma", self.gamma)

    @property
    def scale(self) -> float:
        return self.gamma

    def derivative(self, u: Tensor) -> Tensor:
        slope = self.gamma * (1 - torch.tanh(self.gamma * u) ** 2) / (2 * math.tanh(self.gamma))
        return torch.where(u.abs() <= 1, slope, torch.zeros_like(u))


@dataclass(frozen=True)
class _AlphaSurrogate(Surrogate):
    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self, "alpha", self.alpha)

    @property
    def scale(self) -> float:
        return self.alpha


@dataclass(frozen=True)
class PiecewiseQuadratic(_AlphaSurrogate):
    """Triangle ``alpha (1 - alpha |u|)`` for ``|u| <= 1 / alpha``, else 0."""

    name: ClassVar[str] = "piecewise_quadratic"

    def derivative(self, u: Tensor) -> Tensor:
        return (self.alpha - self.alpha * self.alpha * u.abs()).clamp(min=0)


@dataclass(frozen=True)
class Rect(_AlphaSurrogate):
    """Rectangle ``alpha`` for ``|u| < 1 / (2 alpha)``, else 0."""

    name: ClassVar[str] = "rect"

    def derivative(self, u: Tensor) -> Tensor:
        return (u.abs() < 0.5 / self.alpha).to(u.dtype) * self.alpha


@dataclass(frozen=True)
class Sigmoid(_AlphaSurrogate):
    """``alpha sigma(alpha u) (1 - sigma(alpha u))``."""

    alpha: float = 4.0
    name: ClassVar[str] = "sigmoid"

    def derivative(self, u: Tensor) -> Tensor:
        sigma = torch.sigmoid(self.alpha * u)
        return self.alpha * sigma * (1 - sigma)


@dataclass(frozen=True)
class ATan(_AlphaSurrogate):
    """``alpha / (2 (1 + (pi alpha u / 2)^2))``."""

    alpha: float = 2.0
    name: ClassVar[str] = "atan"

    def derivative(self, u: Tensor) -> Tensor:
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * u) ** 2)
