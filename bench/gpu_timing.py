"""Times on a GPU: by replay of a CUDA graph, with the L2 cache flushed before each call.

Without a GPU, to rehearse, the same functions take wall-clock times on the CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from stmixer_ops.measure.timing import Timing, summary

_FLUSHED = 256 << 20
"""Bytes written before a call: several times any L2."""


class Clock:
    """Times calls on ``device``.

    Args:
        seconds: of measuring per contestant, as far as the fewest calls let it.
    """

    def __init__(self, device: torch.device, seconds: float = 0.5) -> None:
        self.device = device
        self.seconds = seconds
        self.on_gpu = device.type == "cuda"
        size = _FLUSHED if self.on_gpu else 1
        self._filler = torch.empty(size, dtype=torch.uint8, device=device)

    def capture(self, step: Callable[[], object]) -> Callable[[], object]:
        """``step`` as a CUDA graph; raises what PyTorch raises where it cannot be captured."""
        if not self.on_gpu:
            return step
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def time(self, call: Callable[[], object], flush: bool = True) -> Timing:
        """Milliseconds per call."""
        for _ in range(2):
            call()
        self.synchronize()
        start = time.perf_counter()
        call()
        self.synchronize()
        once = time.perf_counter() - start
        count = min(200, max(5, round(self.seconds / max(once, 1e-5))))
        samples = (self._by_events if self.on_gpu else self._by_wall_clock)(call, count, flush)
        return summary([samples])

    def _by_events(self, call: Callable[[], object], count: int, flush: bool) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for start, end in pairs:
            if flush:
                self._filler.zero_()
            start.record()
            call()
            end.record()
        self.synchronize()
        return [start.elapsed_time(end) for start, end in pairs]

    def _by_wall_clock(self, call: Callable[[], object], count: int, flush: bool) -> list[float]:
        samples = []
        for _ in range(count):
            start = time.perf_counter()
            call()
            samples.append(1e3 * (time.perf_counter() - start))
        return samples

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """The most that PyTorch's allocator held during one call, all that lives included."""
        if not self.on_gpu:
            return None
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated()

    def copy_bandwidth(self) -> float:
        """Bytes per second of a large copy, read and written: what a kernel can hope for."""
        values = (1 << 29) if self.on_gpu else 1 << 20
        source = torch.zeros(values, dtype=torch.bfloat16, device=self.device)
        target: Tensor = torch.empty_like(source)
        timing = self.time(lambda: target.copy_(source), flush=False)
        return 2 * source.nbytes / (1e-3 * timing.median)
