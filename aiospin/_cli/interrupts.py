"""Ctrl-C in a program of several processes: a terminal sends it to all, and one of them decides."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """What is started in here never gets Ctrl-C; the parent ends it in good order.

    A signal mask is inherited, and keeps for the parent what comes meanwhile.
    """
    resource_tracker.ensure_running()  # unblocks the signal when it starts, so it has to before
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
