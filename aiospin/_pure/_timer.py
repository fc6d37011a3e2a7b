"""A point in time that a poll can wait for: Python has the kernel's timers from 3.13 on."""

from __future__ import annotations

import errno
import os
import sys
import time

if sys.version_info >= (3, 13):

    def timer_open() -> int:
        """A descriptor that a poll sees once a time has come. OSError where there is no such
        thing."""
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)

    def timer_arm(fd: int, at_ns: int) -> None:
        """Readable from then on, and not before; 0: never."""
        os.timerfd_settime_ns(fd, flags=os.TFD_TIMER_ABSTIME, initial=at_ns)

else:

    def timer_open() -> int:
        """There is no such thing."""
        raise OSError(errno.ENOSYS, "timers with a descriptor are new in Python 3.13")

    def timer_arm(fd: int, at_ns: int) -> None:  # noqa: ARG001
        """There is no such thing."""
        raise OSError(errno.ENOSYS, "timers with a descriptor are new in Python 3.13")
