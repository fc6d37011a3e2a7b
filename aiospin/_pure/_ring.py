"""The broadcast ring: one writer, many readers. The same protocol as csrc/core/ring.c, word for word.

Four orderings carry everything: the record before head, the last look at a record before cursor,
a joining slot before the load of head (with a fence, as the writer has one between its head and its look
at the slots), and in drop_oldest mode tail before the overwriting, the copy before the check of tail.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final, final

from .._errors import (
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    LaggedError,
    LayoutError,
)
from . import _futex
from ._buffer import Pin, fence, order
from ._clock import now_ns
from ._segment import (
    ACTIVE,
    ALIGN,
    BLOCK,
    CURSOR_JOINING,
    DATA,
    DROP_OLDEST,
    FLAGS,
    HEAD_CLOSED,
    HEAD_ODD,
    PAD,
    SPILL,
    Record,
    Segment,
    head_position,
    head_word,
    record_bytes,
    sequence_at,
)
from ._wait import Wait

if TYPE_CHECKING:
    from typing_extensions import Buffer

# drop_oldest: tail moves this part of the capacity further than it must, or a lapped reader
# would never catch a record before it is overwritten too.
STRIDE_DIVISOR: Final = 8

# Tries of a joining reader to load head and sequence while no publish goes on. A healthy writer
# cannot publish in each of them.
JOIN_TRIES: Final = 1000


class _Turn:
    """One thread at a time, and nobody after release: for all that changes an end of a ring."""

    __slots__ = ("_action", "_lock", "ended", "released", "suspended")

    def __init__(self, action: str) -> None:
        self._action = action
        self._lock = threading.Lock()
        self.suspended = False  # one caller waits
        self.ended = False  # closed or left
        self.released = False

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyResourceError(self._action)
        if self.released:
            self._lock.release()
            raise ClosedResourceError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def check_free(self) -> None:
        if self.ended:
            raise ClosedResourceError
        if self.suspended:
            raise BusyResourceError(self._action)


class _End:
    """What both ends share."""

    _ACTION: str

    def __init__(self, buffer: Buffer) -> None:
        self._segment = Segment(buffer)
        self._turn = _Turn(self._ACTION)
        self._held: memoryview | None = None  # the message claimed or acquired

    def _open(self) -> Segment:
        if self._turn.released:
            raise ClosedResourceError
        return self._segment

    @property
    def capacity(self) -> int:
        return self._open().capacity

    @property
    def max_message(self) -> int:
        return self._open().max_message

    @property
    def overflow(self) -> int:
        return self._open().overflow

    @property
    def wait(self) -> Wait:
        self._open()
        return self._wait

    def _watched_by(self, watch: _WriterWatch | _ReaderWatch) -> None:
        self._wait = Wait.over(watch)

    def _let_go(self) -> None:
        """End the view that the caller has. BufferError, with all else done, while something else (a
        NumPy array, say) is still made from it: that would see what comes there next."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def suspend(self) -> None:
        """Claim the wait for one caller; BusyResourceError if another has it, also from what sends or
        receives until resume()."""
        with self._turn:
            self._turn.check_free()
            self._turn.suspended = True

    def resume(self) -> None:
        self._turn.suspended = False

    def release(self) -> None:
        """Unpin the buffer. Idempotent."""
        if self._turn.released:
            return
        with self._turn:
            self._wait.release()
            self._turn.released = True
            try:
                self._let_go()
            finally:
                self._segment.release()


class _WriterWatch:
    """Ready when the claim that last would have blocked may succeed."""

    notified = True
    value = None

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.head = 0
        self.wanted = 0

    def limit(self) -> int:
        """How far the readers let the writer go. LayoutError names the slot that makes no sense."""
        segment, head = self._segment, self.head
        oldest = head
        fence()  # head before slots; pairs with the fence in RingReader._join
        for number, slot in segment.active():
            word = slot.cursor
            cursor = word & ~CURSOR_JOINING
            # Only a joining reader can be further back than the capacity: it loaded head, was
            # descheduled, and the writer, not seeing it yet, went on. It moves up in a moment.
            too_far = word == cursor and head - cursor > segment.capacity
            if cursor & FLAGS or cursor > head or too_far:
                raise LayoutError(
                    f"the cursor of the reader in slot {number} is {word:#x} with head at {head:#x}: no reader "
                    "stores that; evict the slot to go on without it"
                )
            oldest = min(oldest, cursor)
        return oldest + segment.capacity

    def look(self) -> bool:
        if self._segment.overflow == DROP_OLDEST:
            return True
        try:
            return self.head + self.wanted <= self.limit()
        except LayoutError:
            return True  # the claim says what is wrong

    def prepare(self) -> Sequence[_futex.Word]:
        return self._segment.writable.prepare()

    def release(self) -> None:
        """The ring's end releases the segment."""


@final
class RingWriter(_End):
    """The writing end. Pins the buffer until release(). One thread at a time: another gets
    BusyResourceError. After release() everything raises ClosedResourceError."""

    _ACTION = "writing to"

    def __init__(self, buffer: Buffer) -> None:
        super().__init__(buffer)
        try:
            self._take_over()
        except BaseException:
            self._segment.release()
            raise
        self._pad = 0  # bytes of the pad in front of the claimed record
        self._claimed = 0  # bytes of the claimed record, 0 when none
        self._nbytes = 0  # of its payload

    def _take_over(self) -> None:
        segment = self._segment
        word, tail = segment.head, segment.tail
        head = head_position(word)
        sequence = sequence_at(word, segment.sequence)
        if sequence > head // ALIGN:
            raise LayoutError(f"sequence is {sequence}, more messages than fit before head, {head:#x}")
        if tail & FLAGS or tail > head:
            raise LayoutError(f"tail is {tail:#x}, should be a position before head, {head:#x}")
        if word & HEAD_CLOSED:
            raise LayoutError("head says that the writer closed the ring: readers may have left it for good")
        lossy = segment.overflow == DROP_OLDEST
        if lossy and head - tail > segment.capacity:
            raise LayoutError(f"tail is {tail:#x}, further than the capacity behind head, {head:#x}")
        segment.sequence = sequence  # a predecessor may have died between sequence and head
        self._sequence = sequence
        self._limit = tail + segment.capacity if lossy else head
        self._watch = _WriterWatch(segment)
        self._watch.head = head
        self._watched_by(self._watch)

    @property
    def max_readers(self) -> int:
        return self._open().max_readers

    @property
    def head(self) -> int:
        self._open()
        return self._watch.head

    @property
    def sequence(self) -> int:
        """Messages published."""
        self._open()
        return self._sequence

    def send(self, data: Buffer) -> bool:
        """Copy, publish, wake. False: no room just now. ValueError: can never fit."""
        with self._turn, Pin(data) as source:
            if not self._claim(source.nbytes):
                return False
            assert self._held is not None
            self._held[:] = source.view
            self._publish()
            return True

    def claim(self, nbytes: int) -> memoryview | None:
        """Room for one message, or None: no room just now. ValueError: can never fit."""
        with self._turn:
            return self._held if self._claim(nbytes) else None

    def _claim(self, nbytes: int) -> bool:
        self._turn.check_free()
        if self._claimed:
            raise BusyResourceError("writing a message that is claimed already to")
        segment, watch = self._segment, self._watch
        if nbytes < 0:
            raise ValueError(f"a message has at least 0 bytes, not {nbytes}")
        if nbytes > segment.max_message:
            raise ValueError(
                f"the message has {nbytes} bytes, this ring takes at most {segment.max_message} at once"
            )
        size = record_bytes(nbytes)
        to_end = segment.room_to_end(watch.head)
        pad = 0 if size <= to_end + SPILL else to_end
        if watch.head + pad + size > self._limit:
            if segment.overflow == DROP_OLDEST:
                self._drop_oldest(pad + size)
            else:
                self._limit = watch.limit()
                if watch.head + pad + size > self._limit:
                    watch.wanted = pad + size
                    return False
        self._pad, self._claimed, self._nbytes = pad, size, nbytes
        self._held = segment.payload(watch.head + pad, nbytes)
        return True

    def _drop_oldest(self, nbytes: int) -> None:
        """Move tail so far that ``nbytes`` more fit. The records that go are the writer's own, but a peer
        could have changed them since; their sizes are checked like a stranger's."""
        segment, head = self._segment, self._watch.head
        keep = max(segment.capacity - nbytes - segment.capacity // STRIDE_DIVISOR, 0)
        tail = self._limit - segment.capacity
        while head - tail > keep:
            size = segment.record_size(tail, head, segment.load_record(tail))
            if not size:
                raise LayoutError(f"what lies at {tail:#x} is no record any more: somebody overwrote it")
            tail += size
        # Announce, then overwrite: a reader whose copy has one byte of what is stored from here on
        # finds this tail.
        segment.tail = tail
        order()
        self._limit = tail + segment.capacity

    def publish(self) -> None:
        """Publish the claimed message and wake parked readers."""
        with self._turn:
            if not self._claimed:
                raise RuntimeError("no message is claimed: claim one and fill it before publish")
            self._publish()

    def _publish(self) -> None:
        segment, now = self._segment, now_ns()
        head = self._watch.head
        if self._pad:
            segment.store_record(Record(head, self._sequence, now, 0, PAD))
            head += self._pad
        segment.store_record(Record(head, self._sequence, now, self._nbytes, DATA))
        self._watch.head = head + self._claimed
        self._sequence += 1
        self._pad = self._claimed = 0
        segment.sequence = self._sequence  # before head: see sequence_at
        segment.head = head_word(self._watch.head, self._sequence)
        segment.readable.notify()
        self._let_go()

    def abandon(self) -> None:
        """Drop the claim; nothing was published."""
        with self._turn:
            self._pad = self._claimed = 0
            self._let_go()

    def active_readers(self) -> int:
        """Readers that will see every message published from now on."""
        return sum(not slot.cursor & CURSOR_JOINING for _, slot in self._open().active())

    def slowest(self) -> tuple[int, int, int] | None:
        """(slot, pid, lag in bytes) of the slowest active reader."""
        head = self._watch.head
        lags = (
            (head - (slot.cursor & ~FLAGS), number, slot.pid) for number, slot in self._open().active()
        )
        lag, number, pid = max(lags, default=(0, -1, 0), key=lambda reader: reader[0])
        return None if number < 0 else (number, pid, max(lag, 0))

    def readers(self) -> list[tuple[int, int, int]]:
        """(slot, pid, lag in messages) of every active reader."""
        return [
            (number, slot.pid, max(self._sequence - slot.sequence, 0))
            for number, slot in self._open().active()
        ]

    def evict(self, slot: int) -> None:
        """Free the slot of a reader that is known to be dead."""
        segment = self._open()
        if not 0 <= slot < segment.max_readers:
            raise ValueError(f"there is no slot {slot}: this ring has {segment.max_readers}")
        segment.evict(slot)

    def close(self) -> None:
        """Publish the end of the stream. Idempotent; drops an open claim."""
        with self._turn:
            if not self._turn.ended:
                self._turn.ended = True
                self._pad = self._claimed = 0
                self._segment.head = head_word(self._watch.head, self._sequence) | HEAD_CLOSED
                self._segment.readable.notify()
                self._let_go()


class _ReaderWatch:
    """Ready when receive or acquire would not return None."""

    notified = True
    value = None

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self.cursor = 0  # everything before it is released
        self.skipped = 0  # messages known to be lost, and not told yet

    def look(self) -> bool:
        # A head that is not where the cursor is means a message, the end, or a broken segment,
        # which the next call will say.
        return self.skipped > 0 or self._segment.head & ~HEAD_ODD != self.cursor

    def prepare(self) -> Sequence[_futex.Word]:
        return self._segment.readable.prepare()

    def release(self) -> None:
        """The ring's end releases the segment."""


class _Found(Enum):
    NOTHING = "nothing there yet"
    END = "the writer closed and everything was read"
    LAGGED = "messages are lost"


@final
class RingReader(_End):
    """A reading end. Pins the buffer until release(); threads and release as RingWriter."""

    _ACTION = "reading from"

    def __init__(self, buffer: Buffer, slot: int, pid: int) -> None:
        super().__init__(buffer)
        self._number = slot
        self._published_ns = 0
        self._acquired = 0  # bytes of the acquired record, 0 when none
        try:
            if not 0 <= slot < self._segment.max_readers:
                raise ValueError(f"there is no slot {slot}: this ring has {self._segment.max_readers}")
            self._slot = self._segment.slots[slot]
            self._watch = _ReaderWatch(self._segment)
            self._join(pid)
        except BaseException:
            self._segment.release()
            raise
        self._watched_by(self._watch)

    def _join(self, pid: int) -> None:
        """Start at head. Either the writer's next look at the slots sees this one, or the head loaded
        here is one from which on nothing is overwritten: each side has a fence between its store and its
        load. (The proof is beside asp_ring_join.)"""
        segment, slot = self._segment, self._slot
        slot.pid = pid
        slot.cursor = segment.head & ~FLAGS | CURSOR_JOINING
        slot.state = ACTIVE
        fence()  # slot before head; pairs with the fence in _WriterWatch.limit
        try:
            head, self._sequence = self._settled_head()
        except LayoutError:
            segment.evict(self._number)
            raise
        self._watch.cursor = head
        slot.sequence = self._sequence
        slot.cursor = head
        segment.writable.notify()

    def _settled_head(self) -> tuple[int, int]:
        """A head and the number of messages before it."""
        segment = self._segment
        word = segment.head
        for _ in range(JOIN_TRIES):
            seen = segment.sequence
            again = segment.head
            if again == word:
                head, sequence = head_position(word), sequence_at(word, seen)
                if not 0 <= sequence <= head // ALIGN:
                    raise LayoutError(f"sequence is {seen}, which cannot be with head at {word:#x}")
                return head, sequence
            word = again
        raise LayoutError("head does not keep still: no writer publishes that fast")

    @property
    def slot(self) -> int:
        self._open()
        return self._number

    @property
    def lag(self) -> int:
        """Messages published and not yet received."""
        return max(self._open().sequence - self._sequence, 0)

    @property
    def sequence(self) -> int:
        """Number of the next message."""
        self._open()
        return self._sequence

    @property
    def published_ns(self) -> int:
        """When the message last received or acquired was published; 0 before the first."""
        self._open()
        return self._published_ns

    @property
    def writer_pid(self) -> int:
        return self._open().writer_pid

    def _advance(self, nbytes: int, messages: int) -> None:
        """Go past bytes that hold so many messages."""
        self._watch.cursor += nbytes
        self._sequence += messages
        self._slot.sequence = self._sequence
        self._slot.cursor = self._watch.cursor
        if self._segment.overflow == BLOCK:  # nobody waits for room in the other mode
            self._segment.writable.notify()

    def _settle(self, sequence: int) -> bool:
        """What lies at cursor has this sequence. False: messages in between are lost."""
        missing = sequence - self._sequence
        if missing == 0:
            return True
        # A message takes at least one unit of alignment, so there cannot be more of them.
        lossy = self._segment.overflow == DROP_OLDEST
        if not lossy or missing < 0 or sequence > self._watch.cursor // ALIGN:
            raise LayoutError(f"the sequence at {self._watch.cursor:#x} is {sequence}, should be {self._sequence}")
        self._advance(0, missing)
        self._watch.skipped += missing
        return False

    def _lapped(self) -> bool:
        """What was loaded at cursor before this call cannot be trusted: the writer has gone past."""
        order()
        return self._segment.overflow == DROP_OLDEST and self._segment.tail > self._watch.cursor

    def _go_to_tail(self) -> None:
        tail = self._segment.tail
        head = head_position(self._segment.head)
        if tail & FLAGS or not self._watch.cursor < tail <= head:
            raise LayoutError(
                f"tail is {tail:#x}, should be a position from {self._watch.cursor:#x} to head, {head:#x}"
            )
        self._advance(tail - self._watch.cursor, 0)  # the next record will tell how many messages

    def _find(self) -> Record | _Found:
        """The next message's record, checked; in drop_oldest mode it was whole a moment ago."""
        segment, watch = self._segment, self._watch
        while not watch.skipped:
            word = segment.head
            head = head_position(word)
            behind = head - watch.cursor
            if behind < 0 or (segment.overflow == BLOCK and behind > segment.capacity):
                raise LayoutError(f"head is {word:#x}, which cannot be with this cursor, {watch.cursor:#x}")
            if behind == 0:
                if not word & HEAD_CLOSED:
                    return _Found.NOTHING
                if self._settle(segment.sequence):
                    return _Found.END
                continue
            record = segment.load_record(watch.cursor)
            if self._lapped():
                self._go_to_tail()
                continue
            size = segment.record_size(watch.cursor, head, record)
            if not size:
                raise LayoutError(f"what lies at {watch.cursor:#x} is no record: {record}")
            if not self._settle(record.sequence):
                continue
            if record.kind == DATA:
                return record
            self._advance(size, 0)
        return _Found.LAGGED

    def _copy(self) -> bytes | _Found:
        """The next message, copied; a torn copy is thrown away. The reader goes past it."""
        while True:
            found = self._find()
            if isinstance(found, _Found):
                return found
            with self._segment.payload(found.position, found.length) as payload:
                message = payload.tobytes()
            if not self._lapped():
                self._published_ns = found.published_ns
                self._advance(record_bytes(found.length), 1)
                return message
            self._go_to_tail()

    def _none_or_raise(self, found: _Found) -> None:
        if found is _Found.END:
            raise EndOfStream
        if found is _Found.LAGGED:
            skipped, self._watch.skipped = self._watch.skipped, 0
            raise LaggedError(skipped)

    def _check_free(self) -> None:
        self._turn.check_free()
        if self._held is not None:
            raise BusyResourceError("holding an acquired message of")

    def receive(self) -> bytes | None:
        """The next message, copied; None: nothing there yet. EndOfStream, LaggedError, LayoutError."""
        with self._turn:
            self._check_free()
            message = self._copy()
            return message if isinstance(message, bytes) else self._none_or_raise(message)

    def receive_many(self, max_messages: int) -> list[bytes]:
        """What is there, at most max_messages; empty: nothing yet. EndOfStream only when nothing is left,
        LaggedError only as the first of a batch."""
        if max_messages < 1:
            raise ValueError(f"max_messages must be at least 1, not {max_messages}")
        with self._turn:
            self._check_free()
            batch: list[bytes] = []
            while len(batch) < max_messages:
                try:
                    message = self._copy()
                except LayoutError:
                    if batch:  # it will be found again by the next call
                        break
                    raise
                if isinstance(message, _Found):
                    if not batch:
                        self._none_or_raise(message)
                    break
                batch.append(message)
            return batch

    def acquire(self) -> memoryview | None:
        """The next message as a read-only view (of the ring itself in block mode, of a private
        copy in drop_oldest mode), held until release_message()."""
        with self._turn:
            self._check_free()
            if self._segment.overflow == DROP_OLDEST:
                message = self._copy()
                if isinstance(message, _Found):
                    return self._none_or_raise(message)
                self._held = memoryview(message)
                return self._held
            found = self._find()
            if isinstance(found, _Found):
                return self._none_or_raise(found)
            self._acquired = record_bytes(found.length)
            self._published_ns = found.published_ns
            with self._segment.payload(found.position, found.length) as payload:
                self._held = payload.toreadonly()
            return self._held

    def release_message(self) -> None:
        """Go past the acquired message; wakes a parked writer. The view ends."""
        with self._turn:
            self._release_message()

    def _release_message(self) -> None:
        acquired, self._acquired = self._acquired, 0
        if acquired and not self._turn.ended:
            self._advance(acquired, 1)
        self._let_go()

    def leave(self) -> None:
        """Give up the slot; the writer no longer waits for this reader. Idempotent."""
        with self._turn:
            if not self._turn.ended:
                self._turn.ended = True
                self._acquired = 0
                self._segment.evict(self._number)
                self._let_go()
