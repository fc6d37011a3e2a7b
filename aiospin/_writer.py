"""BroadcastWriter: the one that sends."""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import anyio
from anyio.abc import ObjectSendStream

from aiospin._core import core
from aiospin._deadline import FOREVER, deadline_of, expired
from aiospin._errors import BatchTimeoutError, ClosedResourceError, WouldBlock
from aiospin._garbage import sweep_closed
from aiospin._large import OutgoingFiles
from aiospin._lock import READER_BYTE
from aiospin._lookout import Lookout
from aiospin._member import LIVENESS_NS, Member
from aiospin._object import BYTES, Frame, check_codec, encode
from aiospin._pace import Prediction
from aiospin._policy import resolve
from aiospin._segment import BroadcastHandle, Segment
from aiospin._wait import pause, spend, warn_if_on_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from typing_extensions import Buffer

    from aiospin._large import Draft
    from aiospin._object import Encoder
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
    prediction: Prediction
    """Of its waits for room."""


class BroadcastWriter(Member, ObjectSendStream[Any]):
    """The writing end of a broadcast: one process sends, every reader that is attached gets every
    message.

    Made by :meth:`create`. Use it from one task or thread at a time, as a context manager, ``with``
    or ``async with``; closing it ends the stream for its readers, after they have read what was
    sent, and removes the name.
    """

    _ring: core.RingWriter
    _large: OutgoingFiles
    _lookout: Lookout  # for readers that die before they have read a large message
    _draft: Draft | None = None  # the large message that acquire_write() has handed out
    _codec: Encoder | None
    _follows_peers = True
    _named_wait_ns = 0  # the beginning of the wait that was logged last
    _send: Callable[[Buffer], bool | None]  # looked up once: it is most of what a send costs

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
        codec: Encoder | None = None,
    ) -> BroadcastWriter:
        """Make a broadcast.

        :param name: what readers attach to; one is made up when None. That of a writer that died is
            taken over.
        :param capacity: bytes for messages not yet read by all, rounded up to a power of two. A
            message of up to half of it lies there; a longer one takes a file of its own.
        :param max_readers: how many may be attached at once, 1 to 1024.
        :param overflow: what happens when it is full: "block" makes the writer wait for the slowest
            reader and loses nothing; "drop_oldest" never waits, and a reader that was too slow gets
            :exc:`LaggedError`.
        :param mode: permissions of the segment's file; 0o600 is for this user alone. Readers write to it,
            too: 0o660 is for those of the group.
        :param policy: how the writer waits for room; the process's default when None.
        :param codec: what :meth:`send_object` encodes with: something with a method
            ``encode(object) -> bytes``, such as ``msgspec.msgpack``; pickle when None.
        :raises FileExistsError: a living broadcast has that name.
        :raises OSError: ENOSPC: not enough shared memory; says how much was needed and how much is
            free.
        :raises ValueError: a bad name or size.
        """
        if overflow not in get_args(Overflow):
            raise ValueError(f"overflow must be 'block' or 'drop_oldest', not {overflow!r}")
        capacity = _integer("capacity", capacity, 1, 1 << 46)
        max_readers = _integer("max_readers", max_readers, 1, MAX_READERS)
        mode = _integer("mode", mode, 0, 0o777, "#o")
        policy = resolve(policy)
        check_codec(codec, "encode")
        capacity = max(MIN_CAPACITY, 1 << (capacity - 1).bit_length())
        segment = Segment.create(name, core.ring_bytes(capacity, max_readers), mode)
        self = cls.__new__(cls)
        try:
            kind = get_args(Overflow).index(overflow)
            core.ring_create(
                segment.memory,
                capacity,
                max_readers,
                kind,
                os.getpid(),
                time.time_ns(),
                segment.id,
            )
            self._ring = core.RingWriter(segment.memory, str(segment.companion("bell-")))
            segment.publish()
        except BaseException:
            segment.discard()
            if hasattr(self, "_ring"):
                self._ring.release()
            segment.close()
            raise
        Member.__init__(self, segment, policy)
        self._send = self._ring.send
        self._codec = codec
        self._large = OutgoingFiles(segment, self._ring)
        look = weakref.WeakMethod(self._look_after_large)  # a dropped writer closes at once
        self._lookout = Lookout(lambda: (found := look()) is not None and found(), LIVENESS_NS)
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
        """Bytes of the largest message in the ring. A longer one takes a file of its own, unseen."""
        return self._ring.max_message

    def statistics(self) -> WriterStatistics:
        """How much was sent, and who is reading."""
        with self._while_open():
            self._check_peer()  # nobody else does, while the writer has room
            return WriterStatistics(
                messages=self._ring.sequence,
                capacity=self._ring.capacity,
                readers=tuple(ReaderState(*row) for row in self._ring.readers()),
                prediction=Prediction(*self._ring.wait.prediction),
            )

    # ---- sending ----

    async def send(self, item: Buffer, timeout: float | None = None) -> None:
        """Send one message to every reader; in "block" mode wait for room if there is none.

        :param item: a contiguous bytes-like object of any size; it is copied.
        :param timeout: seconds to wait for room at most.
        :raises TimeoutError: no room in that time; nothing was sent.
        :raises ValueError: a bad timeout.
        :raises OSError: ENOSPC: it needs a file of its own, and there is not enough shared memory; says
            how much was needed and how much is free. Nothing was sent.
        :raises ClosedResourceError: the writer is closed.
        :raises BusyResourceError: another task is in the middle of sending.
        """
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        if spend():
            await pause()
        if not self._send(item):
            operation = self._sending(item)
            if not operation():
                await self._eventually(operation, deadline_ns, timeout)

    def send_nowait(self, item: Buffer) -> None:
        """Send, if there is room.

        :raises WouldBlock: there is none just now.
        """
        if not self._send(item):
            self._perform_nowait(self._sending(item))

    def send_sync(self, item: Buffer, timeout: float | None = None) -> None:
        """The blocking form of :meth:`send`."""
        deadline_ns = FOREVER if timeout is None else deadline_of(timeout)
        if not self._send(item):
            operation = self._sending(item)
            if not operation():
                names = "send_sync()", "await send()"
                self._eventually_sync(operation, deadline_ns, timeout, names)

    async def send_many(self, items: Iterable[Buffer], timeout: float | None = None) -> None:
        """Send messages in order, all that have room in one native call, and wait for room for the others.

        Readers may get the first ones while the last ones wait. Cancelled, it has sent some of them.

        :param items: contiguous bytes-like objects of any size.
        :param timeout: seconds that all of them may take together.
        :raises BatchTimeoutError: a TimeoutError; ``sent`` says how many were sent in that time.
        """
        batch = _Batch(self, items)
        try:
            await self._perform(batch.send, timeout)
        except TimeoutError as error:
            raise batch.too_late(error) from None

    def send_many_nowait(self, items: Iterable[Buffer]) -> int:
        """Send messages in order as long as there is room.

        :return: how many were sent.
        :raises WouldBlock: there is no room for the first one just now.
        """
        batch = _Batch(self, items)
        if batch.send() is None and not batch.sent:
            self._ask_after_peer()
            raise WouldBlock
        return batch.sent

    def send_many_sync(self, items: Iterable[Buffer], timeout: float | None = None) -> None:
        """The blocking form of :meth:`send_many`."""
        batch = _Batch(self, items)
        try:
            self._perform_sync(batch.send, timeout, ("send_many_sync()", "await send_many()"))
        except TimeoutError as error:
            raise batch.too_late(error) from None

    async def send_object(
        self, item: Any, timeout: float | None = None, *, codec: Encoder | None = None
    ) -> None:
        """Send an object, pickled or encoded by the codec, for :meth:`BroadcastReader.receive_object`.

        What an object offers as a buffer of its own (PEP 574: a NumPy array, a ``PickleBuffer``) is not
        copied into the pickle but straight to where the message lies. It is copied when there is room, so
        do not change it before this returns.

        :param timeout: seconds to wait for room at most.
        :param codec: instead of that of :meth:`create`.
        :raises TimeoutError: no room in that time; nothing was sent.
        """
        deadline_ns = deadline_of(timeout)
        if spend():
            await pause()
        if operation := self._send_object(item, codec):
            await self._eventually(operation, deadline_ns, timeout)

    def send_object_nowait(self, item: Any, *, codec: Encoder | None = None) -> None:
        """Send an object, if there is room.

        :raises WouldBlock: there is none just now.
        """
        if self._send_object(item, codec):
            self._ask_after_peer()
            raise WouldBlock

    def send_object_sync(
        self, item: Any, timeout: float | None = None, *, codec: Encoder | None = None
    ) -> None:
        """The blocking form of :meth:`send_object`."""
        deadline_ns = deadline_of(timeout)
        if operation := self._send_object(item, codec):
            names = "send_object_sync()", "await send_object()"
            self._eventually_sync(operation, deadline_ns, timeout, names)

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

    # Operations for _perform() and its like: True, or None while there is no room.

    def _sending(self, item: Buffer) -> Callable[[], bool | None]:
        """An item that _send() has not taken."""
        nbytes = memoryview(item).nbytes
        if nbytes > self._ring.max_message:
            return lambda: self._send_large(BYTES, Frame(nbytes, [(0, item)]))
        return lambda: self._send(item) or None

    def _send_object(self, item: Any, codec: Encoder | None) -> Callable[[], bool | None] | None:
        """Send it at once, or return the operation that will."""
        if codec is None:
            codec = self._codec
        else:
            check_codec(codec, "encode")
        form, message = encode(item, codec)
        if isinstance(message, Frame):
            frame = message
        else:
            sent = self._ring.send_as(message, form)
            if sent:
                return None
            if sent is False:
                return lambda: self._ring.send_as(message, form) or None
            frame = Frame(memoryview(message).nbytes, [(0, message)])
        send = self._send_large if frame.nbytes > self._ring.max_message else self._send_frame
        return None if send(form, frame) else lambda: send(form, frame)

    def _send_frame(self, form: int, message: Frame) -> bool | None:
        view = self._ring.claim(message.nbytes)
        if view is None:
            return None
        try:
            with view:
                for offset, part in message.parts:
                    view[offset : offset + len(part)] = part
        except BaseException:
            self._abandon_claim()
            raise
        self._ring.publish(form)
        return True

    def _send_large(self, form: int, message: Frame) -> bool | None:
        draft = self._begin_large(message.nbytes)
        if draft is None:
            return None
        try:
            draft.write(message.parts)
        except BaseException:
            self._abandon_large(draft)
            raise
        self._publish_large(draft, form)
        return True

    def _claim(self, nbytes: int) -> memoryview | None:
        """A view of the message to be, in the ring or in a file of its own."""
        if nbytes <= self._ring.max_message:
            return self._ring.claim(nbytes)
        draft = self._begin_large(nbytes)
        if draft is None:
            return None
        try:
            view = draft.view()
        except BaseException:
            self._abandon_large(draft)
            raise
        self._draft = draft
        return view

    def _publish(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            self._ring.publish()
        else:
            self._publish_large(draft, BYTES)

    def _abandon(self) -> None:
        draft, self._draft = self._draft, None
        if draft is None:
            self._abandon_claim()
        else:
            self._abandon_large(draft)

    def _abandon_claim(self) -> None:
        # It may be closed by now, which drops the claim: not to be told instead of what went wrong before.
        with suppress(ClosedResourceError):
            self._ring.abandon()

    # A large message is claimed in the ring first: nobody else can send while its file is filled in.

    def _begin_large(self, nbytes: int) -> Draft | None:
        if not self._ring.claim_large():
            return None
        try:
            if self._large.make_room(nbytes):
                return self._large.create(nbytes)
        except BaseException:
            self._abandon_claim()
            raise
        self._abandon_claim()
        return None

    def _publish_large(self, draft: Draft, form: int) -> None:
        self._large.publish(draft, form)
        if self._large:
            self._lookout.begin()

    def _abandon_large(self, draft: Draft) -> None:
        self._large.discard(draft)
        self._abandon_claim()

    def _too_late(self, timeout: float | None) -> TimeoutError:
        slowest = self._ring.slowest()
        who = (
            f": it waits for the reader in slot {slowest[0]}, with pid {slowest[1]}, {slowest[2]} bytes behind"
            if slowest
            else ""
        )
        return expired(f"the broadcast {self.name!r} had no room", timeout, who)

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
        with self._while_open():
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
        self._large.sweep()

    def _look_after_large(self) -> bool:
        """In the waiter thread: is there something left to look after?"""
        with self._lock:
            if self._closed:
                return False
            self._check_peer()
            return bool(self._large)

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
        self._large.close()
        self._ring.close()
        # After that: another thread, whose draft it may be, finds that the ring is closed, and no claim without a file.
        draft, self._draft = self._draft, None
        if draft is not None:
            self._large.discard(draft)
        self._check_peer()
        if self._large:
            self._segment.retire()
            # Readers that die before they have read the rest tell nobody, as before.
            closed = self._segment.companion("closed")
            self._lookout.replace(partial(sweep_closed, closed, self.name))
        else:
            self._lookout.end()
            self._segment.unlink()

    def _forget(self) -> None:
        super()._forget()
        self._lookout.forget()
        if self._draft is not None:
            self._draft.close()


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
        writer, timeout = self._writer, self._timeout
        deadline_ns = deadline_of(timeout)
        view = writer._claim(self._nbytes)
        if view is None:
            operation = partial(writer._claim, self._nbytes)
            names = "with acquire_write()", "async with acquire_write()"
            view = writer._eventually_sync(operation, deadline_ns, timeout, names)
        self._view = view
        return view

    async def __aenter__(self) -> memoryview:
        operation = partial(self._writer._claim, self._nbytes)
        self._view = await self._writer._perform(operation, self._timeout)
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
        if kind is not None:
            self._writer._abandon()
            return
        self._writer._publish()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)


class _Batch:
    """The messages of one send_many."""

    def __init__(self, writer: BroadcastWriter, items: Iterable[Buffer]) -> None:
        self._writer = writer
        self._items = list(items)
        self.sent = 0

    def send(self) -> bool | None:
        """Send what has room. True: all are sent; None: not yet."""
        ring, items = self._writer._ring, self._items
        while True:
            self.sent += ring.send_many(items, self.sent)
            if self.sent == len(items):
                return True
            if not self._writer._sending(items[self.sent])():
                return None
            self.sent += 1

    def too_late(self, error: TimeoutError) -> BatchTimeoutError:
        return BatchTimeoutError(f"{error}: {self.sent} of {len(self._items)} were sent", self.sent)


def _integer(name: str, value: Any, low: int, high: int, form: str = "d") -> int:
    """A checked integer argument; the error has it in this form."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be from {low:{form}} to {high:{form}}, not {int(value):{form}}"
        )
    return int(value)
