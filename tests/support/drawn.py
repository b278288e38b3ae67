"""Cases that Hypothesis draws; apart from the others, since tests on a GPU do without it."""

from __future__ import annotations

import torch
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
