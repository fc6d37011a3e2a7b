"""BroadcastWriter: the one that sends."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import anyio
from anyio.abc import ObjectSendStream

from aiospin._core import core
from aiospin._deadline import FOREVER, deadline_of, expired
from aiospin._errors import WouldBlock
from aiospin._member import Member
from aiospin._policy import resolve
from aiospin._segment import READER_BYTE, BroadcastHandle, Segment
from aiospin._wait import pause, spend, warn_if_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Buffer

    from aiospin._policy import WaitPolicy

Overflow = Literal["block", "drop_oldest"]

MIN_CAPACITY: Final = 4096  # bytes, a page: ASP_RING_MIN_CAPACITY
MAX_READERS: Final = 1024  # ASP_RING_MAX_READERS
PATIENCE_NS: Final = 1_000_000_000  # a writer that waits longer for room says whom it waits for
_JOIN_POLL: Final = 1e-3  # seconds between two counts of the readers while a program starts up

_log: Final = logging.getLogger("aiospin")


@dataclass(frozen=True)
class ReaderState:
    """A reader, as the writer sees it."""

    slot: int
    pid: int
    """Its process id, in its own PID namespace."""
    lag: int
    """Messages that it has not released yet."""


@dataclass(frozen=True)
class WriterStatistics:
    """A broadcast, as its writer sees it."""

    messages: int
    """Messages published."""
    capacity: int
    """Bytes of the ring."""
    readers: tuple[ReaderState, ...]


class BroadcastWriter(Member, ObjectSendStream[Any]):
    """The writing end of a broadcast: one process sends, every reader that is attached gets every
    message.

    Made by :meth:`create`. Use it from one task or thread at a time, as a context manager, ``with``
    or ``async with``; closing it ends the stream for its readers, after they have read what was
    sent, and removes the name.
    """

    _ring: core.RingWriter
    _named_wait_ns = 0  # the beginning of the wait that was logged last
    _send: Callable[[Buffer], bool]  # looked up once: it is most of what a send costs

    def __init__(self) -> None:
        raise TypeError("use BroadcastWriter.create()")

    @classmethod
    def create(
        cls,
        name: str | None = None,
        *,
        capacity: int = 16 * 1024 * 1024,
        max_readers: int = 16,
        overflow: Overflow = "block",
        mode: int = 0o600,
        policy: WaitPolicy | None = None,
    ) -> BroadcastWriter:
        """Make a broadcast.

        :param name: what readers attach to; one is made up when None. That of a writer that died is
            taken over.
        :param capacity: bytes for messages not yet read by all, rounded up to a power of two. A
            message may have half of it.
        :param max_readers: how many may be attached at once, 1 to 1024.
        :param overflow: what happens when it is full: "block" makes the writer wait for the slowest
            reader and loses nothing; "drop_oldest" never waits, and a reader that was too slow gets
            :exc:`LaggedError`.
        :param mode: permissions of the segment's file; 0o600 is for this user alone.
        :param policy: how the writer waits for room; the process's default when None.
        :raises FileExistsError: a living broadcast has that name.
        :raises OSError: ENOSPC: not enough shared memory; says how much was needed and how much is
            free.
        :raises ValueError: a bad name or size.
        """
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow must be 'block' or 'drop_oldest', not {overflow!r}")
        capacity = _integer("capacity", capacity, 1, 1 << 46)
        max_readers = _integer("max_readers", max_readers, 1, MAX_READERS)
        mode = _integer("mode", mode, 0, 0o777)
        policy = resolve(policy)
        capacity = max(MIN_CAPACITY, 1 << (capacity - 1).bit_length())
        segment, temporary = Segment.create(name, core.ring_bytes(capacity, max_readers), mode)
        self = cls.__new__(cls)
        try:
            kind = get_args(Overflow).index(overflow)
            core.ring_create(
                segment.memory, capacity, max_readers, kind, os.getpid(), time.time_ns()
            )
            self._ring = core.RingWriter(segment.memory)
            segment.publish(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            if hasattr(self, "_ring"):
                self._ring.release()
            segment.close()
            raise
        Member.__init__(self, segment, policy)
        self._send = self._ring.send
        return self

    @property
    def handle(self) -> BroadcastHandle:
        """What another process attaches with; picklable."""
        return BroadcastHandle(self.name)

    @property
    def capacity(self) -> int:
        """Bytes of the ring."""
        return self._ring.capacity

    @property
    def max_message(self) -> int:
        """Bytes of the largest message."""
        return self._ring.max_message

    def statistics(self) -> WriterStatistics:
        """How much was sent, and who is reading."""
        with self._lock:
            self._ensure_open()
            return WriterStatistics(
                messages=self._ring.sequence,
                capacity=self._ring.capacity,
                readers=tuple(ReaderState(*row) for row in self._ring.readers()),
            )

    # ---- sending ----

    async def send(self, item: Buffer, timeout: float | None = None) -> None:
        """Send one message to every reader; in "block" mode wait for room if there is none.

        :param item: a contiguous bytes-like object; it is copied.
        :param timeout: seconds to wait for room at most.
        :raises TimeoutError: no room in that time; nothing was sent.
        :raises ValueError: it is larger than :attr:`max_message`, or a bad timeout.
        :raises ClosedResourceError: the writer is closed.
        :raises BusyResourceError: another task is in the middle of sending.
        """
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        if spend():
            await pause()
        while not self._send(item):
            if not await self._until_ready(deadline_ns):
                raise self._no_room(timeout)

    def send_nowait(self, item: Buffer) -> None:
        """Send, if there is room.

        :raises WouldBlock: there is none just now.
        """
        if not self._send(item):
            self._ask_after_peer()
            raise WouldBlock

    def send_sync(self, item: Buffer, timeout: float | None = None) -> None:
        """The blocking form of :meth:`send`."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        while not self._send(item):
            if not self._until_ready_sync(deadline_ns, "send_sync()", "await send()"):
                raise self._no_room(timeout)

    def acquire_write(self, nbytes: int, timeout: float | None = None) -> WriteSlot:
        """Room for one message, to be filled in place: ``with`` or ``async with`` gives a writable
        memoryview.

        Leaving the block publishes the message; leaving it by an exception publishes nothing. The
        view is not to be used after that.

        :param nbytes: size of the message.
        :param timeout: seconds to wait for room at most.
        """
        nbytes = _integer("nbytes", nbytes, 0, 1 << 46)
        return WriteSlot(self, nbytes, timeout)

    def _no_room(self, timeout: float | None) -> TimeoutError:
        slowest = self._ring.slowest()
        who = (
            f": it waits for the reader with pid {slowest[1]}, {slowest[2]} bytes behind"
            if slowest
            else ""
        )
        return expired(f"the broadcast {self.name!r} had no room{who}", timeout)

    # ---- readers ----

    async def wait_for_readers(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` readers are attached.

        :raises TimeoutError: fewer came in that time.
        """
        deadline_ns = self._readers_deadline(n, timeout)
        # A poll, because a join knocks only at a writer that waits for room.
        while not self._enough_readers(n, deadline_ns, timeout):  # noqa: ASYNC110
            await anyio.sleep(_JOIN_POLL)

    def wait_for_readers_sync(self, n: int, timeout: float | None = None) -> None:
        """The blocking form of :meth:`wait_for_readers`."""
        deadline_ns = self._readers_deadline(n, timeout)
        warned = False
        while not self._enough_readers(n, deadline_ns, timeout):
            if not warned:
                warn_if_on_loop("wait_for_readers_sync()", "await wait_for_readers()")
                warned = True
            time.sleep(_JOIN_POLL)

    def _readers_deadline(self, n: int, timeout: float | None) -> int:
        limit = self._ring.max_readers
        _integer("n", n, 0, limit)
        return deadline_of(timeout)

    def _enough_readers(self, n: int, deadline_ns: int, timeout: float | None) -> bool:
        with self._lock:
            self._ensure_open()
            attached = self._ring.active_readers()
            if attached >= n:
                self._check_peer()  # of those, some may be dead
                attached = self._ring.active_readers()
        if attached < n and core.now_ns() >= deadline_ns:
            raise expired(f"only {attached} of {n} readers attached to {self.name!r}", timeout)
        return attached >= n

    def _check_peer(self) -> None:
        for slot, _, _ in self._ring.readers():
            # With its lock in hand nobody can join in that slot while it is freed.
            if self._segment.lock(READER_BYTE + slot):
                self._ring.evict(slot)
                self._segment.unlock(READER_BYTE + slot)

    def _keep_waiting(self) -> None:
        self._check_peer()
        waited_ns = core.now_ns() - self._waiting_since_ns
        if waited_ns < PATIENCE_NS or self._named_wait_ns == self._waiting_since_ns:
            return
        self._named_wait_ns = self._waiting_since_ns  # once per wait
        if slowest := self._ring.slowest():
            _log.warning(
                "the writer of the broadcast %r has waited %.1f s for room: the reader in slot %d, "
                "with pid %d, is %d bytes behind",
                self.name,
                waited_ns / 1e9,
                *slowest,
            )

    def _say_goodbye(self) -> None:
        self._ring.close()
        self._segment.unlink()


class WriteSlot:
    """What :meth:`BroadcastWriter.acquire_write` returns: enter it with ``with`` or ``async with``."""

    __slots__ = ("_nbytes", "_timeout", "_view", "_writer")

    def __init__(self, writer: BroadcastWriter, nbytes: int, timeout: float | None) -> None:
        self._writer = writer
        self._nbytes = nbytes
        self._timeout = timeout
        deadline_of(timeout)  # a bad one is refused here, where it was written
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        writer = self._writer
        deadline_ns = deadline_of(self._timeout)
        while (view := writer._ring.claim(self._nbytes)) is None:
            if not writer._until_ready_sync(
                deadline_ns, "with acquire_write()", "async with acquire_write()"
            ):
                raise writer._no_room(self._timeout)
        self._view = view
        return view

    async def __aenter__(self) -> memoryview:
        if spend():
            await pause()
        writer = self._writer
        deadline_ns = deadline_of(self._timeout)
        while (view := writer._ring.claim(self._nbytes)) is None:
            if not await writer._until_ready(deadline_ns):
                raise writer._no_room(self._timeout)
        self._view = view
        return view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        view, self._view = self._view, None
        if view is None:
            raise RuntimeError("this slot was not entered")
        try:
            view.release()
        except BufferError:
            pass  # an array over it is still held; the documentation says not to use it any more
        if kind is not None:
            if not self._writer.closed:
                self._writer._ring.abandon()
            return
        self._writer._ring.publish()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    """A checked integer argument."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")
    return int(value)
