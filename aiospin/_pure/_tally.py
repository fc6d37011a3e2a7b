"""The counters behind ``statistics()``: those of csrc/core/tally.h and two gauges."""

from __future__ import annotations

import os
import threading
from typing import Final, Literal

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

_counts: Final[dict[str, int]] = dict.fromkeys(Counter.__args__, 0)  # type: ignore[attr-defined]
# Re-entrant, because a signal handler may wait too while this thread is in count().
_lock = threading.RLock()


def count(counter: Counter, n: int = 1) -> None:
    with _lock:
        _counts[counter] += n


def statistics() -> dict[str, int]:
    """The counters of csrc/core/tally.h, and live_tickets and pinned_buffers as of now."""
    with _lock:
        return dict(_counts)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held the old one


os.register_at_fork(after_in_child=_after_fork_in_child)
