"""The writing end of a broadcast ring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from .._errors import BusyResourceError, EndOfStream, LayoutError
from .._layout import (
    ACTIVE,
    ALIGN,
    CURSOR_JOINING,
    DROP_OLDEST,
    FLAGS,
    FREE,
    HEAD_CLOSED,
    SPILL,
)
from . import _futex
from ._buffer import Pin, fence, order
from ._clock import now_ns
from ._ring import End
from ._segment import (
    BELL_PARKED,
    BELL_REFUSED,
    BELL_REQUESTED,
    BYTES,
    DATA,
    LARGE,
    LARGE_BYTES,
    LAST_FORMAT,
    PAD,
    Record,
    Segment,
    head_position,
    head_word,
    record_bytes,
    sequence_at,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# drop_oldest: tail moves this part of the capacity further than it must, or a lapped reader
# would never catch a record before it is overwritten too.
STRIDE_DIVISOR: Final = 8


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
        for number, slot in enumerate(segment.slots):
            state = slot.state
            if state == FREE:
                continue
            word = slot.cursor
            cursor = word & ~CURSOR_JOINING
            # Only a joining reader can be further back than the capacity: it loaded head, was
            # descheduled, and the writer, not seeing it yet, went on. It moves up in a moment.
            too_far = word == cursor and head - cursor > segment.capacity
            if state != ACTIVE or cursor & FLAGS or cursor > head or too_far:
                raise LayoutError(
                    f"the reader in slot {number} has state {state} and cursor {word:#x} with head "
                    f"at {head:#x}, which no reader stores: evict the slot to go on without it"
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
class RingWriter(End):
    """The writing end. Pins the buffer until release(). One thread at a time: another gets
    BusyResourceError. After release() everything raises ClosedResourceError.

    It refuses the doorbells of readers, who park on the word then: which of two sides has changed
    where a bell stands can only be told by a compare-and-exchange, which Python has not.
    """

    _ACTION = "writing to"

    def __init__(self, buffer: Buffer, bells: str | None = None) -> None:  # noqa: ARG002
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
            raise LayoutError(f"sequence is {sequence}, too many messages for head, {head:#x}")
        if tail & FLAGS or tail > head:
            raise LayoutError(f"tail is {tail:#x}, should be a position before head, {head:#x}")
        if word & HEAD_CLOSED:
            raise EndOfStream  # readers may have left it for good
        lossy = segment.overflow == DROP_OLDEST
        if lossy and head - tail > segment.capacity:
            raise LayoutError(f"tail is {tail:#x}, more than the capacity behind head, {head:#x}")
        segment.sequence = sequence  # a predecessor may have died between sequence and head
        self._sequence = sequence
        self._limit = tail + segment.capacity if lossy else head
        self._watch = _WriterWatch(segment)
        self._watch.head = head
        self._watched_by(self._watch)

    @property
    def max_readers(self) -> int:
        return self._segment.max_readers

    @property
    def head(self) -> int:
        return self._watch.head

    @property
    def sequence(self) -> int:
        """Messages published."""
        return self._sequence

    @property
    def oldest(self) -> int:
        """What lies before it nobody will read any more."""
        segment = self._open()
        lossy = segment.overflow == DROP_OLDEST
        return max(segment.oldest(), self._limit - segment.capacity if lossy else 0)

    def send(self, data: Buffer) -> bool | None:
        """Copy, publish, wake. False: no room just now. None: too large for the ring."""
        return self.send_as(data, BYTES)

    def send_as(self, data: Buffer, format: int) -> bool | None:
        _check_format(format)
        with self._turn:
            sent = self._append(data, format)
            if sent:
                self._wake_readers()
            return sent

    def send_many(self, messages: list[Buffer], first: int) -> int:
        """Send from the list, beginning at that index, until one does not fit. How many were sent."""
        if not isinstance(messages, list):
            raise TypeError(f"messages must be a list, not {type(messages).__name__}")
        for message in messages[first:]:  # before any of them is sent
            memoryview(message).release()
        sent = 0
        with self._turn:
            try:
                for message in messages[first:]:
                    if not self._append(message, BYTES):
                        break
                    sent += 1
            except Exception:
                if not sent:  # the next call begins with it, and says it again
                    raise
            finally:
                if sent:
                    self._wake_readers()
        return sent

    def _append(self, data: Buffer, format: int) -> bool | None:
        with Pin(data) as source:
            if source.nbytes > self._segment.max_message:
                self._check_free()
                return None
            room = self._claim(source.nbytes)
            if room is None:
                return False
            with room:
                room[:] = source.view
            self._commit(DATA, format, source.nbytes)
            return True

    def claim(self, nbytes: int) -> memoryview | None:
        """Room for one message, or None: no room just now. ValueError: can never fit."""
        with self._turn:
            return self._claim(nbytes)

    def _check_free(self) -> None:
        self._turn.check_free()
        if self._claimed:
            raise BusyResourceError("writing a message that is claimed already to")

    def _claim(self, nbytes: int) -> memoryview | None:
        self._check_free()
        segment, watch = self._segment, self._watch
        if nbytes < 0:
            raise ValueError(f"a message has at least 0 bytes, not {nbytes}")
        if nbytes > segment.max_message:
            raise ValueError(
                f"{nbytes} bytes do not fit into the ring, which takes messages of at most "
                f"{segment.max_message}"
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
                    return None
        self._pad, self._claimed, self._nbytes = pad, size, nbytes
        return segment.payload(watch.head + pad, nbytes)

    def _drop_oldest(self, nbytes: int) -> None:
        """Move tail so far that ``nbytes`` more fit."""
        capacity = self._segment.capacity
        keep = max(capacity - nbytes - capacity // STRIDE_DIVISOR, 0)
        self._drop_before(self._watch.head - keep)

    def _drop_before(self, position: int) -> None:
        """Move tail to the first record that does not begin before that. The records that go are the
        writer's own, but a peer could have changed them since; their sizes are checked like a
        stranger's."""
        segment, head = self._segment, self._watch.head
        tail = self._limit - segment.capacity
        while tail < position:
            size = segment.record_size(tail, head, segment.load_record(tail))
            if not size:
                raise LayoutError(f"what lies at {tail:#x} is no record: somebody overwrote it")
            tail += size
        # Announce, then overwrite: a reader whose copy has one byte of what is stored from here on
        # finds this tail.
        segment.tail = tail
        order()
        self._limit = tail + segment.capacity

    def publish(self, format: int = BYTES) -> None:
        """Publish the claimed message and wake parked readers."""
        _check_format(format)
        with self._turn:
            self._turn.check_open()
            if not self._claimed:
                raise ValueError("no message is claimed: claim one and fill it before publish")
            self._commit(DATA, format, self._nbytes)
            self._wake_readers()

    def claim_large(self) -> bool:
        """Room for the record of a large message, or False: no room just now."""
        with self._turn:
            room = self._claim(LARGE_BYTES)
            if room is None:
                return False
            room.release()
            return True

    def publish_large(self, length: int, format: int) -> None:
        """Publish that the file of the message is complete."""
        _check_format(format)
        with self._turn:
            self._turn.check_open()
            if not self._claimed or self._nbytes != LARGE_BYTES:
                raise ValueError("no large message is claimed: claim one before publish")
            self._commit(LARGE, format, length)
            self._wake_readers()

    def want_past(self, position: int) -> None:
        """Have the wait last until no reader is before that."""
        with self._turn:
            # room for so much there is when the slowest cursor is there
            self._watch.wanted = position + self._segment.capacity - self._watch.head

    def drop_before(self, position: int) -> None:
        """drop_oldest: drop what lies before that position, one that was head once."""
        with self._turn:
            if self._segment.overflow != DROP_OLDEST or position > self._watch.head:
                raise ValueError(
                    "only before a position that was head once, and in drop_oldest mode"
                )
            self._drop_before(position)

    def _commit(self, kind: int, format: int, nbytes: int) -> None:
        segment, now = self._segment, now_ns()
        head = self._watch.head
        if self._pad:
            segment.store_record(Record(head, self._sequence, now, 0, PAD, 0, 0))
            head += self._pad
        segment.store_record(Record(head, self._sequence, now, self._nbytes, kind, format, nbytes))
        self._watch.head = head + self._claimed
        self._sequence += 1
        self._pad = self._claimed = 0
        segment.sequence = self._sequence  # before head: see sequence_at
        segment.head = head_word(self._watch.head, self._sequence)

    def _wake_readers(self) -> None:
        segment = self._segment
        if segment.readable.notify():
            for _, slot in segment.active():
                if slot.bell in (BELL_REQUESTED, BELL_PARKED):
                    slot.bell = BELL_REFUSED

    def abandon(self) -> None:
        """Drop the claim; nothing was published."""
        with self._turn:
            self._pad = self._claimed = 0

    def active_readers(self) -> int:
        """Readers that will see every message published from now on."""
        return sum(not slot.cursor & CURSOR_JOINING for _, slot in self._open().active())

    def slowest(self) -> tuple[int, int, int] | None:
        """(slot, pid, lag in bytes) of the slowest active reader."""
        head = self._watch.head
        lags = (
            (head - (slot.cursor & ~FLAGS), number, slot.pid)
            for number, slot in self._open().active()
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
        with self._turn.at_last():
            if not self._turn.ended:
                self._turn.ended = True
                self._pad = self._claimed = 0
                # A signal handler may have raised in the middle of the last publish, between the two below.
                self._segment.sequence = self._sequence
                self._segment.head = head_word(self._watch.head, self._sequence) | HEAD_CLOSED
                self._wake_readers()


def _check_format(number: int) -> None:
    if not 0 <= number <= LAST_FORMAT:
        raise ValueError(f"there is no format {number}")
