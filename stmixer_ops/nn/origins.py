"""Which tensors hold spikes, or integers summed from spikes, and whose spikes they are.

:class:`Origins` sees every operator that PyTorch dispatches. What moves, selects or adds spikes
gives integers that come from spikes again. Anything else (a mean, a normalisation, a product with
weights) gives real numbers, about which nothing is kept.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves, tree_map_only

Arguments = tuple[Any, ...]
Shares = dict[str, Tensor | None]
"""Population -> what its spikes add to the numbers of a storage (flat), None for all of them."""


class Rule(NamedTuple):
    """An operator whose result is 0 where its operands are, and integer where they are.

    Attributes:
        operands: places of the arguments whose numbers make up the result; the others say where
            and how many.
        is_sum: the operator of the shares of the operands gives the shares of the result.
    """

    operands: tuple[int, ...]
    is_sum: bool


def _all(names: str, operands: tuple[int, ...], is_sum: bool) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Rule(operands, is_sum))


_RULES = {
    **_all(
        "_to_copy _unsafe_index _unsafe_view abs avg_pool2d avg_pool3d cat channel_shuffle clone"
        " cumsum diag_embed expand_copy flip gather im2col index index_select lift_fresh_copy"
        " masked_select mul native_channel_shuffle permute_copy pixel_shuffle pixel_unshuffle"
        " reflection_pad1d reflection_pad2d reflection_pad3d relu repeat repeat_interleave"
        " replication_pad1d replication_pad2d replication_pad3d roll select_copy slice_copy"
        " split_copy split_with_sizes_copy stack sum take tril triu unbind_copy unfold_copy"
        " unsafe_split unsafe_split_with_sizes upsample_nearest1d upsample_nearest2d"
        " upsample_nearest3d view_copy zero",
        (0,),
        True,
    ),
    **_all("add copy fill select_scatter slice_scatter", (0, 1), True),
    **_all("constant_pad_nd index_put masked_fill", (0, 2), True),
    **_all("index_add index_copy scatter scatter_add", (0, 3), True),
    **_all("where", (1, 2), True),
    **_all(
        "__lshift__ __rshift__ adaptive_max_pool2d adaptive_max_pool3d amax any"
        " bitwise_left_shift bitwise_right_shift clamp clamp_max clamp_min cummax gt max"
        " max_pool2d_with_indices max_pool3d_with_indices ne sign sort stmixer::pack_rows"
        " stmixer::unpack_rows topk",
        (0,),
        False,
    ),
    **_all(
        "bitwise_and bitwise_or bitwise_xor logical_and logical_or logical_xor maximum minimum",
        (0, 1),
        False,
    ),
}
_OVERWRITES = {"copy", "fill", "zero"}
_FRESH = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_zeros", "zeros", "zeros_like",
}  # fmt: skip


@cache
def name_of(func: Any) -> str:
    """``add`` of ``aten::add_.Tensor``, ``stmixer::token_mix`` of this library's."""
    name: str = func._schema.name.removeprefix("aten::")
    return name[:-1] if writes_first(func) else name


@cache
def writes_first(func: Any) -> bool:
    """Whether ``func`` works in place on its first argument and on nothing else."""
    schema = func._schema
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info and a.alias_info.is_write]
    return written == [0] and schema.name.endswith("_")


class Origins:
    """Storages that hold integers from spikes. Views share their storage, so they need no rule."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[StorageWeakRef, torch.dtype, Shares]] = {}
        self._limit = 64

    def of(self, x: Tensor) -> Shares | None:
        """Whose spikes ``x`` is made of; None for real numbers, {} for zeros."""
        shares = self._noted(x)
        # What was allocated empty may have been filled where nobody could see it.
        return None if shares is None or (not shares and bool(x.any())) else shares

    def share(self, x: Tensor, population: str) -> Tensor:
        """The part of ``x`` that the spikes of ``population`` make up."""
        shares = self._noted(x) or {}
        if population not in shares:
            return torch.zeros_like(x)
        flat = shares[population]
        return x if flat is None else _place(flat, x)

    def mark(self, x: Tensor, *populations: str) -> None:
        """The storage of ``x`` holds nothing but spikes of these (of several: not told apart)."""
        self._note(x, {" + ".join(populations): None} if populations else {})

    def _noted(self, x: Tensor) -> Shares | None:
        known = self._known.get(x.untyped_storage()._cdata) if is_plain_tensor(x) else None
        return None if known is None or known[1] != x.dtype else known[2]

    def _note(self, x: Tensor, shares: Shares) -> None:
        if not is_plain_tensor(x):
            return
        storage = x.untyped_storage()
        self._known[storage._cdata] = StorageWeakRef(storage), x.dtype, shares
        if len(self._known) > self._limit:
            self._known = {k: v for k, v in self._known.items() if not v[0].expired()}
            self._limit = 2 * len(self._known) + 64

    def _forget(self, x: Tensor) -> None:
        if is_plain_tensor(x):
            self._known.pop(x.untyped_storage()._cdata, None)

    def follow(self, func: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        """Call ``func`` and note what its results are made of."""
        if func._schema.is_mutable:
            return self._follow_write(func, args, kwargs)
        name = name_of(func)
        rule, populations = self._rule(name, args, kwargs)
        out = func(*args, **kwargs)
        if name in _FRESH:
            self._note(out, {})
        if rule is None:
            return out
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if not rule.is_sum:  # indices, if they come too, are no spikes
            results = results[:1]
        if len(populations) < 2 or not rule.is_sum:
            for x in results:
                if self._noted(x) is None:  # else it is a view
                    self.mark(x, *populations)
        elif any(self._noted(x) is None for x in results):
            shares: list[Shares] = [{} for _ in results]
            for population in populations:
                parts = tree_leaves(func(*self._shares_of(rule, args, population), **kwargs))
                for x, part, found in zip(results, parts, shares, strict=True):
                    found[population] = flat = _flat_zeros(x)
                    _place(flat, x).copy_(part)
            for x, found in zip(results, shares, strict=True):
                self._note(x, found)
        return out

    def _follow_write(self, func: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        rule: Rule | None = None
        populations: list[str] = []
        name = name_of(func)
        if writes_first(func) and is_plain_tensor(args[0]):
            if name in _OVERWRITES and _fills_storage(args[0]):
                self._note(args[0], {})  # what was there is gone
            rule, populations = self._rule(name, args, kwargs)
        if rule is None:
            for argument, x in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info and argument.alias_info.is_write:
                    for y in tree_leaves(x):
                        self._forget(y)
            for y in tree_leaves(kwargs):
                self._forget(y)
            return func(*args, **kwargs)
        target = args[0]
        if len(populations) < 2 or not rule.is_sum:
            self.mark(target, *populations)
            return func(*args, **kwargs)
        shares: Shares = {}
        for population in populations:
            shares[population] = flat = self._flat_share(target, population)
            others = self._shares_of(rule, args, population)[1:]
            func(_place(flat, target), *others, **kwargs)
        self._note(target, shares)
        return func(*args, **kwargs)

    def _rule(
        self, name: str, args: Arguments, kwargs: dict[str, Any]
    ) -> tuple[Rule | None, list[str]]:
        """The rule by which the result is integers from spikes, if it is, and whose."""
        rule = _RULES.get(name)
        if rule is None or not self._known:
            return None, []
        if name == "mul" and isinstance(args[1], Tensor):
            if args[1].dtype != torch.bool or self._noted(args[1]) is not None:
                rule = Rule((0, 1), False)  # else a mask, which selects
        elif name == "bitwise_and" and not isinstance(args[1], Tensor):
            rule = Rule((0,), False)
        elif not _keeps_integers(name, args, kwargs):
            return None, []
        populations: dict[str, None] = {}
        for place in rule.operands:
            for x in tree_leaves(args[place : place + 1]):
                if isinstance(x, Tensor):
                    written = place == 0 and name in _OVERWRITES
                    shares = self._noted(x) if written else self.of(x)
                    if shares is None and not _is_zero(x):
                        return None, []
                    populations.update(dict.fromkeys(shares or ()))
                elif isinstance(x, (bool, int, float)) and x != 0:
                    return None, []
        return rule, list(populations)

    def _shares_of(self, rule: Rule, args: Arguments, population: str) -> Arguments:
        def share(x: Tensor) -> Tensor:
            return x if _is_zero(x) else self.share(x, population)

        return tuple(
            tree_map_only(Tensor, share, x) if place in rule.operands else x
            for place, x in enumerate(args)
        )

    def _flat_share(self, x: Tensor, population: str) -> Tensor:
        """The share of ``population`` in all of the storage of ``x``, to be written to."""
        shares = self._noted(x) or {}
        if population not in shares:
            return _flat_zeros(x)
        flat = shares[population]
        return _whole(x).clone() if flat is None else flat


def is_plain_tensor(x: Any) -> bool:
    """Whether ``x`` has a storage to go by."""
    return (
        isinstance(x, Tensor)
        and x.layout == torch.strided
        and not torch.utils._python_dispatch.is_traceable_wrapper_subclass(x)
    )


def _keeps_integers(name: str, args: Arguments, kwargs: dict[str, Any]) -> bool:
    """Whether the numbers among the arguments keep integers integers, and zeros zeros."""

    def argument(place: int, keyword: str) -> Any:
        return args[place] if len(args) > place else kwargs.get(keyword)

    if name == "mul":
        return _is_count(args[1])
    if name in ("add", "index_add"):
        return _is_count(kwargs.get("alpha", 1))
    if name in ("avg_pool2d", "avg_pool3d"):
        return argument(6, "divisor_override") == 1
    if name in ("clamp", "clamp_min", "clamp_max"):
        least = None if name == "clamp_max" else argument(1, "min")
        most = None
        if name != "clamp_min":
            most = argument(1, "max") if name == "clamp_max" else argument(2, "max")
        return (least is None or (_is_number(least) and least <= 0)) and (
            most is None or most == 0 or _is_count(most)
        )
    if name in ("gt", "ne"):
        return not isinstance(args[1], Tensor) and args[1] == 0
    if name == "scatter":
        return "reduce" not in kwargs
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


def _is_count(number: Any) -> bool:
    return _is_number(number) and 0 < number < math.inf and number == int(number)


def _is_zero(x: Tensor) -> bool:
    """Whether ``x`` is a constant that adds nothing."""
    return x.numel() == 0 or (x.dim() == 0 and x.device.type == "cpu" and not bool(x))


def _fills_storage(x: Tensor) -> bool:
    return x.numel() * x.element_size() == x.untyped_storage().nbytes()


def _whole(x: Tensor) -> Tensor:
    """All of the storage of ``x``, flat."""
    return x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)


def _flat_zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(_whole(x))


def _place(flat: Tensor, x: Tensor) -> Tensor:
    """Of a copy of the storage of ``x``, the part that ``x`` is of its own."""
    return flat.as_strided(x.size(), x.stride(), x.storage_offset())
