"""Makes Triton's interpreter treat bfloat16 as a GPU does.

It truncates where a GPU rounds to nearest even, and a product takes the bit patterns for numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def fix_bfloat16() -> None:
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    convert, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def cast_impl(self: Any, source: Any, dtype: Any) -> Any:
        if (source.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return convert(self, source, dtype)
        values = np.ascontiguousarray(source.data, dtype=np.float32)
        bits = values.view(np.uint32)
        rounded = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
        rounded = np.where(np.isnan(values), bits >> 16 | 0x40, rounded)
        return TensorHandle(rounded.astype(np.uint16), dtype.scalar)

    def create_dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        a, b = (
            convert(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)
        )
        return dot(self, a, b, *others)

    InterpreterBuilder.cast_impl = cast_impl
    InterpreterBuilder.create_dot = create_dot
