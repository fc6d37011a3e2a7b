"""Who lives: record locks on the file of a segment, which the kernel drops with the process.

One byte for each member, behind any size that a file can have, so that they never meet a lock on
the data. The locks belong to the open file description; asking is for another description, and
works on one that is only for reading.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

WRITER_BYTE: Final = 0x7FFF_0000_0000_0000
READER_BYTE: Final = WRITER_BYTE + 1  # + slot

_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


def take(fd: int, byte: int) -> bool:
    """Take a lock for as long as the description is open. False: a living member has it."""
    return _set(fd, byte, fcntl.F_WRLCK)


def drop(fd: int, byte: int) -> None:
    """Let go of a lock."""
    _set(fd, byte, fcntl.F_UNLCK)


def _set(fd: int, byte: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_taken(fd: int, byte: int, count: int = 1) -> bool:
    """Does another description have the lock on one of these bytes?"""
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
