"""BroadcastReader: one of those that receive."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio.abc import ObjectReceiveStream

from aiospin._core import core
from aiospin._deadline import FOREVER, deadline_of, expired
from aiospin._errors import AiospinError, BrokenResourceError, EndOfStream, WouldBlock
from aiospin._member import Member
from aiospin._policy import resolve
from aiospin._segment import READER_BYTE, WRITER_BYTE, BroadcastHandle, Segment
from aiospin._wait import pause, spend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from aiospin._policy import WaitPolicy

_MAX_SLOTS = 1024  # ASP_RING_MAX_READERS


@dataclass(frozen=True)
class ReaderStatistics:
    """A broadcast, as one reader of it sees it."""

    slot: int
    lag: int
    """Messages published and not yet received."""
    sequence: int
    """Number of the next message; the first that the writer ever sent has number 0."""
    published_ns: int
    """When the message last received was published, CLOCK_MONOTONIC ns; 0 before the first."""


class BroadcastReader(Member, ObjectReceiveStream[bytes]):
    """A reading end of a broadcast. It gets every message that is published while it is attached.

    Made by :meth:`attach`. Use it from one task or thread at a time, as a context manager, ``with``
    or ``async with``, and as an asynchronous iterator. A receive that times out or is cancelled
    loses nothing.
    """

    _ring: core.RingReader
    _receive: Callable[[], bytes | None]  # looked up once
    _receive_many: Callable[[int], list[bytes]]

    def __init__(self) -> None:
        raise TypeError("use BroadcastReader.attach()")

    @classmethod
    def attach(
        cls, handle_or_name: BroadcastHandle | str, *, policy: WaitPolicy | None = None
    ) -> BroadcastReader:
        """Attach to a broadcast. The first message received is the next one published.

        :param handle_or_name: ``writer.handle``, or the name that the writer gave.
        :param policy: how to wait for messages; the process's default when None.
        :raises FileNotFoundError: there is no broadcast of that name, or its writer has closed it.
        :raises LayoutError: what is there is no healthy segment.
        :raises BrokenResourceError: its writer died.
        :raises AiospinError: all its reader slots are taken.
        """
        name = (
            handle_or_name.name if isinstance(handle_or_name, BroadcastHandle) else handle_or_name
        )
        policy = resolve(policy)
        segment = Segment.attach(name)
        self = cls.__new__(cls)
        try:
            self._ring = _join(segment)
            if not segment.alive(WRITER_BYTE):
                raise BrokenResourceError(f"the writer of the broadcast {name!r} died")
        except BaseException:
            if hasattr(self, "_ring"):
                self._ring.leave()
                self._ring.release()
            segment.close()
            raise
        Member.__init__(self, segment, policy)
        self._receive = self._ring.receive
        self._receive_many = self._ring.receive_many
        return self

    @property
    def lag(self) -> int:
        """Messages published and not yet received."""
        return self._ring.lag

    @property
    def published_ns(self) -> int:
        """When the message last received was published, in ``time.monotonic_ns()``; 0 before the first."""
        return self._ring.published_ns

    def statistics(self) -> ReaderStatistics:
        """Where this reader stands."""
        self._ensure_open()
        ring = self._ring
        return ReaderStatistics(
            slot=ring.slot, lag=ring.lag, sequence=ring.sequence, published_ns=ring.published_ns
        )

    # ---- receiving ----

    async def receive(self, timeout: float | None = None) -> bytes:
        """The next message.

        :param timeout: seconds; None waits for ever, 0 looks once.
        :raises TimeoutError: none came in that time.
        :raises EndOfStream: the writer closed, and everything was received.
        :raises BrokenResourceError: the writer died, and everything that it published was received.
        :raises LaggedError: "drop_oldest": messages were overwritten; the next receive goes on at
            the oldest left.
        :raises LayoutError: the segment was corrupted.
        :raises ClosedResourceError: this reader is closed.
        :raises BusyResourceError: another task is receiving from it.
        """
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        if spend():
            await pause()
        while (message := self._receive()) is None:
            if not await self._until_ready(deadline_ns):
                raise self._nothing_came(timeout)
        return message

    def receive_nowait(self) -> bytes:
        """The next message, if there is one.

        :raises WouldBlock: there is none just now.
        """
        message = self._receive()
        if message is None:
            self._ask_after_peer()
            raise WouldBlock
        return message

    def receive_sync(self, timeout: float | None = None) -> bytes:
        """The blocking form of :meth:`receive`."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        while (message := self._receive()) is None:
            if not self._until_ready_sync(deadline_ns, "receive_sync()", "await receive()"):
                raise self._nothing_came(timeout)
        return message

    async def receive_many(
        self, max_messages: int = 1024, timeout: float | None = None
    ) -> list[bytes]:
        """All messages that are there, at least one and at most ``max_messages``, in one native call."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        _check_batch(max_messages)
        if spend():
            await pause()
        while not (messages := self._receive_many(max_messages)):
            if not await self._until_ready(deadline_ns):
                raise self._nothing_came(timeout)
        return messages

    def receive_many_nowait(self, max_messages: int = 1024) -> list[bytes]:
        """All messages that are there.

        :raises WouldBlock: there is none just now.
        """
        _check_batch(max_messages)
        messages = self._receive_many(max_messages)
        if not messages:
            self._ask_after_peer()
            raise WouldBlock
        return messages

    def receive_many_sync(
        self, max_messages: int = 1024, timeout: float | None = None
    ) -> list[bytes]:
        """The blocking form of :meth:`receive_many`."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        _check_batch(max_messages)
        while not (messages := self._receive_many(max_messages)):
            if not self._until_ready_sync(
                deadline_ns, "receive_many_sync()", "await receive_many()"
            ):
                raise self._nothing_came(timeout)
        return messages

    def iter_sync(self) -> Iterator[bytes]:
        """Iterate over messages, blocking, until the writer closes."""
        while True:
            try:
                message = self.receive_sync()
            except EndOfStream:
                return
            yield message

    def acquire_read(self, timeout: float | None = None) -> ReadSlot:
        """The next message in place: ``with`` or ``async with`` gives a read-only memoryview.

        Leaving the block, by any road, releases the message; until then a writer in "block" mode
        keeps it. The view is not to be used after that. ("drop_oldest" gives a view of a private
        copy.)

        :param timeout: seconds; None waits for ever, 0 looks once.
        """
        return ReadSlot(self, timeout)

    def _nothing_came(self, timeout: float | None) -> TimeoutError:
        return expired(f"no message came on the broadcast {self.name!r}", timeout)

    def _check_peer(self) -> None:
        # The look comes after: what a dying writer published is read before its death is told.
        if not self._segment.alive(WRITER_BYTE) and not self._target.wait.spin(0, False):
            raise BrokenResourceError(f"the writer of the broadcast {self.name!r} died")

    def _say_goodbye(self) -> None:
        self._ring.leave()


class ReadSlot:
    """What :meth:`BroadcastReader.acquire_read` returns: enter it with ``with`` or ``async with``."""

    __slots__ = ("_reader", "_timeout", "_view")

    def __init__(self, reader: BroadcastReader, timeout: float | None) -> None:
        self._reader = reader
        self._timeout = timeout
        deadline_of(timeout)  # a bad one is refused here, where it was written
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        reader = self._reader
        deadline_ns = deadline_of(self._timeout)
        while (view := reader._ring.acquire()) is None:
            if not reader._until_ready_sync(
                deadline_ns, "with acquire_read()", "async with acquire_read()"
            ):
                raise reader._nothing_came(self._timeout)
        self._view = view
        return view

    async def __aenter__(self) -> memoryview:
        if spend():
            await pause()
        reader = self._reader
        deadline_ns = deadline_of(self._timeout)
        while (view := reader._ring.acquire()) is None:
            if not await reader._until_ready(deadline_ns):
                raise reader._nothing_came(self._timeout)
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
        if not self._reader.closed:
            self._reader._ring.release_message()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


def _join(segment: Segment) -> core.RingReader:
    """Take the first slot whose lock is free."""
    for slot in range(_MAX_SLOTS):
        if segment.lock(READER_BYTE + slot):
            try:
                return core.RingReader(segment.memory, slot, os.getpid())
            except ValueError:  # no such slot: all that there are were taken
                break
    raise AiospinError(
        f"all {slot} reader slots of the broadcast {segment.name!r} are taken: create it with a larger max_readers"
    )


def _check_batch(max_messages: int) -> None:
    if isinstance(max_messages, bool) or not isinstance(max_messages, int):
        raise TypeError(f"max_messages must be an integer, not {max_messages!r}")
    if max_messages < 1:
        raise ValueError(f"max_messages must be at least 1, not {max_messages}")
