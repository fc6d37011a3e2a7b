"""A reading end of a broadcast ring."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Final, final

from .._errors import (
    BusyResourceError,
    EndOfStream,
    LaggedError,
    LayoutError,
)
from . import _futex
from ._buffer import fence, order
from ._ring import End
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
    Record,
    Segment,
    head_position,
    record_bytes,
    sequence_at,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Tries of a joining reader to load head and sequence while no publish goes on. A healthy writer
# cannot publish in each of them.
JOIN_TRIES: Final = 1000


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
class RingReader(End):
    """A reading end. Pins the buffer until release(); threads and release as RingWriter."""

    _ACTION = "reading from"

    def __init__(self, buffer: Buffer, slot: int, pid: int) -> None:
        super().__init__(buffer)
        self._number = slot
        self._published_ns = 0
        self._holds = False  # a message is acquired
        self._acquired = 0  # bytes of its record, 0 for a private copy
        try:
            if not 0 <= slot < self._segment.max_readers:
                raise ValueError(
                    f"there is no slot {slot}: this ring has {self._segment.max_readers}"
                )
            self._slot = self._segment.slots[slot]
            self._watch = _ReaderWatch(self._segment)
            self._join(pid)
        except BaseException:
            self._segment.release()
            raise
        self._watched_by(self._watch)

    def _join(self, pid: int) -> None:
        """Start at head. Either the writer's next look at the slots sees this one, or the head
        loaded here is one from which on nothing is overwritten: each side has a fence between
        its store and its load. (The proof is beside asp_ring_join.)"""
        segment, slot = self._segment, self._slot
        slot.pid = pid
        slot.cursor = segment.head & ~FLAGS | CURSOR_JOINING
        slot.state = ACTIVE
        fence()  # slot before head; pairs with the fence in RingWriter's limit
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
        return self._number

    @property
    def lag(self) -> int:
        """Messages published and not yet received."""
        if self._turn.released:
            return 0
        return max(self._segment.sequence - self._sequence, 0)

    @property
    def sequence(self) -> int:
        """Number of the next message."""
        return self._sequence

    @property
    def published_ns(self) -> int:
        """When the message last received or acquired was published; 0 before the first."""
        return self._published_ns

    @property
    def writer_pid(self) -> int:
        return self._segment.writer_pid

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
            raise LayoutError(
                f"the sequence at {self._watch.cursor:#x} is {sequence}, should be {self._sequence}"
            )
        self._advance(0, missing)
        self._watch.skipped += missing
        return False

    def _lapped(self) -> bool:
        """What was loaded at cursor before this call cannot be trusted: the writer has gone
        past."""
        order()
        return self._segment.overflow == DROP_OLDEST and self._segment.tail > self._watch.cursor

    def _go_to_tail(self) -> None:
        tail = self._segment.tail
        head = head_position(self._segment.head)
        if tail & FLAGS or not self._watch.cursor < tail <= head:
            raise LayoutError(
                f"tail is {tail:#x}, should be between the cursor, {self._watch.cursor:#x}, and "
                f"head, {head:#x}"
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
                raise LayoutError(
                    f"head is {word:#x}, which cannot be with this cursor, {watch.cursor:#x}"
                )
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

    def _nothing(self, found: _Found) -> None:
        """Raise unless there simply is nothing yet."""
        if found is _Found.END:
            raise EndOfStream
        if found is _Found.LAGGED:
            skipped, self._watch.skipped = self._watch.skipped, 0
            raise LaggedError(skipped)

    def _check_free(self) -> None:
        self._turn.check_free()
        if self._holds:
            raise BusyResourceError("holding an acquired message of")

    def receive(self) -> bytes | None:
        """The next message, copied; None: nothing there yet. EndOfStream, LaggedError,
        LayoutError."""
        with self._turn:
            self._check_free()
            message = self._copy()
            if isinstance(message, bytes):
                return message
            self._nothing(message)
            return None

    def receive_many(self, max_messages: int) -> list[bytes]:
        """What is there, at most max_messages; empty: nothing yet. EndOfStream only when
        nothing is left, LaggedError only as the first of a batch."""
        if max_messages < 0:
            raise ValueError(f"max_messages must be at least 0, not {max_messages}")
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
                        self._nothing(message)
                    break
                batch.append(message)
            return batch

    def acquire(self) -> memoryview | None:
        """The next message as a read-only view (of the ring itself in block mode, of a private
        copy in drop_oldest mode), held until release_message()."""
        with self._turn:
            self._check_free()
            if self._segment.overflow == DROP_OLDEST:
                found: Record | bytes | _Found = self._copy()
            else:
                found = self._find()
            if isinstance(found, _Found):
                self._nothing(found)
                return None
            self._holds = True
            if isinstance(found, bytes):
                return memoryview(found)
            self._acquired = record_bytes(found.length)
            self._published_ns = found.published_ns
            with self._segment.payload(found.position, found.length) as payload:
                return payload.toreadonly()

    def release_message(self) -> None:
        """Go past the acquired message; wakes a parked writer. Does nothing without one."""
        with self._turn:
            acquired, self._acquired, self._holds = self._acquired, 0, False
            if acquired:
                self._advance(acquired, 1)

    def leave(self) -> None:
        """Give up the slot; the writer no longer waits for this reader. Idempotent."""
        with self._turn:
            if not self._turn.ended:
                self._turn.ended = True
                self._acquired, self._holds = 0, False
                self._segment.evict(self._number)
