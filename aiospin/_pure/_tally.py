"""The counters behind ``statistics()``: those of csrc/core/tally.h and two gauges."""

from __future__ import annotations

import os
import threading
from typing import Final, Literal, get_args

Counter = Literal[
    "waits",
    "ready",
    "spun",
    "parked",
    "parks",
    "spurious",
    "predicted",
    "timed_out",
    "cancelled",
    "notifies",
    "elided",
    "spin_ns",
    "live_tickets",
    "pinned_buffers",
]


class _Tally:
    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(get_args(Counter), 0)
        self.renew_lock()

    def renew_lock(self) -> None:
        """Also in a forked child: another thread of the parent may have held the old one."""
        # Re-entrant, because a signal handler may wait too while this thread is counting.
        self.lock = threading.RLock()


_tally: Final = _Tally()


def count(counter: Counter, n: int = 1) -> None:
    with _tally.lock:
        _tally.counts[counter] += n


def statistics() -> dict[str, int]:
    """The counters of csrc/core/tally.h, and live_tickets and pinned_buffers as of now."""
    with _tally.lock:
        return dict(_tally.counts)


os.register_at_fork(after_in_child=_tally.renew_lock)
