"""How a writer keeps to its times: it sleeps, as programs do that wait for something else, and does not spin.

So its own cold start, some microseconds of it, is part of what is measured, and it takes nothing from a reader that
runs beside it.
"""

from __future__ import annotations

import time
from ctypes import CDLL
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiospin._cli.bench.arrivals import Due

PR_SET_TIMERSLACK: Final = 29  # <linux/prctl.h>


def sleep_exactly() -> None:
    """Let this thread's sleeps end with the kernel's timers, and not up to 50 us later."""
    CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def paced(messages: Sequence[Due]) -> Iterator[int]:
    """The number of each message, when it is due. What is late moves the rest, so that no burst makes up for it."""
    due = time.monotonic()
    for number, message in enumerate(messages):
        due += message.gap
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
        else:
            due -= left
        yield number
