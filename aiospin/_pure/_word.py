"""Atomic operations on one element of a buffer, as far as Python can.

Every operation is atomic against the other threads of this process and against other processes
that run this stand-in: they take turns by a lock on a file in shared memory, one per user. The
compiled core, C programs and other users' processes do not take part. A load or a store by
itself is whole against them too (see _buffer); an add, exchange or compare_exchange here that
races with a write of theirs may undo it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

from . import _futex
from ._buffer import Pin, fence, load, store
from ._element import Element
from ._tally import count

if TYPE_CHECKING:
    from typing_extensions import Buffer

_SHARED_FOLDER: Final = "/dev/shm"  # the same for all processes, whatever TMPDIR says


class _Turns:
    """Whose turn it is to change a word: among threads by a lock, among processes by a locked
    file."""

    def __init__(self) -> None:
        # Re-entrant, because a signal handler may use a Flag while this thread is in the middle.
        self._lock = threading.RLock()
        self._file = -1
        self._depth = 0

    def reset(self) -> None:
        """In a forked child: the parent's file lock would be shared with it."""
        if self._file >= 0:
            os.close(self._file)
        self.__init__()  # type: ignore[misc]

    @contextmanager
    def turn(self) -> Iterator[None]:
        with self._lock:
            if self._file < 0:
                self._file = _open_lock_file()
            if not self._depth:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    fcntl.flock(self._file, fcntl.LOCK_UN)


def _open_lock_file() -> int:
    folder = _SHARED_FOLDER if os.access(_SHARED_FOLDER, os.W_OK) else tempfile.gettempdir()
    path = os.path.join(folder, f"aiospin-atomic-{os.getuid()}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    found = os.fstat(file)
    if found.st_uid != os.getuid() or not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise PermissionError(f"{path} is no plain file of this user: remove it, then try again")
    return file


_turns: Final = _Turns()
os.register_at_fork(after_in_child=_turns.reset)


@final
class Word:
    """Atomic operations on one element of a buffer, which is pinned only during each of them."""

    __slots__ = ("_buffer", "_element", "_offset")

    def __init__(self, buffer: Buffer, offset: int, width: int, kind: str, swapped: bool) -> None:
        self._buffer = buffer
        self._offset = offset
        self._element = Element(kind, width, swapped)
        if offset < 0:
            raise ValueError(f"offset must be at least 0 bytes, not {offset}")
        with Pin(buffer) as memory:
            self._at(memory)

    def _at(self, memory: Pin) -> memoryview:
        return memory.words(self._offset, self._element.dtype.width, 1, "word")

    @contextmanager
    def _mine(self) -> Iterator[memoryview]:
        """The element, while nobody else changes it."""
        with Pin(self._buffer) as memory:
            if memory.readonly:
                raise TypeError("the buffer is read-only: only load, wait and notify work on it")
            words = self._at(memory)
            with _turns.turn():
                yield words

    def load(self) -> Any:
        """The value; acquire."""
        with Pin(self._buffer) as memory:
            return self._element.decode(load(self._at(memory), 0))

    def store(self, value: Any) -> None:
        """Set the value; release."""
        raw = self._element.encode("store", value)
        with self._mine() as words:  # or an add in progress would undo it
            store(words, 0, raw)

    def add(self, n: Any) -> Any:
        """Add, wrapping around, and return what was there before."""
        with self._mine() as words:
            before = load(words, 0)
            store(words, 0, self._element.add(before, n))
        return self._element.decode(before)

    def exchange(self, value: Any) -> Any:
        """Set the value and return what was there before."""
        raw = self._element.encode("exchange", value)
        with self._mine() as words:
            before = load(words, 0)
            store(words, 0, raw)
        return self._element.decode(before)

    def compare_exchange(self, expected: Any, desired: Any) -> bool:
        """Set the value if its bits still are those of ``expected``; says whether it did."""
        old = self._element.encode("compare_exchange", expected)
        new = self._element.encode("compare_exchange", desired)
        with self._mine() as words:
            if load(words, 0) != old:
                return False
            store(words, 0, new)
            return True

    def notify(self) -> None:
        """Wake who waits for this word, in any process."""
        with Pin(self._buffer) as memory:
            self._at(memory)
            fence()  # what was stored before the wake
            # A waiter sleeps on every 32-bit word of the element, so a knock at the first is
            # enough.
            _futex.wake((memory.address + self._offset) & ~3)
            count("notifies")
