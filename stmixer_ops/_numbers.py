"""Numbers as people have them: NumPy's integers are integers, booleans are not."""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np


def plain_number(value: object) -> object:
    """NumPy's numbers as Python's, for :func:`json.dumps` (its ``default``)."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot be stored: expected text, numbers, lists and mappings, got {value!r}")


def integer(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """``value`` as an ``int``, whoever's integer it is (Python's, NumPy's, a tensor's element).

    Args:
        name: the argument that an error names.
        least, most: the bounds, included.
    Raises:
        ValueError: a boolean, no integer, or out of bounds.
    """
    boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    try:
        number = None if boolean else operator.index(value)
    except TypeError:
        number = None
    if number is not None and least <= number and (most is None or number <= most):
        return number
    if most is not None:
        expected = f"an integer from {least} to {most}"
    else:
        expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    raise ValueError(f"{name} must be {expected}, got {value!r}")


def real_number(name: str, value: Any) -> float:
    """``value`` as a Python number; NumPy scalars and tensors of no dimension count as one.

    Raises:
        TypeError: anything else, by ``name``, above all what would have to be learnt.
    """
    if type(value) in (float, int):
        return value
    torch: Any = sys.modules["torch"]
    if isinstance(value, torch.Tensor):
        got = type(value).__name__
        if isinstance(value, torch.nn.Parameter) or value.requires_grad:
            raise TypeError(
                f"{name} must be a number, got a {got} to be learnt: a learnt {name} is not "
                "supported yet"
            )
        if value.dim():
            raise TypeError(
                f"{name} must be a number, got a {got} of shape {tuple(value.shape)}: one {name} "
                "for each channel is not supported yet"
            )
    elif isinstance(value, (str, bytes, bool)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    elif getattr(value, "ndim", 0):
        raise TypeError(f"{name} must be a number, got an array of shape {tuple(value.shape)}")
    return float(value)
