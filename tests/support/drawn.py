"""Cases that Hypothesis draws; apart from the others, since tests on a GPU do without it."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from support.ops_calls import BNCase


def drawn_case(data, kind=BNCase):
    """Any shape, channel dimension and order of the dimensions in memory."""
    shape = data.draw(st.lists(st.integers(1, 6), min_size=3, max_size=5))
    channel_dim = data.draw(st.integers(1, len(shape) - 1))
    shape[0] = data.draw(st.integers(2, 4))
    case = kind(
        shape,
        torch.float64,
        "contiguous",
        channel_dim,
        residual=data.draw(st.booleans()),
        affine=data.draw(st.booleans()),
    )
    order = data.draw(st.permutations(range(len(shape))))
    back = [order.index(i) for i in range(len(order))]
    case.x = case.x.permute(order).contiguous().permute(back)
    return case


def drawn_sizes(
    draw: Any, *, kernels: int, channels: int, per_head: int, steps: int
) -> dict[str, Any]:
    """Sizes of a ``patch_graph``, each up to the one given."""
    height, width = draw(st.integers(2, 12)), draw(st.integers(2, 20))
    kernel, stride = draw(st.integers(1, kernels)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, kernel - 1))
    outputs = [(n + 2 * padding - kernel) // stride + 1 for n in (height, width)]
    assume(all(1 <= o <= n for o, n in zip(outputs, (height, width), strict=True)))
    heads = draw(st.integers(1, 5))
    return {
        "image": (draw(st.integers(1, 4)), height, width),
        "channels": (draw(st.integers(1, channels)), heads * draw(st.integers(6, per_head))),
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "heads": heads,
        "steps": draw(st.integers(1, steps)),
        "classes": draw(st.integers(1, 20)),
        "seed": draw(st.integers(0, 100)),
    }
