"""FLOPs of the operators for ``torch.utils.flop_counter``: those of the dense products they are.

Importing the counter takes long, so the formulas are registered when somebody else imports it.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from math import prod
from types import ModuleType
from typing import Any

import torch

_COUNTER = "torch.utils.flop_counter"
_Shape = torch.Size


def _token_mix(s: _Shape, weight: _Shape, *_: Any, **__: Any) -> int:
    return 2 * prod(s) * weight[-1]


def _token_mix_bits(
    s: _Shape, weight: _Shape, v_init: Any, channels: int, *_: Any, **__: Any
) -> int:
    steps, batch, _words, tokens = s
    return 2 * steps * batch * channels * tokens * tokens


def _conv_lif(
    s: _Shape,
    weight: _Shape,
    bias: Any,
    residual: Any,
    v_init: Any,
    stride: int,
    padding: int,
    *_: Any,
    **__: Any,
) -> int:
    outputs = ((n + 2 * padding - weight[2]) // stride + 1 for n in s[3:])
    return 2 * s[0] * s[1] * prod(outputs) * prod(weight)


def _weight_gradient(
    g: _Shape, bits: _Shape, channels: int, kernel: int, *_: Any, **__: Any
) -> int:
    return 2 * prod(g) * channels * kernel * kernel


def _none(*_: Any, **__: Any) -> int:
    return 0


# Neurons and packing are element-wise, which the counter leaves out everywhere. The backward of
# token_mix_lif computes currents again, which are no FLOPs of the model; its two products for the
# gradients are PyTorch's own.
FORMULAS: dict[str, Callable[..., int]] = {
    "token_mix": _token_mix,
    "token_mix_lif": _token_mix,
    "token_mix_lif_bits": _token_mix_bits,
    "conv_lif": _conv_lif,
    "spike_weight_gradient": _weight_gradient,
    **dict.fromkeys(["lif_forward", "lif_backward", "bn_lif_forward", "bn_lif_backward"], _none),
    **dict.fromkeys(["pack_rows", "unpack_rows", "token_mix_lif_backward"], _none),
}


def register_when_counted() -> None:
    """Register the formulas now if the counter is loaded, else as soon as it is."""
    if _COUNTER in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _OnImport())


def _register() -> None:
    from torch.utils.flop_counter import register_flop_formula

    for name, formula in FORMULAS.items():
        register_flop_formula(getattr(torch.ops.stmixer, name))(formula)


class _OnImport(importlib.abc.MetaPathFinder):
    _asking = False

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != _COUNTER or self._asking:
            return None
        self._asking = True  # the other finders
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()
                sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
