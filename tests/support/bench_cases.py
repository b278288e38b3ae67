"""A case, a pace and layers that take no time, for tests of the benchmark."""

from __future__ import annotations

from stmixer_ops.bench.cases import Case
from stmixer_ops.bench.layers import Layer
from stmixer_ops.measure.timing import Pace

CASE = Case("small", ("engine", "eager"), model="stmixer_1_16_2", img_size=8, checked=4)
PACE = Pace(turns=2, seconds=0.001, calls=(2, 2))
LAYERS = (
    Layer("conv", (8, 6, 6), "conv", (16, 8, 3, 3), stride=2),
    Layer("linear", (8, 1, 5), "linear", (24, 8)),
    Layer("mix", (8, 1, 5), "token_mix", (2, 5, 5)),
)
