"""What fired, how often, and how much work it caused: measured while a model runs."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..measure.energy import Costs, Row
from ..measure.table import energy, quantity
from .lif import LIF
from .origins import Origins, Shares, is_plain_tensor, name_of
from .products import PRODUCTS, Product, attention, is_unknown_product
from .wrappers import module_paths, unwrap


class record(Costs):
    """Context manager: spikes, rates, operations and energy of a model that holds LIFs.

    ::

        with so.record(model) as r:
            model(x)
        r.rates["blocks.0.token_mixer.lif1"]
        print(r.table())

    Every product that PyTorch dispatches is counted, whoever calls it: convolutions of any kind,
    linear layers, matrix products, attention, and the fused paths, which call no forward hooks.

    * An operand of integers that come from spikes (moved, selected, added, max-pooled; dropout in
      eval mode changes nothing) costs synaptic operations by value: each spike, times the outputs
      that it reaches.
    * Where both operands are spikes (``q @ k.T``) each pair that meets costs one operation,
      counted for the right operand.
    * Any other operand is real numbers and costs multiply-accumulates: also spikes that were
      averaged, normalised, or scaled by anything but a positive integer, and spikes of other
      neurons than the model's LIF modules.
    * Element-wise operations cost nothing, as is the field's convention. Operators of which nobody
      knows whether they multiply are listed in ``uncounted``.

    Only forward passes count, in training and in eval mode alike. Models wrapped by
    ``torch.compile`` run eagerly meanwhile. Paths are module paths inside ``model``; wrappers
    (``torch.compile``, data-parallel, ``AveragedModel``) are left out. Counters add up over all
    calls inside the context, whatever their T and batch size; ``spikes`` holds the last call's.
    Recorders may be nested.

    Args:
        model: a module.
        keep_spikes: keep ``spikes``; False saves the memory when only counters are wanted.

    Attributes:
        spikes: path -> uint8 ``[T, B, C, H, W]`` or ``[T, B, C, N]``, in order of execution.
        counts: path -> number of spikes.
        neuron_steps: path -> neurons times steps (and images) observed.
        sops: path -> synaptic operations: one per synapse that a spike passes, counted where the
            spike comes from. The fan-out is exact: borders and strides of convolutions, max-pooling
            in between. Paths are missing where no product reads the spikes, or where it is counted
            elsewhere (those of ``q k^T`` at k). Where spikes of several LIFs went through a
            max-pool or the like together, the path is ``"a + b"``.
        dense_macs: path -> multiply-accumulates per image and step of the same layers computed
            densely, zero padding included: the field's convention, in which SOPs are estimated as
            rate times T times this.
        macs: module path -> multiply-accumulates performed by layers that read real numbers. A
            static image is convolved once by this library's models, whatever T; their head reads
            the mean over T.
        uncounted: module path (or operator) -> what was not counted there, and why.
        images: number of images (batch times calls of the model).
    """

    def __init__(self, model: nn.Module, *, keep_spikes: bool = True) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.spikes: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.neuron_steps: dict[str, int] = {}
        self.macs: dict[str, int] = {}
        self.uncounted: dict[str, str] = {}
        self.images = 0
        self._model = unwrap(model)
        self._names = module_paths(self._model)
        if not any(isinstance(m, LIF) for m in self._names):
            raise ValueError(f"{type(self._model).__name__} holds no LIF to record")
        self._keep = keep_spikes
        self._sops: dict[str, int] = {}
        self._dense: dict[str, int] = {}
        self._image_steps: dict[str, int] = {}
        self._origins = Origins()
        self._stack: list[nn.Module] = []
        self._new_call = False
        self._paused = False
        self._thread = 0
        self._active: ExitStack | None = None

    @property
    def sops(self) -> dict[str, int]:
        return self._in_order(self._sops)

    @property
    def dense_macs(self) -> dict[str, int]:
        sources = {path: path.split(" + ")[0] for path in self._dense}
        return self._in_order(
            {p: macs // max(self._image_steps[sources[p]], 1) for p, macs in self._dense.items()}
        )

    @property
    def rates(self) -> dict[str, float]:
        """Path -> spikes per neuron and step, in [0, 1]."""
        return {path: n / max(self.neuron_steps[path], 1) for path, n in self.counts.items()}

    def _in_order(self, values: dict[str, int]) -> dict[str, int]:
        """LIFs in their order of execution, then what could not be told apart."""
        return {path: values[path] for path in [*self.counts, *values] if path in values}

    def layer_totals(self) -> Iterator[Row]:
        """Layers that read real numbers, then populations of neurons."""
        for path, macs in self.macs.items():
            yield Row(path, None, 0, macs, 0)
        sops = self.sops
        for path, spikes in self.counts.items():
            neurons = self.neuron_steps[path] // max(self._image_steps[path], 1)
            yield Row(path, self.rates[path], spikes, 0, sops.pop(path, 0), neurons)
        for path, operations in sops.items():
            yield Row(path, None, 0, 0, operations)

    def table(self) -> str:
        lines = [f"uncounted: {path}: {reason}" for path, reason in self.uncounted.items()]
        return "\n".join([super().table(), *lines])

    def __repr__(self) -> str:
        neuron_steps = sum(self.neuron_steps.values())
        text = (
            f"record({len(self.counts)} LIFs, {self.images} images: "
            f"rate {sum(self.counts.values()) / max(neuron_steps, 1):.3f}, "
            f"{quantity(sum(self.sops.values()))} SOPs, {quantity(sum(self.macs.values()))} MACs, "
            f"{energy(self.energy())} per image"
        )
        return text + (f", {len(self.uncounted)} uncounted)" if self.uncounted else ")")

    def __enter__(self) -> record:
        if self._active is not None:
            raise RuntimeError("this recorder is recording already; make another one to nest them")
        self._thread = threading.get_ident()
        with ExitStack() as stack:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            # torch.compile warns of global hooks: they see its wrappers, which _stack expects.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global")
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operators(self))
            before = module_hooks.register_module_forward_pre_hook(self._enter_module)
            stack.callback(before.remove)
            after = module_hooks.register_module_forward_hook(self._leave_module, always_call=True)
            stack.callback(after.remove)
            LIF.observers.append(self)
            stack.callback(LIF.observers.remove, self)
            self._active = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._active is not None
        self._active.__exit__(kind, error, trace)
        self._active = None
        self._stack.clear()
        self._origins = Origins()

    def report(self, lif: LIF, spikes: Tensor, bits: Tensor | None = None) -> None:
        """Called by the LIFs, with ``spikes [T, B, C, ...]`` and, where there are, their bits."""
        path = self._names.get(lif)
        if path is None or in_backward():
            return
        with self.paused(), torch.no_grad():
            fired = spikes.to(torch.uint8)
            steps, images = fired.shape[0], fired.shape[1] if fired.dim() > 1 else 1
            if path == next(iter(self.counts), path) and (
                self._new_call or self._model not in self._stack
            ):
                self.images += images
                self._new_call = False
            if self._keep:
                self.spikes[path] = fired.contiguous()
            self.counts[path] = self.counts.get(path, 0) + int(fired.sum())
            self.neuron_steps[path] = self.neuron_steps.get(path, 0) + fired.numel()
            self._image_steps[path] = self._image_steps.get(path, 0) + steps * images
            for x in (spikes, bits):
                if x is not None:
                    self._origins.mark(x, path)
        if threading.get_ident() != self._thread:
            self._leave_out(path, "its neurons ran in another thread than the recorder's")

    def count(self, products: Iterable[Product]) -> None:
        """Add the cost of ``products``, by what their operands are made of."""
        with torch.no_grad():
            for product in products:
                self._count(product)

    def _count(self, product: Product) -> None:
        left, right = product.left, product.right
        of_left, of_right = self._origins.of(left), self._origins.of(right)
        if of_left and of_right:
            if product.of_both is None:
                self._leave_out(self._path(), "spikes in the place of weights")
                return
            for population in of_right:
                share = self._origins.share(right, population)
                self._add(population, product.of_both(left, share), product.macs)
        elif of_left:
            self._count_spikes(left, of_left, product.of_left, product.macs)
        elif of_right and product.of_right is not None:
            self._count_spikes(right, of_right, product.of_right, product.macs)
        else:
            self._count_macs(product.macs)

    def see(self, name: str, args: tuple[Any, ...]) -> None:
        """Called for each operator that ran."""
        if name not in PRODUCTS:
            if is_unknown_product(name):
                self._leave_out_if_inside(f"{name}: not known how much it multiplies")
            return
        operands = [x for x in args if isinstance(x, Tensor)]
        if all(is_plain_tensor(x) for x in operands):
            self.count(PRODUCTS[name](*args))
        else:
            self._leave_out_if_inside(f"{name} of sparse tensors or tensor subclasses")

    def _leave_out_if_inside(self, reason: str) -> None:
        path = self._path()
        if path is not None or not self._stack:
            self._leave_out(path, reason)

    def _count_spikes(
        self, x: Tensor, shares: Shares, operations: Callable[[Tensor], int], macs: int
    ) -> None:
        for population in shares:
            self._add(population, operations(self._origins.share(x, population)), macs)

    def _add(self, population: str, sops: int, macs: int) -> None:
        self._sops[population] = self._sops.get(population, 0) + sops
        self._dense[population] = self._dense.get(population, 0) + macs

    def _count_macs(self, macs: int) -> None:
        path = self._path()
        if path is not None:
            self.macs[path] = self.macs.get(path, 0) + macs
        elif not self._stack:
            self._leave_out(None, "a product of real numbers outside the model's modules")

    def _leave_out(self, path: str | None, reason: str) -> None:
        place = path or "(model)"
        known = self.uncounted.get(place, "")
        if reason not in known:
            self.uncounted[place] = f"{known}; {reason}" if known else reason

    def _path(self) -> str | None:
        """The innermost of the model's modules that is running."""
        return next((self._names[m] for m in reversed(self._stack) if m in self._names), None)

    def _enter_module(self, module: nn.Module, _: Any) -> None:
        module = unwrap(module)
        self._new_call = self._new_call or module is self._model
        self._stack.append(module)

    def _leave_module(self, module: nn.Module, *_: Any) -> None:
        module = unwrap(module)
        while self._stack and self._stack.pop() is not module:
            pass  # modules that an exception left

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile operators run unseen."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


class _Operators(TorchDispatchMode):
    """Shows a recorder every operator that is dispatched."""

    supports_higher_order_operators = True

    def __init__(self, recorder: record) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        recorder, kwargs = self._recorder, kwargs or {}
        if recorder._paused or in_backward() or getattr(func, "namespace", "") == "prim":
            return func(*args, **kwargs)
        if isinstance(func, HigherOrderOperator):
            recorder._leave_out_if_inside(f"{func.name()}: it hides what it computes")
            return func(*args, **kwargs)
        name = name_of(func)
        if name not in PRODUCTS:
            with self:  # in inference mode even F.linear comes in one piece
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = recorder._origins.follow(func, args, kwargs)
        recorder.see(name, args)
        return out


class _Functions(TorchFunctionMode):
    """Shows a recorder attention as it is called: some of its kernels scale q and k first."""

    def __init__(self, recorder: record) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self._recorder._paused or in_backward():
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        with torch.no_grad():
            q, k, v = (given[name] for name in ("query", "key", "value"))
            if given.get("enable_gqa"):
                k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
            lead = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
            q, k, v = (x.expand(*lead, *x.shape[-2:]) for x in (q, k, v))
            self._recorder.count(attention(q, k, v))
        with self._recorder.paused():
            return func(*args, **kwargs)


def counted_as(products: Callable[[], Iterable[Product]]) -> AbstractContextManager[None]:
    """What runs inside is counted as ``products()``, in whatever way it is computed."""
    return _counted_as(products) if LIF.observers and not in_backward() else nullcontext()


@contextmanager
def _counted_as(products: Callable[[], Iterable[Product]]) -> Iterator[None]:
    with ExitStack() as stack:
        for recorder in LIF.observers:
            stack.enter_context(recorder.paused())
        for recorder in LIF.observers:
            recorder.count(products())
        yield


def in_backward() -> bool:
    """Whether autograd is running: gradients, or what a checkpoint computes again."""
    return torch._C._current_graph_task_id() != -1
