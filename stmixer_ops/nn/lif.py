"""The spiking neuron as a module, and how other libraries' time constants translate."""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional as F
from .._numbers import real_number
from ..ops.lif.spec import LIFSpec, Reset, SurrogateLike
from ..surrogate import Dspike

_TAU_HELP = (
    "LIF has no tau, because libraries mean different things by it. Give decay, the factor the "
    "membrane keeps per step: decay=decay_from_tau(tau) for SpikingJelly's tau (1 - 1/tau), "
    "decay_from_tau(tau, convention='exponential') for a time constant in steps (exp(-1/tau)); "
    "snnTorch's beta and the official STMixer's tau are decay itself. SpikingJelly's "
    "decay_input=True is input_scale=1/tau"
)


def decay_from_tau(tau: float, convention: str = "spikingjelly") -> float:
    """The ``decay`` of :class:`LIF` for a time constant of another library.

    Args:
        tau: the time constant, in time steps (dimensionless for ``"stmixer"``).
        convention:
            ``"spikingjelly"``: ``1 - 1/tau`` (forward Euler; tau > 1). With its default
            ``decay_input=True`` also pass ``input_scale=1/tau`` to :class:`LIF`;
            ``"exponential"`` or ``"snntorch"``: ``exp(-1/tau)``, the exact decay over one step
            (how snnTorch derives ``beta`` from a time constant; tau > 0);
            ``"stmixer"``: ``tau`` itself, as in the official STMixer code (0 < tau <= 1).
    Raises:
        ValueError: unknown convention, or a tau whose decay is not in (0, 1].
    """
    if convention == "spikingjelly":
        allowed, decay = tau > 1, 1 - 1 / tau if tau else 0.0
    elif convention in ("exponential", "snntorch"):
        allowed, decay = tau > 0, math.exp(-1 / tau) if tau > 0 else 0.0
    elif convention == "stmixer":
        allowed, decay = 0 < tau <= 1, float(tau)
    else:
        raise ValueError(
            "convention must be 'spikingjelly', 'exponential', 'snntorch' or 'stmixer', "
            f"got {convention!r}"
        )
    if not allowed:
        bounds = {"spikingjelly": "above 1", "stmixer": "in (0, 1]"}.get(convention, "above 0")
        raise ValueError(f"tau must be {bounds} in the {convention} convention, got {tau!r}")
    return decay


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons over all time steps, without state between calls.

    ``v = decay * v + input_scale * x[t]``, a spike where ``v >= threshold``, then the reset. The
    membrane starts at ``v_reset`` and leaks toward it.

    Args:
        threshold: membrane at which a neuron fires.
        decay: the membrane's factor per step, in (0, 1]; see :func:`decay_from_tau`.
        input_scale: factor on the input (``1/tau`` for SpikingJelly's ``decay_input=True``).
        v_reset: where a hard reset puts the membrane and where it leaks to (SpikingJelly's
            meaning); only 0 with the soft reset, which subtracts ``threshold``.
        reset: ``"hard"`` or ``"soft"``; stored as ``reset_mode``.
        detach_reset: leave the reset out of the gradient.
        surrogate: one of :mod:`stmixer_ops.surrogate`, or a callable ``u -> spikes``.
        backend: backend of the op; by default chosen per call.
    Shape: ``[T, ...]`` to spikes ``[T, ...]``, 0 or 1 in the dtype of the input.
    """

    # Active recorders (see recorder.py). Empty except inside `with record(...)`, so that the check
    # costs nothing and Dynamo only guards on an empty list.
    observers: ClassVar[list[Any]] = []

    def __init__(
        self,
        threshold: float = 1.0,
        decay: float = 0.5,
        input_scale: float = 1.0,
        v_reset: float = 0.0,
        reset: Reset = "hard",
        detach_reset: bool = False,
        surrogate: SurrogateLike | None = None,
        *,
        backend: str | None = None,
        **unknown: Any,
    ) -> None:
        if "tau" in unknown:
            raise TypeError(_TAU_HELP)
        if unknown:
            raise TypeError(f"LIF got unexpected arguments: {', '.join(sorted(unknown))}")
        super().__init__()
        if v_reset is None:
            raise ValueError(
                "v_reset must be a number; SpikingJelly's v_reset=None is reset='soft'"
            )
        input_scale = real_number("input_scale", input_scale)
        v_reset = real_number("v_reset", v_reset)
        if not (math.isfinite(input_scale) and input_scale > 0):
            raise ValueError(f"input_scale must be positive and finite, got {input_scale!r}")
        if not math.isfinite(v_reset):
            raise ValueError(f"v_reset must be finite, got {v_reset!r}")
        if reset == "soft" and v_reset != 0:
            raise ValueError(f"v_reset has no meaning with reset='soft', got {v_reset!r}")
        self.surrogate = Dspike(2.5) if surrogate is None else surrogate
        spec = LIFSpec(threshold, decay, reset, detach_reset, self.surrogate)  # checks the values
        self.threshold = float(spec.threshold)
        self.decay = float(spec.decay)
        self.input_scale = float(input_scale)
        self.v_reset = float(v_reset)
        self.reset_mode = reset
        self.detach_reset = bool(detach_reset)
        self.backend = backend

    def reset(self) -> None:
        """Nothing to reset; helpers such as SpikingJelly's ``reset_net`` call it."""

    def options(self) -> dict[str, Any]:
        """The keywords of :func:`stmixer_ops.functional.lif` for ``v - v_reset``.

        The op's membrane rests at 0, so ``v_reset`` becomes a shift of the threshold;
        ``input_scale`` is left to the caller, who can fold it into what makes the input.
        """
        return {
            "threshold": self.threshold - self.v_reset,
            "decay": self.decay,
            "reset": self.reset_mode,
            "detach_reset": self.detach_reset,
            "surrogate": self.surrogate,
            "backend": self.backend,
        }

    def forward(
        self, x: Tensor, v_init: Tensor | None = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Spikes for currents ``x [T, ...]``; with ``return_state`` also the last membrane.

        ``v_init`` and the returned state have the shape of one step, in float32 (float64 for
        float64 input): chunks of a sequence can be run one after the other.
        """
        if self.input_scale != 1:
            x = x * self.input_scale
        if v_init is not None and self.v_reset:
            v_init = v_init - self.v_reset
        out = F.lif(x, v_init=v_init, return_state=return_state, **self.options())
        self.observe(out[0] if return_state else out)
        if return_state and self.v_reset:
            return out[0], out[1] + self.v_reset
        return out

    def observe(self, spikes: Tensor, bits: Tensor | None = None) -> None:
        """Tell the active recorders what fired: ``[T, B, C, ...]``, whoever computed it, and the
        same as bits where a layer may read those."""
        if LIF.observers:
            for recorder in LIF.observers:
                recorder.report(self, spikes, bits)

    def extra_repr(self) -> str:
        text = f"threshold={self.threshold}, decay={self.decay}, reset={self.reset_mode!r}"
        if self.input_scale != 1:
            text += f", input_scale={self.input_scale}"
        if self.v_reset:
            text += f", v_reset={self.v_reset}"
        if self.detach_reset:
            text += ", detach_reset=True"
        return text + (
            "" if isinstance(self.surrogate, nn.Module) else f", surrogate={self.surrogate}"
        )


def check_lif_options(owner: str, options: dict[str, Any]) -> None:
    """Refuse what :class:`LIF` does not take, in the name of the module it was given to."""
    known = set(inspect.signature(LIF).parameters) - {"unknown"}
    if unknown := sorted(set(options) - known - {"tau"}):  # LIF explains tau itself
        raise TypeError(
            f"{owner} got unexpected arguments: {', '.join(unknown)}; beside its own it takes "
            f"LIF's {', '.join(sorted(known))}"
        )


def autocast_input(x: Tensor) -> Tensor:
    """``x`` in autocast's dtype where autocast is on, as every linear layer would take it."""
    device = x.device.type
    if x.dtype == torch.float64:
        return x
    # Dynamo of torch 2.6 cannot trace the question, whose answer is known for these.
    if device not in ("cpu", "cuda") and not torch.amp.is_autocast_available(device):
        return x
    if torch.is_autocast_enabled(device):
        return x.to(torch.get_autocast_dtype(device))
    return x
