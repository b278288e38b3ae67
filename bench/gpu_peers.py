"""Who computes a case on a GPU: these ops by backend, PyTorch eager and compiled, SpikingJelly."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops.measure.rates import fit_rates

from .cases import Case

OURS = "stmixer_ops"
FIRES = ("lif", "bn_lif", "token_mix_lif", "conv_lif")
"""Ops whose result is spikes."""
Step = Callable[[], Tensor]


class Missing(Exception):
    """Why a contestant cannot be timed here."""


@dataclass(frozen=True)
class Contestant:
    """``make(case, device)`` gives one step, or raises :class:`Missing` with the reason."""

    name: str
    make: Callable[[Case, torch.device], Step]
    ours: bool = False


def contestants(case: Case) -> list[Contestant]:
    """Those of ``case``, whoever takes long to get ready last."""
    ours = [Contestant(OURS, automatic, ours=True)]
    if case.module is None:
        ours = [
            Contestant(f"{OURS} {backend}", _on_backend(backend), ours=True)
            for backend in ("cuda", "triton")
        ]
    spikingjelly = [
        Contestant(f"SpikingJelly {kind}", _spikingjelly(kind)) for kind in ("cuda", "triton")
    ]
    products = case.group in ("spike_linear", "spike_conv2d")
    return [
        *ours,
        Contestant("eager (cuBLAS, cuDNN)" if products else "eager", _eager),
        *(spikingjelly if case.group in ("lif", "bn_lif") else []),
        _compiled("max-autotune" if case.group == "infer" else None),
    ]


def _module(case: Case, device: torch.device) -> nn.Module | None:
    """The same weights for everybody; for inference with statistics that let spikes pass."""
    torch.manual_seed(0)
    if case.module is None:
        return None
    module = case.module()
    if case.group == "infer":
        image = case.inputs(torch.device("cpu"))[0].shape[1:]
        fit_rates(module, torch.randn(16, *image))
    return module.to(device)


def _step(case: Case, device: torch.device, module: nn.Module | None, wrap: Any = None) -> Step:
    torch.manual_seed(1)
    return case.program(device, module, wrap)


def _using(backend: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def wrap(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*inputs: Any) -> Tensor:
            with so.use_backend(backend):
                return call(*inputs)

        return run

    return wrap


def _on_backend(backend: str) -> Callable[[Case, torch.device], Step]:
    def make(case: Case, device: torch.device) -> Step:
        step = _step(case, device, _module(case, device), _using(backend))
        try:
            step()
        except RuntimeError as error:
            if "cannot run this call" in str(error):
                raise Missing(str(error)) from error
            raise
        return step

    return make


def _our_module(case: Case, device: torch.device) -> nn.Module | None:
    module = _module(case, device)
    if module is None or case.group != "infer":
        return module
    return so.optimize_for_inference(module)


def automatic(case: Case, device: torch.device) -> Step:
    """On whichever backends the ops choose themselves."""
    return _step(case, device, _our_module(case, device))


def _eager(case: Case, device: torch.device) -> Step:
    """The official structure: one module after the other, on the reference."""
    case = case.unfused()
    return _step(case, device, _module(case, device), _using("reference"))


def reference_result(case: Case, device: torch.device) -> Tensor:
    """What everybody is held to."""
    return _eager(case, device)().detach().clone()


def _compiled(mode: str | None) -> Contestant:
    def make(case: Case, device: torch.device) -> Step:
        case = case.unfused()
        torch.compiler.reset()

        def wrap(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return _using("reference")(torch.compile(call, mode=mode, dynamic=False))

        return _step(case, device, _module(case, device), wrap)

    return Contestant(f"torch.compile {mode or ''}".strip(), make)


def _spikingjelly(kind: str) -> Callable[[Case, torch.device], Step]:
    def make(case: Case, device: torch.device) -> Step:
        fire = spikingjelly_neurons(kind, device)

        @torch.compile(dynamic=False)
        def normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            y = nnf.batch_norm(x.flatten(0, 1), None, None, weight, bias, training=True)
            return y.view(x.shape)

        def bn_then_fire(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return fire(normalise(x, weight, bias))

        call = fire if case.group == "lif" else bn_then_fire
        return _step(replace(case, call=call), device, None)

    return make


def spikingjelly_neurons(kind: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The same neurons on SpikingJelly's own ``kind`` of kernels, from rest in every call."""
    try:
        version = importlib.metadata.version("spikingjelly")
        activation = "spikingjelly.activation_based"
        neuron = importlib.import_module(f"{activation}.neuron")
        surrogate = importlib.import_module(f"{activation}.surrogate")
        functional = importlib.import_module(f"{activation}.functional")
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise Missing(f"SpikingJelly is not installed ({error})") from error
    slope = surrogate.PiecewiseQuadratic(1.0)
    if int(version.split(".")[0]) >= 2:
        _choose_kernels(kind, device, functional)
        return lambda x: fire_from_float32(functional, slope, x)
    try:
        node = neuron.LIFNode(
            tau=2.0, decay_input=False, v_reset=0.0, step_mode="m", surrogate_function=slope,
            backend="cupy" if kind == "cuda" else kind,
        ).to(device)  # fmt: skip
    except (ImportError, ValueError, NotImplementedError) as error:
        raise Missing(f"SpikingJelly {version}: {error}") from error

    def fire(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return fire


def fire_from_float32(functional: Any, slope: Any, x: Tensor) -> Tensor:
    """Version 2's kernels have float32 membranes. Its module gives them the type of its input, and
    with bfloat16 there is no kernel left to run it."""
    v = torch.zeros(x.shape[1:], device=x.device)
    spikes: Tensor = functional.lif_multi_step(
        x, v, tau=2.0, decay_input=False, v_threshold=1.0, v_reset=0.0, surrogate_function=slope
    )[0]
    return spikes


def _choose_kernels(kind: str, device: torch.device, functional: Any) -> None:
    """Version 2 reads the choice from the environment once, when it is imported."""
    if device.type != "cuda":
        raise Missing("SpikingJelly's kernels need a GPU")
    lif = importlib.import_module("spikingjelly._ops.lif")
    lif._selection._requested = kind
    lif._selection._selections.clear()
    try:
        chosen = functional.neuron_implementation("lif", device)["implementation"]
    except RuntimeError as error:
        raise Missing(f"SpikingJelly has no {kind} kernels here: {error}") from error
    if chosen != kind:
        raise Missing(f"SpikingJelly chose {chosen}, not {kind}")


def agreement(case: Case, ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """How far two results are apart, and how far they may be.

    Spikes: the share that differs. Currents: the largest difference, relative. In bfloat16,
    spikes that rounding turned multiply from layer to layer. After one block, two right results
    have a cosine of 0.93 (one in float32: 0.91), one with a decay of 0.6 for 0.5 has 0.67, with a
    threshold of 1.1 for 1 it has 0.54. Logits of whole networks with random weights have 0.2 to
    0.6, right or wrong: of them only the norm is compared, and of ours the populations, see
    :func:`rates_apart`.
    """
    a, b = ours.detach().float(), theirs.detach().float()
    if case.group in (*FIRES, "pack_spikes"):
        return float((a != b).float().mean()), 2e-3
    if case.group == "STMBlock":
        return 1 - float(nnf.cosine_similarity(a.flatten(), b.flatten(), dim=0)), 0.15
    if case.module is not None:
        return abs(float(a.norm() / b.norm()) - 1), 0.5
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)), 3e-2


class Population(NamedTuple):
    rate: float
    neuron_steps: int


def populations(case: Case, device: torch.device, ours: bool) -> dict[str, Population]:
    """Every population of a network in one step, by these ops or by the official structure."""
    if not ours:
        case = case.unfused()
    module = (_our_module if ours else _module)(case, device)
    if module is None:
        return {}
    step = _step(case, device, module, None if ours else _using("reference"))
    with so.record(module, keep_spikes=False) as seen:
        step()
    return {path: Population(rate, seen.neuron_steps[path]) for path, rate in seen.rates.items()}


def rates_apart(ours: dict[str, Population], theirs: dict[str, Population]) -> tuple[float, str]:
    """How far rates are apart, in what they may be, and the population that is farthest.

    Turned spikes make of two right computations something like two draws of as many neurons: of
    24 populations of 0.3 to 9 million neuron-steps the worst was off by 3.8 standard errors, and
    one by 1.5 %. Six of the former and 1 % are allowed. A threshold of 1.01 for 1 is off by 6 %,
    a decay of 0.6 for 0.5 by 11 %. Random weights in another order keep the rates: that is for
    the tests of the modules to find.
    """
    if ours.keys() != theirs.keys():
        return float("inf"), ", ".join(sorted(ours.keys() ^ theirs.keys()))
    apart = []
    for path, (rate, count) in theirs.items():
        error = (2 * max(rate * (1 - rate), 1 / count) / count) ** 0.5
        apart.append((abs(ours[path].rate - rate) / (0.01 * rate + 6 * error), path))
    return max(apart, default=(0.0, ""))
