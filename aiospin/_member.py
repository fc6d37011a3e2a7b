"""What the writer and the readers of a broadcast have in common: a segment, an end of the ring in
it, waiting for the other side, and noticing that the other side died."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiospin._core import core
from aiospin._deadline import deadline_of
from aiospin._errors import WouldBlock
from aiospin._exit import closed, exiting
from aiospin._target import RecheckedTarget
from aiospin._wait import block, pause, spend, suspend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from typing_extensions import Self

    from aiospin._bell import Bell
    from aiospin._closes import Closes
    from aiospin._policy import WaitPolicy
    from aiospin._segment import Segment

T = TypeVar("T")

# A member that waits asks this often whether the other side still lives: the kernel drops the lock
# of a process that dies, but tells nobody. Twenty looks a second keep what survivors wait under 100 ms.
LIVENESS_NS: Final = 50_000_000
# The compiled core asks by itself (ASP_RECHECK_NS), for a third of the CPU: benchmarks/idle_cost.py, "blocked". What
# is left to Python then is to say, once a wait, who holds the writer up.
GUARDED_NS: Final = 1_000_000_000


class _MemberTarget(RecheckedTarget):
    """The ring's next move, and between two looks at it the question whether the other side still lives."""

    __slots__ = ("_guarded", "_member", "follows_peers", "unasked")

    recheck_ns = LIVENESS_NS

    def __init__(self, member: Member, guarded: bool) -> None:
        super().__init__(member._ring.wait)
        self._member = weakref.ref(member)  # no cycle: a dropped member closes at once
        self._guarded = guarded
        self.follows_peers = guarded and member._follows_peers
        self.unasked = False

    @property
    def rest_ns(self) -> int:
        return GUARDED_NS if self._guarded else self.recheck_ns

    @property
    def bell(self) -> Bell | None:  # type: ignore[override]
        member = self._member()
        return None if member is None else member._bell

    def follow_peers(self, closes: Closes) -> bool:
        member = self._member()
        if member is None:
            return False
        with member._lock:
            if not member._closed:
                try:
                    self.follows_peers = closes.follow(self, member._segment.lock_fd)
                except OSError:  # no more files can be watched
                    self.follows_peers = False
                return self.follows_peers
        return False

    def ask_after_peers(self) -> None:
        member = self._member()
        if member is not None:
            with member._lock:
                if not member._closed:
                    # Where nobody waits this can: the question must not get in the way of another thread that sends.
                    self.unasked = not member._ring.suspended
                    if not self.unasked:
                        member._check_peer()

    def recheck(self, woken: bool) -> bool:
        if woken:
            return True
        member = self._member()
        if member is None:
            return True
        with member._lock:
            if member._closed:
                return True  # the operation itself says that it is closed
            member._keep_waiting()
        return False


class Member:
    """One side of a broadcast. Closing it twice is harmless; using it after that raises ClosedResourceError."""

    _ring: core.RingWriter | core.RingReader
    _bell: Bell | None = None
    _follows_peers = False
    """Its waits in an event loop are no sleeps on a bell, which tells of a death, so the loop is to listen for one."""

    def __init__(self, segment: Segment, policy: WaitPolicy) -> None:
        self._segment = segment
        self._policy = policy
        self._target = _MemberTarget(self, self._ring.guard(segment.lock_fd))
        # Between close() and a wait, whose two ends and whose questions about the peer may be in another thread.
        self._lock = threading.RLock()
        self._closing = False  # close() has begun; asked without the lock
        self._closed = False
        self._next_question_ns = 0
        self._waiting_since_ns = 0
        _members.add(self)

    @property
    def name(self) -> str:
        """The name to attach to."""
        return self._segment.name

    @property
    def closed(self) -> bool:
        return self._closed

    def _check_peer(self) -> None:
        """The other side did not move for a while: does it live?"""
        raise NotImplementedError

    def _keep_waiting(self) -> None:
        """A wait goes on: ask who lives, and say who is in the way."""
        self._check_peer()

    def _say_goodbye(self) -> None:
        """Tell the other side, while the ring is still there."""
        raise NotImplementedError

    # An operation is a function that does something at once or returns None: not now. It is called again when
    # the ring may let it succeed.

    async def _perform(self, operation: Callable[[], T | None], timeout: float | None) -> T:
        """Do it as soon as possible."""
        deadline_ns = deadline_of(timeout)
        if spend():
            await pause()
        result = operation()
        if result is None:
            return await self._eventually(operation, deadline_ns, timeout)
        return result

    async def _eventually(
        self, operation: Callable[[], T | None], deadline_ns: int, timeout: float | None
    ) -> T:
        """Do it later, after it has said: not now."""
        rehearsing = False
        try:
            while True:
                ready: bool | None = False
                self._begin_waiting()
                rehearsed, rehearsing = rehearsing, False
                try:
                    ready = (not rehearsed and self._look(deadline_ns)) or await suspend(
                        self._target, deadline_ns, self._policy, rehearsed=rehearsed
                    )
                finally:
                    self._stop_waiting(ready)
                if ready is False:
                    raise self._too_late(timeout)
                rehearsing = ready is None
                result = operation()
                if result is not None:
                    return result
        finally:
            if rehearsing:
                core.count("parked", 1)  # the rehearsal ended the wait

    def _perform_sync(
        self, operation: Callable[[], T | None], timeout: float | None, names: tuple[str, str]
    ) -> T:
        """The blocking form of _perform.

        :param names: the public function, and what to call on the thread of a loop, for the warning there.
        """
        deadline_ns = deadline_of(timeout)
        result = operation()
        if result is None:
            return self._eventually_sync(operation, deadline_ns, timeout, names, depth=1)
        return result

    def _eventually_sync(
        self,
        operation: Callable[[], T | None],
        deadline_ns: int,
        timeout: float | None,
        names: tuple[str, str],
        depth: int = 0,
    ) -> T:
        """The blocking form of _eventually."""
        rehearsing = False
        try:
            while True:
                ready: bool | None = False
                self._begin_waiting()
                rehearsed, rehearsing = rehearsing, False
                try:
                    ready = (not rehearsed and self._look(deadline_ns)) or block(
                        self._target,
                        deadline_ns,
                        self._policy,
                        *names,
                        depth=depth + 1,
                        rehearsed=rehearsed,
                    )
                finally:
                    self._stop_waiting(ready)
                if ready is False:
                    raise self._too_late(timeout)
                rehearsing = ready is None
                result = operation()
                if result is not None:
                    return result
        finally:
            if rehearsing:
                core.count("parked", 1)  # the rehearsal ended the wait

    def _perform_nowait(self, operation: Callable[[], T | None]) -> T:
        """Do it now or raise WouldBlock."""
        result = operation()
        if result is None:
            self._ask_after_peer()
            raise WouldBlock
        return result

    def _too_late(self, timeout: float | None) -> TimeoutError:
        """The error of an operation whose time has passed."""
        raise NotImplementedError

    def _begin_waiting(self) -> None:
        with self._lock:
            if not self._closed:
                self._ring.suspend()
                self._waiting_since_ns = core.now_ns()
                return
        self._ensure_open()

    def _look(self, deadline_ns: int) -> bool:
        """The first look of a wait; one that is only a look asks after the other side besides."""
        if self._target.look():
            return True
        if not deadline_ns:
            self._ask_after_peer()
        return False

    def _stop_waiting(self, ready: bool | None) -> None:
        """:param ready: None: for a rehearsal, which ends the wait only if there is something after all."""
        # A message that has come goes through here, so no lock is taken: close() shuts first and then asks whether
        # somebody waits, and this says first that nobody does. So one of the two lets go, or both, which is harmless.
        self._ring.resume(ready)
        if self._closing:
            with self._lock:
                if self._closed:
                    self._let_go()

    def _ask_after_peer(self) -> None:
        """For those who only look, again and again: a dead peer is noticed as soon as by those who wait."""
        now_ns = core.now_ns()
        if now_ns >= self._next_question_ns:
            self._next_question_ns = now_ns + LIVENESS_NS
            with self._while_open():
                self._check_peer()

    def close(self) -> None:
        """Close this side. A task or thread that waits on it gets ClosedResourceError, within a tenth of a second."""
        with self._lock:
            if self._closed:
                return
            self._closing = True
            if self._bell is not None:
                self._bell.remove()
            self._say_goodbye()
            self._closed = True
            _members.discard(self)
            self._ring.guard(None)
            self._segment.drop_lock()
            bell = self._bell
            if not self._ring.suspended:
                self._let_go()
            elif bell is not None and not exiting.is_set():
                owner = bell.owner  # once: the thread of its loop may let go of it meanwhile
                if owner is not None:
                    owner.wake(bell)

    def _let_go(self) -> None:
        """Nobody waits any more. Idempotent."""
        bell = self._bell
        if bell is not None:
            owner = bell.owner  # once, as in close()
            if owner is None:
                bell.discard()
            else:
                owner.disown(bell, bell.discard)
        self._ring.release()
        self._segment.close()

    def _forget(self) -> None:
        """In the child of a fork: it is the parent's. Say nothing to anybody, and refuse to be used."""
        # Before anything that may fail: closing it in the child would close it in the parent.
        self._closing = self._closed = True
        self._lock = threading.RLock()
        if self._bell is not None:
            self._bell.inherited()
            self._bell = None
        self._ring.forget()
        self._segment.close()

    def _ensure_open(self) -> None:
        if self._closed:
            raise closed()

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        """No close() meanwhile."""
        with self._lock:
            if not self._closed:
                yield
                return
        self._ensure_open()  # without the lock, as it may take its time

    async def aclose(self) -> None:
        """close(), for ``async with``."""
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __enter__(self) -> Self:
        self._ensure_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled: pass writer.handle, and attach in the other process"
        )

    def __repr__(self) -> str:
        return f"<aiospin.{type(self).__name__} {self.name!r}{' closed' if self._closed else ''}>"


_members: weakref.WeakSet[Member] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    members = list(_members)
    _members.clear()
    with ExitStack() as inherited:  # all of them, whatever one raises
        for member in members:
            inherited.callback(member._forget)


os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _close_all() -> None:
    # Loops that still run now do so in daemon threads: they end with the process, and not with an error.
    exiting.set()
    with ExitStack() as ends:  # all of them, whatever one raises
        for member in list(_members):
            ends.callback(member.close)
