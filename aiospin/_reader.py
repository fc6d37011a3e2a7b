"""BroadcastReader: one of those that receive."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pickle import loads
from typing import TYPE_CHECKING, Any

from anyio.abc import ObjectReceiveStream

from aiospin._bell import Bell
from aiospin._core import core
from aiospin._deadline import FOREVER, deadline_of, expired
from aiospin._errors import (
    AiospinError,
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    LayoutError,
    WouldBlock,
)
from aiospin._large import IncomingFiles
from aiospin._lock import READER_BYTE, WRITER_BYTE
from aiospin._member import Member
from aiospin._object import PICKLE, check_codec, check_format, split
from aiospin._pace import Prediction
from aiospin._policy import resolve
from aiospin._segment import BroadcastHandle, Segment
from aiospin._wait import pause, spend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from aiospin._object import Decoder
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
    prediction: Prediction


class BroadcastReader(Member, ObjectReceiveStream[bytes]):
    """A reading end of a broadcast. It gets every message that is published while it is attached.

    Made by :meth:`attach`. Use it from one task or thread at a time, as a context manager, ``with``
    or ``async with``, and as an asynchronous iterator. A receive that times out or is cancelled
    loses nothing.
    """

    _ring: core.RingReader
    _large: IncomingFiles
    _codec: Decoder | None
    _receive: Callable[[], bytes | None]  # looked up once
    _receive_many: Callable[[int], list[bytes]]

    def __init__(self) -> None:
        raise TypeError("use BroadcastReader.attach()")

    @classmethod
    def attach(
        cls,
        handle_or_name: BroadcastHandle | str,
        *,
        policy: WaitPolicy | None = None,
        codec: Decoder | None = None,
    ) -> BroadcastReader:
        """Attach to a broadcast. The first message received is the next one published.

        :param handle_or_name: ``writer.handle``, or the name that the writer gave.
        :param policy: how to wait for messages; the process's default when None.
        :param codec: what :meth:`receive_object` decodes with: something with a method
            ``decode(buffer) -> object``, such as ``msgspec.msgpack``; pickle when None.
        :raises FileNotFoundError: there is no broadcast of that name, or its writer has closed it.
        :raises LayoutError: what is there is no healthy segment.
        :raises BrokenResourceError: its writer died.
        :raises AiospinError: all its reader slots are taken.
        """
        name = (
            handle_or_name.name if isinstance(handle_or_name, BroadcastHandle) else handle_or_name
        )
        policy = resolve(policy)
        check_codec(codec, "decode")
        segment = Segment.attach(name)
        self = cls.__new__(cls)
        try:
            self._large = IncomingFiles(segment)
            self._ring = _join(segment, self._large)
            # One that has published or closed since the join is heard out first.
            if not segment.alive(WRITER_BYTE) and not self._ring.wait.spin(0, False):
                raise BrokenResourceError(f"the writer of the broadcast {name!r} died")
        except BaseException:
            if hasattr(self, "_ring"):
                self._ring.leave()
                self._ring.release()
            segment.close()
            raise
        Member.__init__(self, segment, policy)
        self._bell = Bell(self._ring, segment.companion(f"bell-{self._ring.slot}"), segment.mode)
        self._codec = codec
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
            slot=ring.slot,
            lag=ring.lag,
            sequence=ring.sequence,
            published_ns=ring.published_ns,
            prediction=Prediction(*ring.wait.prediction),
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
        message = self._receive()
        if message is None:
            return await self._eventually(self._receive, deadline_ns, timeout)
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
        message = self._receive()
        if message is None:
            names = "receive_sync()", "await receive()"
            return self._eventually_sync(self._receive, deadline_ns, timeout, names)
        return message

    async def receive_many(
        self, max_messages: int = 1024, timeout: float | None = None
    ) -> list[bytes]:
        """All messages that are there, at least one and at most ``max_messages``, in one native call."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        _check_batch(max_messages)
        if spend():
            await pause()
        messages = self._receive_many(max_messages)
        if not messages:
            operation = partial(self._receive_batch, max_messages)
            return await self._eventually(operation, deadline_ns, timeout)
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
        messages = self._receive_many(max_messages)
        if not messages:
            operation = partial(self._receive_batch, max_messages)
            names = "receive_many_sync()", "await receive_many()"
            return self._eventually_sync(operation, deadline_ns, timeout, names)
        return messages

    async def receive_object(
        self, timeout: float | None = None, *, copy: bool = True, codec: Decoder | None = None
    ) -> Any:
        """The next message as the object that ``send_object`` was given.

        Unpickling runs what the writer put into the pickle: receive objects only from a writer that you
        trust as your own program. A reader with a codec never unpickles.

        An object whose decoding fails is lost; a message that is no object, or of another kind, is
        not, and :meth:`receive` still gets its bytes.

        :param timeout: seconds; None waits for ever, 0 looks once.
        :param copy: True: the object's buffers (those of NumPy arrays) have memory of their own, writable
            where the original was. False: they are read-only views of the message where it lies, valid
            until the next receive or acquire on this reader, or its close; a writer in "block" mode keeps it
            until then.
        :param codec: instead of that of :meth:`attach`.
        :raises AiospinError: the next message is no such object.
        :raises LayoutError: the message is corrupt.
        """
        deadline_ns = deadline_of(timeout)
        if spend():
            await pause()
        found = self._receive_object(copy, codec)
        if found is None:
            operation = partial(self._receive_object, copy, codec)
            found = await self._eventually(operation, deadline_ns, timeout)
        return found[0]

    def receive_object_nowait(self, *, copy: bool = True, codec: Decoder | None = None) -> Any:
        """The next object, if there is one.

        :raises WouldBlock: there is none just now.
        """
        found = self._receive_object(copy, codec)
        if found is None:
            self._ask_after_peer()
            raise WouldBlock
        return found[0]

    def receive_object_sync(
        self, timeout: float | None = None, *, copy: bool = True, codec: Decoder | None = None
    ) -> Any:
        """The blocking form of :meth:`receive_object`."""
        deadline_ns = deadline_of(timeout)
        found = self._receive_object(copy, codec)
        if found is None:
            operation = partial(self._receive_object, copy, codec)
            names = "receive_object_sync()", "await receive_object()"
            found = self._eventually_sync(operation, deadline_ns, timeout, names)
        return found[0]

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

    # Operations for _perform() and its like: None while nothing is there.

    def _receive_batch(self, max_messages: int) -> list[bytes] | None:
        return self._receive_many(max_messages) or None

    def _receive_object(self, copy: bool, codec: Decoder | None) -> tuple[Any] | None:
        if codec is None:
            codec = self._codec
        else:
            check_codec(codec, "decode")
        found = self._ring.peek()
        if found is None:
            return None
        if found != PICKLE or codec is not None:
            check_format(found, codec)
            if codec is None:
                return self._receive_buffers(copy)
        message = self._receive()
        if message is None:
            return None
        return (loads(message) if codec is None else codec.decode(message),)

    def _receive_buffers(self, copy: bool) -> tuple[Any] | None:
        """A pickled object with its buffers."""
        ring = self._ring
        view = ring.acquire()
        if view is None:
            return None
        if not copy:
            ring.lend()
            pickled, buffers = split(view, copy=False)
            return (loads(pickled, buffers=buffers),)
        try:
            pickled, buffers = split(view, copy=True)
        finally:
            view.release()
            ring.release_message()
        return (loads(pickled, buffers=buffers),)

    def _too_late(self, timeout: float | None) -> TimeoutError:
        return expired(f"no message came on the broadcast {self.name!r}", timeout)

    def _check_peer(self) -> None:
        # The look comes after: what a dying writer published is read before its death is told.
        if not self._segment.alive(WRITER_BYTE) and not self._target.wait.spin(0, False):
            raise BrokenResourceError(f"the writer of the broadcast {self.name!r} died")

    def _say_goodbye(self) -> None:
        ring = self._ring
        ring.leave()
        self._large.sweep(ring.oldest)
        self._segment.unlock(READER_BYTE + ring.slot)
        self._segment.remove_retired()


class ReadSlot:
    """What :meth:`BroadcastReader.acquire_read` returns: enter it with ``with`` or ``async with``."""

    __slots__ = ("_reader", "_timeout", "_view")

    def __init__(self, reader: BroadcastReader, timeout: float | None) -> None:
        self._reader = reader
        self._timeout = timeout
        deadline_of(timeout)  # a bad one is refused here, where it was written
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        reader, timeout = self._reader, self._timeout
        deadline_ns = deadline_of(timeout)
        acquire = reader._ring.acquire
        view = acquire()
        if view is None:
            names = "with acquire_read()", "async with acquire_read()"
            view = reader._eventually_sync(acquire, deadline_ns, timeout, names)
        self._view = view
        return view

    async def __aenter__(self) -> memoryview:
        reader = self._reader
        self._view = await reader._perform(reader._ring.acquire, self._timeout)
        return self._view

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
        with suppress(ClosedResourceError):  # which has released it
            self._reader._ring.release_message()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


def _join(segment: Segment, large: IncomingFiles) -> core.RingReader:
    """Take the first slot whose lock is free."""
    for slot in range(_MAX_SLOTS):
        if segment.lock(READER_BYTE + slot):
            try:
                ring = core.RingReader(segment.memory, slot, os.getpid(), large)
                segment.id = ring.id
                return ring
            except LayoutError as error:
                raise LayoutError(f"{segment.path} is no healthy segment: {error}") from None
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
