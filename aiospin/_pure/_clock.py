"""Monotonic time. A point in time is always an absolute CLOCK_MONOTONIC nanosecond."""

from __future__ import annotations

import threading
import time
from typing import Final

FOREVER: Final = (1 << 64) - 1  # the deadline that never comes

now_ns = time.monotonic_ns


def after(now: int, ns: int) -> int:
    """now + ns, saturating at FOREVER."""
    return min(now + ns, FOREVER)


def seconds(ns: int) -> float:
    """A duration for the standard library, which refuses more than threading.TIMEOUT_MAX."""
    return min(max(ns, 0) / 1e9, threading.TIMEOUT_MAX)
