"""Pairs of values instead of full products of them.

Most faults show with two values together (this layout in that dtype), not with three. A test
marked ``@pairwise(layout=LAYOUTS, dtype=DTYPES, steps=[1, 4])`` runs on rows in which every pair of
values of two axes occurs at least once; with ``--full`` it runs on the whole product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

Row = tuple[Any, ...]
Allowed = Callable[..., bool]


def pairwise(*, allowed: Allowed | None = None, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrizes a test over ``axes``; an axis may be a fixture with parameters of its own.

    ``allowed`` takes the axes by name and says which rows make sense.
    """
    values = {name: list(axis) for name, axis in axes.items()}
    return pytest.mark.pairwise(values, allowed)


def in_full(*rows: Row) -> list[Any]:
    """Rows of ``parametrize`` that run with ``--full`` only."""
    return [pytest.param(*row, marks=pytest.mark.full) for row in rows]


def product(axes: dict[str, list[Any]], allowed: Allowed | None = None) -> list[Row]:
    """Every row that is allowed."""
    rows = itertools.product(*axes.values())
    return [r for r in rows if allowed is None or allowed(**dict(zip(axes, r, strict=True)))]


def covering(rows: Sequence[Row]) -> list[Row]:
    """Some of ``rows``, in which every pair of values occurs that occurs in ``rows``.

    Greedy: next comes the row with the most pairs that are still missing, the first of equals.
    """
    index: list[dict[int, int]] = [{} for _ in rows[0]] if rows else []
    for row in rows:  # values need not be hashable
        for seen, value in zip(index, row, strict=True):
            seen.setdefault(id(value), len(seen))
    pairs = [
        frozenset(
            itertools.combinations(
                [(axis, index[axis][id(value)]) for axis, value in enumerate(row)], min(2, len(row))
            )
        )
        for row in rows
    ]
    missing = set().union(*pairs)
    chosen = []
    while missing:
        best = max(range(len(rows)), key=lambda i: (len(pairs[i] & missing), -i))
        chosen.append(best)
        missing -= pairs[best]
    return [rows[i] for i in sorted(chosen)]


def label(value: Any) -> str:
    """How a value shows in the name of a test."""
    if isinstance(value, tuple):
        return "x".join(map(label, value))
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return str(named or value).removeprefix("torch.")
