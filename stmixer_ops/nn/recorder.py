"""What fired, how often, and how much work it caused: measured while a model runs."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.energy import picojoules
from .lif import LIF
from .synapse import Synapse


class record:
    """Context manager: spikes, rates and synaptic operations of every LIF in ``model``.

    ::

        with so.record(model) as r:
            model(x)
        r.rates["blocks.0.token_mixer.lif1"]

    Works through the fused paths, which call no forward hooks, and on models wrapped by
    ``torch.compile`` (run eagerly meanwhile) or DDP. Paths are module paths inside ``model``,
    wrappers left out. Counters add up over all calls inside the context; ``spikes`` holds the
    last call's.

    Args:
        model: a module.
        keep_spikes: keep ``spikes``; False saves the memory when only counters are wanted.

    Attributes:
        spikes: path -> uint8 ``[T, B, C, H, W]`` or ``[T, B, C, N]``, in order of execution.
        counts: path -> number of spikes.
        neuron_steps: path -> neurons times steps (and images) observed.
        sops: path -> synaptic operations: one per synapse that a spike passes. The fan-out is
            exact: borders and strides of convolutions, max-pooling in between, and for products
            of spikes the additions that really occur. Paths are missing where nothing known reads
            the spikes (neurons outside this library's modules), or it is counted elsewhere
            (those of ``q k^T`` at k).
        dense_macs: path -> multiply-accumulates per image and step of the same layers computed
            densely, zero padding included: the field's convention, in which SOPs are estimated as
            rate times T times this.
        macs: module path -> multiply-accumulates performed by layers that read real numbers. A
            static image is convolved once, whatever T; the head reads the mean over T.
        images: number of images (batch times calls).
    """

    def __init__(self, model: nn.Module, *, keep_spikes: bool = True) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        model = unwrap(model)
        self.spikes: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.neuron_steps: dict[str, int] = {}
        self.sops: dict[str, int] = {}
        self.dense_macs: dict[str, int] = {}
        self.macs: dict[str, int] = {}
        self.images = 0
        self._keep = keep_spikes
        self._names = {m: name for name, m in model.named_modules() if isinstance(m, LIF)}
        if not self._names:
            raise ValueError(f"{type(model).__name__} holds no LIF to record")
        self._outgoing: dict[LIF, list[Synapse]] = {}
        self._needed: set[LIF] = set()
        self._real_valued: dict[nn.Module, str] = {}
        self._wire(model)
        self._latest: dict[LIF, Tensor] = {}
        self._hooks: list[Any] = []
        self._eager: Any = None

    def _wire(self, model: nn.Module) -> None:
        names = {m: name for name, m in model.named_modules()}
        for module in names:
            for synapse in getattr(module, "synapses", tuple)():
                self._outgoing.setdefault(synapse.source, []).append(synapse)
                self._needed.update(synapse.others)
            for layer in getattr(module, "real_valued", tuple)():
                self._real_valued[layer] = names[layer]

    @property
    def rates(self) -> dict[str, float]:
        """Path -> spikes per neuron and step, in [0, 1]."""
        return {path: self.counts[path] / self.neuron_steps[path] for path in self.counts}

    def energy(self) -> float:
        """Picojoules per image by the field's convention: 4.6 per MAC, 0.9 per SOP."""
        if self.images == 0:
            return 0.0
        macs, sops = sum(self.macs.values()), sum(self.sops.values())
        return picojoules(macs, sops) / self.images

    def __enter__(self) -> record:
        self._eager = torch.compiler.set_stance("force_eager")
        self._eager.__enter__()
        for layer in self._real_valued:
            self._hooks.append(layer.register_forward_hook(self._count_macs))
        LIF.observers.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        LIF.observers.remove(self)
        while self._hooks:
            self._hooks.pop().remove()
        self._eager.__exit__(kind, error, trace)
        self._latest.clear()

    def report(self, lif: LIF, spikes: Tensor) -> None:
        """Called by the LIFs, with ``spikes [T, B, C, ...]``."""
        path = self._names.get(lif)
        if path is None:
            return
        fired = spikes.detach().to(torch.uint8)
        if path == next(iter(self.counts), path):
            self.images += fired.shape[1] if fired.dim() > 1 else 1
        if self._keep:
            self.spikes[path] = fired.contiguous()
        if lif in self._needed:
            self._latest[lif] = fired
        self.counts[path] = self.counts.get(path, 0) + int(fired.sum())
        self.neuron_steps[path] = self.neuron_steps.get(path, 0) + fired.numel()
        outgoing = self._outgoing.get(lif)
        if not outgoing:
            return
        self.dense_macs[path] = sum(s.target.dense_macs(fired[:1, :1].shape) for s in outgoing)
        self.sops[path] = self.sops.get(path, 0) + sum(
            s.target.operations(fired, *(self._latest[other] for other in s.others))
            for s in outgoing
        )

    def _count_macs(self, layer: nn.Module, _: Any, output: Tensor) -> None:
        # Each output is a product with one row of the weight; repeated steps are one.
        if output.dim() > 2 and output.stride(0) == 0:
            output = output[0]
        path = self._real_valued[layer]
        weight: Any = layer.weight
        self.macs[path] = self.macs.get(path, 0) + output.numel() * weight[0].numel()


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s and data-parallel wrappers."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            model = compiled
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model
