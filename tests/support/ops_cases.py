"""What the tests of the ops share: layouts, an oracle of scalar loops, and a count of storages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stmixer_ops import surrogate as sg
from stmixer_ops.ops import _native
from stmixer_ops.ops._obstacles import OBSTACLES

KERNELS = [name for name in ("cpu", "triton") if OBSTACLES[name](torch.empty(0)) is None]
"""Backends besides the reference that run on tensors of the CPU here."""
BACKENDS = ["reference", *KERNELS]
ISAS = [] if _native.missing else list(_native.extension().cpu_isas())
"""Instruction sets of this machine."""
PLACES = [*ISAS, *(name for name in KERNELS if name != "cpu")]
"""Builds of the kernels that run here: axes of ``@pairwise`` for the fixture ``kernels``."""

SURROGATES = [
    sg.Dspike(2.5),
    sg.PiecewiseQuadratic(1.0),
    sg.Rect(1.5),
    sg.Sigmoid(4.0),
    sg.ATan(2.0),
]
OPTIONS = [(reset, detach) for reset in ("hard", "soft") for detach in (False, True)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# One rounding of a result in its own dtype, with room for a few more on the way.
TOLERANCE = {
    torch.float32: 3e-6,
    torch.float64: 1e-13,
    torch.bfloat16: 1.6e-2,
    torch.float16: 2e-3,
}

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2),
    "sliced": lambda x: torch.cat([x, x], dim=-1)[..., ::2].copy_(x),
    "misaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    "batch_first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest expected value (at least 1)."""
    actual, expected = actual.double(), expected.double()
    assert actual.shape == expected.shape
    assert torch.equal(actual.isnan(), expected.isnan())
    if expected.numel() == 0:
        return 0.0
    scale = max(1.0, expected.abs().nan_to_num().max().item())
    return (actual - expected).abs().nan_to_num().max().item() / scale


def check_results(actual, expected, tolerance: float, exact: int = 0) -> None:
    """The first ``exact`` tensors to the last bit, the others within ``tolerance``, all dtypes."""
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.dtype == b.dtype
        assert torch.equal(a, b) if i < exact else error(a, b) <= tolerance


def slope(surrogate: sg.Surrogate, u: float) -> float:
    """ds/du straight from the formulas."""
    if isinstance(surrogate, sg.Dspike):
        g = surrogate.gamma
        inside = g / (2 * math.tanh(g)) / math.cosh(g * u) ** 2
        return inside if abs(u) <= 1 else 0.0
    a = surrogate.scale
    if isinstance(surrogate, sg.PiecewiseQuadratic):
        return max(0.0, a - a * a * abs(u))
    if isinstance(surrogate, sg.Rect):
        return a if abs(u) < 1 / (2 * a) else 0.0
    if isinstance(surrogate, sg.Sigmoid):
        return a / (4 * math.cosh(a * u / 2) ** 2)
    assert isinstance(surrogate, sg.ATan)
    return a / (2 * (1 + (math.pi / 2 * a * u) ** 2))


def scalar_lif(
    x: list[float],
    gs: list[float],
    gv: float,
    v_init: float,
    *,
    threshold: float,
    decay: float,
    reset: str,
    detach_reset: bool,
    surrogate: sg.Surrogate,
) -> tuple[list[float], float, list[float], float]:
    """One neuron by hand: spikes, last membrane, gradient of x, gradient of v_init."""
    charged, spikes, v = [], [], v_init
    for current in x:
        h = decay * v + current
        s = 1.0 if h >= threshold else 0.0
        v = h * (1 - s) if reset == "hard" else h - threshold * s
        charged.append(h)
        spikes.append(s)
    gx = [0.0] * len(x)
    g = gv
    for t in reversed(range(len(x))):
        h, s = charged[t], spikes[t]
        through_spike = 0.0 if detach_reset else -(h if reset == "hard" else threshold)
        kept = 1 - s if reset == "hard" else 1.0
        gx[t] = slope(surrogate, h - threshold) * (gs[t] + through_spike * g) + kept * g
        g = decay * gx[t]
    return spikes, v, gx, g


@contextmanager
def count_saved() -> Iterator[Callable[[], dict[int, int]]]:
    """Collects what autograd saves: storage address to bytes, each storage once."""
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (tensor, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: {address: size for address, (_, size) in kept.items()}
