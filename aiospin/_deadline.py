"""Deadlines: seconds at the edge, absolute nanoseconds inside."""

from __future__ import annotations

import math
from typing import Final, SupportsFloat

from aiospin._core import core

FOREVER: Final = core.FOREVER


def deadline_of(timeout: float | None) -> int:
    """The point in time, in CLOCK_MONOTONIC ns, at which a wait that begins now gives up.

    :param timeout: seconds; None is for ever, 0 has passed already.
    :raises ValueError: negative or NaN.
    :raises TypeError: no number.
    """
    if timeout is None:
        return FOREVER
    if isinstance(timeout, (bool, str, bytes)) or not isinstance(timeout, SupportsFloat):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    try:
        seconds = float(timeout)
    except OverflowError:  # an integer beyond all floats
        seconds = math.inf if timeout > 0 else -math.inf
    if math.isnan(seconds):
        raise ValueError("timeout must be a number of seconds, not NaN")
    if seconds < 0:
        raise ValueError(
            f"timeout must be at least 0 seconds, not {timeout!r}; None waits for ever"
        )
    if seconds == 0:
        return 0
    return FOREVER if seconds > 1e9 else core.now_ns() + int(seconds * 1e9)


def expired(what: str, timeout: float | None, why: str = "") -> TimeoutError:
    """The error of a wait whose deadline passed.

    :param why: what may be added, a clause that begins with its own punctuation.
    """
    when = f"within {float(timeout):g} s" if timeout else "just now"
    return TimeoutError(f"{what} {when}{why}")
