"""The end of the interpreter, as daemon threads meet it: they go on while what they use is closed."""

from __future__ import annotations

import threading
from typing import Final

from aiospin._errors import ClosedResourceError

exiting = threading.Event()
"""Everything is being closed, because the interpreter ends."""

# Seconds; chosen, as long as the exit waits for a predicate (_waiter.py). Not for ever: the thread may hold a lock that
# another exit handler wants, as those of logging do.
_GRACE_S: Final = 5.0


def closed() -> ClosedResourceError:
    """The error that something was closed, of the native code too. In a daemon thread of an interpreter that ends it
    is no error of the thread's, and this returns only if the end lets it wait: don't call it with a lock in hand."""
    if exiting.is_set() and threading.current_thread().daemon:
        threading.Event().wait(_GRACE_S)
    return ClosedResourceError()
