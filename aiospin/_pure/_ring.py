"""What both ends of a broadcast ring share: the segment, one thread at a time, one waiting caller.

The protocol is that of csrc/core/ring.c. Four orderings carry everything: the record before
head, the last look at a record before cursor, a joining slot before the load of head (with a
fence, as the writer has one between its head and its look at the slots), and in drop_oldest
mode tail before the overwriting, the copy before the check of tail.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from .._errors import BusyResourceError, ClosedResourceError
from .._exit import closed
from ._segment import Segment
from ._wait import Wait
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer


# What another thread does inside an operation takes milliseconds at most. Not for ever: a signal's handler, or code
# that an operation calls, may close the end that its own thread is inside of.
_OTHERS_S: Final = 1.0


class Turn:
    """One thread at a time, and nobody after release: for all that changes an end of a ring."""

    __slots__ = ("_action", "_ending", "_lock", "ended", "released", "suspended")

    def __init__(self, action: str) -> None:
        self._action = action
        self._lock = threading.Lock()
        self._ending = False  # somebody is about to
        self.suspended = False  # one caller waits
        self.ended = False  # closed or left
        self.released = False

    def __enter__(self) -> None:
        # Who is about to end it takes the lock if we leave it alone.
        if self._ending or not self._lock.acquire(blocking=False):
            raise self._refusal()
        if self.released:
            self._lock.release()
            raise closed()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._lock.release()
        if kind is ClosedResourceError:
            raise closed() from None

    def _refusal(self) -> Exception:
        return closed() if self._ending else BusyResourceError(self._action)

    @contextmanager
    def at_last(self) -> Iterator[None]:
        """The same for an operation that ends something, which lets another thread finish first."""
        self._ending = True
        if not self._lock.acquire(timeout=_OTHERS_S):
            self._ending = False
            raise BusyResourceError(self._action)
        try:
            if self.released:
                raise ClosedResourceError
            yield
        finally:
            self._ending = False
            self._lock.release()

    def forget(self) -> None:
        """Let nobody in any more, whoever may be inside."""
        self._ending = self.ended = self.released = True

    def step_out(self) -> None:
        """In the middle of an operation, around a call that may take long: let others in."""
        self._lock.release()

    def step_in(self) -> None:
        self._lock.acquire()

    def check_open(self) -> None:
        if self.ended:
            raise ClosedResourceError

    def check_free(self) -> None:
        self.check_open()
        if self.suspended:
            raise BusyResourceError(self._action)


class End:
    """What both ends share.

    The views handed out by claim and acquire are the caller's to release: each keeps the buffer
    from being closed, and one used after its time sees what comes there next. After release()
    everything raises ClosedResourceError but what is known without looking at the segment.
    """

    _ACTION: str

    def __init__(self, buffer: Buffer) -> None:
        self._segment = Segment(buffer)
        self._turn = Turn(self._ACTION)

    def _open(self) -> Segment:
        if self._turn.released:
            raise ClosedResourceError
        return self._segment

    @property
    def capacity(self) -> int:
        return self._segment.capacity

    @property
    def max_message(self) -> int:
        return self._segment.max_message

    @property
    def overflow(self) -> int:
        return self._segment.overflow

    @property
    def id(self) -> int:
        return self._segment.id

    @property
    def wait(self) -> Wait:
        self._open()
        return self._wait

    def _watched_by(self, watch: Watch) -> None:
        self._wait = Wait.over(watch)

    def guard(self, lock_fd: int | None) -> bool:  # noqa: ARG002
        """The compiled core asks after dead peers by itself; this one has them asked after in Python."""
        return False

    def suspend(self) -> None:
        """Claim the wait for one caller; BusyResourceError if another has it, also from what
        sends or receives until resume()."""
        with self._turn:
            self._turn.check_free()
            self._turn.suspended = True

    def resume(self, ready: bool | None) -> None:  # noqa: ARG002 - the compiled core learns from it
        self._turn.suspended = False

    @property
    def suspended(self) -> bool:
        return self._turn.suspended

    def forget(self) -> None:
        """release(), in the child of a fork, where other threads that were inside are no more. Never fails: what is in
        use stays mapped, and is refused."""
        self._turn.forget()
        with suppress(RuntimeError):
            self._wait.release()
            self._segment.release()

    def release(self) -> None:
        """Unpin the buffer. Idempotent."""
        if self._turn.released:
            return
        with self._turn.at_last():
            self._wait.release()
            self._turn.released = True
            self._segment.release()
