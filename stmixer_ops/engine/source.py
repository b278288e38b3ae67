"""Dense input as the extension reads it: where it lies, and how far one image is from the next."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


class Source:
    """An input, checked, and what C++ needs to read it where it lies."""

    def __init__(self, x: Any, shape: tuple[int, int, int], steps: int, batch_first: bool) -> None:
        """``shape`` of an image; ``steps`` for which images that are no sequence are shown."""
        torch = sys.modules.get("torch")
        self._torch = torch if torch is not None and isinstance(x, torch.Tensor) else None
        if self._torch is not None:
            if x.device.type != "cpu":
                raise ValueError(f"x must be on the CPU, where the engine runs, got {x.device}")
            x = x.detach()
            strides = x.stride()
        elif isinstance(x, np.ndarray):
            strides = None
        else:
            raise TypeError(f"x must be a NumPy array or a torch tensor, got {type(x).__name__}")
        float32 = np.float32 if self._torch is None else self._torch.float32
        if x.dtype != float32:
            raise TypeError(f"x must be float32, got {x.dtype}")
        _check_shape(tuple(x.shape), shape, batch_first)
        if strides is None:
            if not x.flags.aligned or any(s % 4 for s in x.strides):
                x = np.array(x, dtype=np.float32, order="C")
            strides = tuple(s // 4 for s in x.strides)
        if not _inner_contiguous(x.shape[-3:], strides[-3:]):
            x = np.ascontiguousarray(x) if self._torch is None else x.contiguous()
            strides = x.stride() if self._torch is not None else tuple(s // 4 for s in x.strides)
        self.sequence = x.ndim == 5
        time, image = (1, 0) if batch_first else (0, 1)
        if self.sequence:
            self.steps, self.batch = x.shape[time], x.shape[image]
            step_stride, image_stride = strides[time], strides[image]
        else:
            self.steps, self.batch = steps, x.shape[0]
            step_stride, image_stride = 0, strides[0]
        self._keep_alive = x
        self.arguments = (
            address(x), self.steps, self.batch, self.sequence, step_stride, image_stride,
        )  # fmt: skip

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Uninitialised, of the kind of the input."""
        if self._torch is not None:
            return self._torch.empty(shape, dtype=getattr(self._torch, dtype), device="cpu")
        return np.empty(shape, dtype)


def _check_shape(shape: tuple[int, ...], expected: tuple[int, int, int], batch_first: bool) -> None:
    time = 1 if batch_first else 0
    fits = len(shape) == 4 or (len(shape) == 5 and shape[time] > 0)
    if fits and shape[-3:] == expected:
        return
    sizes = ", ".join(map(str, expected))
    lead = "B, T" if batch_first else "T, B"
    raise ValueError(
        f"x must be images [B, {sizes}] or sequences [{lead}, {sizes}] with T >= 1, "
        f"got shape {list(shape)}"
    )


def _inner_contiguous(shape: Any, strides: Any) -> bool:
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def address(x: Any) -> int:
    return x.ctypes.data if isinstance(x, np.ndarray) else x.data_ptr()
