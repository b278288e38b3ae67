"""A recording that is still going on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._extension import extension
from .._numbers import integer
from .columns import columns_of
from .result import RunStats, counts_of, make_stats

if TYPE_CHECKING:
    from .simulator import EventSimulator


class EventStream:
    """Events pushed in pieces, and the answer at any moment; of :meth:`EventSimulator.stream`.

    Pushing in pieces equals pushing at once, bit for bit. With ``schedule="rank"`` the last
    timestamp (``"grid"``: the last tick) stays open until something later comes, and the results
    are those it would have if it were closed now.
    """

    def __init__(self, simulator: EventSimulator, t0: int) -> None:
        self._simulator = simulator
        self._native = extension().EventStream(simulator._native, t0, False)

    def push(self, events: Any) -> None:
        """Feed the next events, as :func:`~stmixer_ops.events.read` gives them.

        Raises:
            ValueError: events that are unsorted, lie outside the input or before :attr:`time`,
                naming the first one, or a stream that is finished. None of them is pushed then.
        """
        columns, keep_alive = columns_of(events, "events", self._simulator.input_shape)
        self._native.push(columns)
        del keep_alive

    def advance(self, t: int) -> None:
        """Move time through silence: leaks, ticks and ends of refractory times before ``t``."""
        self._native.advance(integer("t", t, least=-(2**62), most=2**62))

    def finish(self) -> None:
        """End the recording; only :meth:`reset` takes events again."""
        self._native.finish()

    def reset(self) -> None:
        """Start another recording, at the same t0."""
        self._native.reset()

    def logits(self) -> np.ndarray:
        """float32 ``[classes]``."""
        return np.array(self._native.logits(), np.float32)

    def counts(self) -> dict[str, np.ndarray]:
        """Spikes so far: module path -> int64 ``[C, H, W]`` or ``[C, N]``."""
        return counts_of(self._native.outcome(), self._simulator._shapes[1:])

    def stats(self) -> RunStats:
        """Spikes, SOPs and visits so far."""
        return make_stats(
            self._simulator.input_name, self._simulator._shapes, [self._native.outcome()]
        )

    @property
    def time(self) -> int:
        """Up to when the recording has come, µs."""
        return self._native.time

    @property
    def stopped(self) -> bool:
        """Whether ``max_sops`` has ended the recording early."""
        return self._native.outcome()["stopped"]

    def __repr__(self) -> str:
        state = "finished" if self._native.finished else "open"
        return f"EventStream(time={self.time}, {state})"
