"""Who lets go of a file: Python has no inotify."""

from __future__ import annotations

import errno


def closes_open() -> int:
    """There is no such thing."""
    raise OSError(errno.ENOSYS, "the closes of a file are told to the compiled core only")


def closes_watch(closes: int, file: int) -> int:  # noqa: ARG001
    """There is no such thing."""
    raise OSError(errno.ENOSYS, "the closes of a file are told to the compiled core only")
