"""Who computes a case on a GPU: these ops by backend, PyTorch eager and compiled, SpikingJelly."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as nnf
from cases import Case
from torch import Tensor, nn

import stmixer_ops as so
from stmixer_ops.cli._calibrate import calibrate

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
    ours = [Contestant(OURS, _optimized if case.group == "infer" else automatic, ours=True)]
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
        calibrate(module, torch.randn(16, *image))
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


def automatic(case: Case, device: torch.device) -> Step:
    """On whichever backends the ops choose themselves."""
    return _step(case, device, _module(case, device))


def _optimized(case: Case, device: torch.device) -> Step:
    optimize = getattr(so, "optimize_for_inference", None)
    if optimize is None:
        raise Missing("this version has no optimize_for_inference yet")
    return _step(case, device, optimize(_module(case, device)))


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
        node, reset = spikingjelly_node(kind, device)

        def fire(x: Tensor) -> Tensor:
            reset(node)
            return node(x)

        @torch.compile(dynamic=False)
        def normalise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            y = nnf.batch_norm(x.flatten(0, 1), None, None, weight, bias, training=True)
            return y.view(x.shape)

        def bn_then_fire(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return fire(normalise(x, weight, bias))

        call = fire if case.group == "lif" else bn_then_fire
        return _step(replace(case, call=call), device, None)

    return make


def spikingjelly_node(kind: str, device: torch.device) -> tuple[nn.Module, Callable[..., Any]]:
    """A neuron of the same dynamics on SpikingJelly's own ``kind`` of kernels, and its reset."""
    try:
        version = importlib.metadata.version("spikingjelly")
        activation = "spikingjelly.activation_based"
        neuron = importlib.import_module(f"{activation}.neuron")
        surrogate = importlib.import_module(f"{activation}.surrogate")
        functional = importlib.import_module(f"{activation}.functional")
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise Missing(f"SpikingJelly is not installed ({error})") from error
    options: dict[str, Any] = {}
    if int(version.split(".")[0]) < 2:
        options["backend"] = "cupy" if kind == "cuda" else kind
    else:
        _choose_kernels(kind, device, functional)
    try:
        node = neuron.LIFNode(
            tau=2.0, decay_input=False, v_reset=0.0, step_mode="m",
            surrogate_function=surrogate.PiecewiseQuadratic(1.0), **options,
        )  # fmt: skip
    except (ImportError, ValueError, NotImplementedError) as error:
        raise Missing(f"SpikingJelly {version}: {error}") from error
    return node.to(device), functional.reset_net


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

    Spikes: the share that differs. Currents: the largest difference, relative. Networks in
    bfloat16 part ways with the first spike that rounding turns, so of them only the norm of the
    result is compared; that they compute the same is for the tests to say.
    """
    a, b = ours.detach().float(), theirs.detach().float()
    if case.group in (*FIRES, "pack_spikes"):
        return float((a != b).float().mean()), 2e-3
    if case.module is not None:
        return abs(float(a.norm() / b.norm()) - 1), 0.5
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)), 3e-2


def rates(case: Case, device: torch.device) -> Iterator[tuple[str, float]]:
    """The rate of every population of a network, by these ops."""
    module = _module(case, device)
    if module is None:
        return
    with so.record(module, keep_spikes=False) as seen:
        _step(case, device, module)()
    yield from seen.rates.items()
