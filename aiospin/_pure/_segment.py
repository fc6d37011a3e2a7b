"""The bytes of a broadcast segment: csrc/core/ring_layout.h, laid out, checked and accessed.

Geometry is checked once and then kept here: nothing that a peer could change later is used as an
offset or a size unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, final

from .._errors import LayoutError
from .._layout import (
    ACTIVE,
    ALIGN,
    BLOCK,
    BYTE_ORDER,
    CONTROL_BYTES,
    DROP_OLDEST,
    FLAGS,
    FREE,
    HEAD_CLOSED,
    HEAD_ODD,
    HEADER,
    LINE,
    MAGIC,
    MAX_CAPACITY,
    MAX_READERS,
    MIN_CAPACITY,
    SPILL,
    VERSION,
    Header,
    capacity_allowed,
    parse_header,
)
from ._buffer import Pin, fence, load, store
from ._park import EventCount

if TYPE_CHECKING:
    from typing_extensions import Buffer

NOBODY: Final = (1 << 64) - 1  # where the slowest of no readers is

DATA: Final = 1
PAD: Final = 2
LARGE: Final = 3  # the message is in a file of its own; the payload is its length

RECORD_BYTES: Final = 32  # in front of every payload
LARGE_BYTES: Final = 8  # payload of the record of a large message

BYTES: Final = 0  # formats: what a message's bytes are
LAST_FORMAT: Final = 3

BELL_NONE: Final = 0  # where the doorbell of a reader stands
BELL_REQUESTED: Final = 1
BELL_READY: Final = 2
BELL_PARKED: Final = 3
BELL_REFUSED: Final = 4


class Record(NamedTuple):
    position: int
    sequence: int
    published_ns: int
    length: int
    kind: int
    format: int
    nbytes: int
    """Of the message: of a large one those in its file."""


def record_bytes(length: int) -> int:
    """Bytes of a record with this payload."""
    return (RECORD_BYTES + length + ALIGN - 1) & ~(ALIGN - 1)


def _data_offset(max_readers: int) -> int:
    return LINE + CONTROL_BYTES + max_readers * LINE


def ring_bytes(capacity: int, max_readers: int) -> int:
    """Bytes of a segment; ValueError when the geometry is not allowed."""
    if not capacity_allowed(capacity):
        raise ValueError(
            f"capacity is {capacity}, should be a power of two "
            f"from {MIN_CAPACITY} to {MAX_CAPACITY}"
        )
    if not 1 <= max_readers <= MAX_READERS:
        raise ValueError(f"max_readers is {max_readers}, should be 1 to {MAX_READERS}")
    return _data_offset(max_readers) + capacity + SPILL


def _pin(buffer: Buffer) -> Pin:
    pin = Pin(buffer)
    try:
        if pin.readonly:
            raise TypeError("the buffer is read-only: both ends of a ring write to it")
        if pin.address % LINE:
            raise ValueError(
                f"the buffer begins at {pin.address:#x}, a ring begins at a multiple of {LINE}: "
                "use a mapping from its start"
            )
    except BaseException:
        pin.release()
        raise
    return pin


def ring_create(
    buffer: Buffer,
    capacity: int,
    max_readers: int,
    overflow: int,
    pid: int,
    realtime_ns: int,
    id: int,
) -> None:
    """Lay out an empty ring in zeroed memory."""
    total = ring_bytes(capacity, max_readers)
    if overflow not in (BLOCK, DROP_OLDEST):
        raise ValueError(f"overflow is {overflow}, should be 0 (block) or 1 (drop_oldest)")
    if not 0 < id < 1 << 64:
        raise ValueError(f"id is {id}, should be from 1 to 2**64 - 1")
    with _pin(buffer) as memory:
        if memory.nbytes < total:
            raise ValueError(
                f"the buffer is too short: it has {memory.nbytes} bytes, and the ring needs {total}"
            )
        header = Header(
            magic=0,
            version=VERSION,
            header_bytes=HEADER.size,
            total_bytes=total,
            capacity=capacity,
            max_readers=max_readers,
            overflow=overflow,
            writer_offset=LINE,
            readers_offset=LINE + CONTROL_BYTES,
            data_offset=_data_offset(max_readers),
            byte_order=BYTE_ORDER,
            line_bytes=LINE,
            created_ns=realtime_ns,
            writer_pid=pid,
            reserved=0,
            id=id,
        )
        HEADER.pack_into(memory.view, 0, *header)
        # Last: who sees the magic sees the rest.
        store(memory.words(0, 8, 1, "ring"), 0, MAGIC)


def _open(pin: Pin) -> Header:
    if pin.nbytes >= HEADER.size:
        load(pin.words(0, 8, 1, "ring"), 0)  # who sees the magic sees the rest
    # What was copied out cannot be changed by a peer any more.
    return parse_header(pin.view[: HEADER.size].tobytes(), pin.nbytes)


@final
class Slot:
    """A reader's line."""

    __slots__ = (
        "_bell",
        "_cursor",
        "_long",
        "_parked",
        "_pid",
        "_sequence",
        "_short",
        "_state",
    )

    def __init__(self, segment: Segment, offset: int) -> None:
        self._long, self._short = segment.long, segment.short
        self._cursor = offset // 8
        self._state = offset // 4 + 2
        self._pid = offset // 4 + 3
        self._sequence = offset // 8 + 2
        self._bell = offset // 4 + 6
        self._parked = offset // 4 + 7

    @property
    def cursor(self) -> int:
        """With its flags."""
        return load(self._long, self._cursor)

    @cursor.setter
    def cursor(self, word: int) -> None:
        store(self._long, self._cursor, word)

    @property
    def state(self) -> int:
        return load(self._short, self._state)

    @state.setter
    def state(self, state: int) -> None:
        store(self._short, self._state, state)

    @property
    def pid(self) -> int:
        return self._short[self._pid]

    @pid.setter
    def pid(self, pid: int) -> None:
        self._short[self._pid] = pid

    @property
    def sequence(self) -> int:
        return self._long[self._sequence]

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        self._long[self._sequence] = sequence

    @property
    def bell(self) -> int:
        return load(self._short, self._bell)

    @bell.setter
    def bell(self, bell: int) -> None:
        store(self._short, self._bell, bell)

    @property
    def parked(self) -> int:
        return self._short[self._parked]

    @parked.setter
    def parked(self, parked: int) -> None:
        self._short[self._parked] = parked


@final
class Segment:
    """A checked segment, pinned until release()."""

    def __init__(self, buffer: Buffer) -> None:
        pin = _pin(buffer)
        try:
            header = _open(pin)
        except BaseException:
            pin.release()
            raise
        self._pin: Final = pin
        self.capacity: Final = header.capacity
        self.max_readers: Final = header.max_readers
        self.overflow: Final = header.overflow
        self.writer_pid: Final = header.writer_pid
        self.id: Final = header.id
        # The record with its header still has to have a 32-bit length.
        self.max_message: Final = min(header.capacity // 2, (1 << 32) - 64)
        end = header.data_offset + header.capacity + SPILL
        self.view: Final = pin.view
        self.long: Final = pin.words(0, 8, end // 8, "ring")
        self.short: Final = pin.words(0, 4, end // 4, "ring")
        self._half: Final = pin.words(0, 2, end // 2, "ring")
        self._head: Final = header.writer_offset // 8
        self._data: Final = header.data_offset
        self.readable: Final = self._event(header.writer_offset + LINE)
        self.writable: Final = self._event(header.writer_offset + 2 * LINE)
        self.slots: Final = [
            Slot(self, header.readers_offset + slot * LINE) for slot in range(header.max_readers)
        ]

    def _event(self, offset: int) -> EventCount:
        return EventCount(self.short, offset // 4, self._pin.address + offset)

    def release(self) -> None:
        self._pin.release()

    # ---- the writer's line ----

    @property
    def head(self) -> int:
        """With its flags."""
        return load(self.long, self._head)

    @head.setter
    def head(self, word: int) -> None:
        store(self.long, self._head, word)

    @property
    def tail(self) -> int:
        return load(self.long, self._head + 1)

    @tail.setter
    def tail(self, position: int) -> None:
        store(self.long, self._head + 1, position)

    @property
    def sequence(self) -> int:
        return load(self.long, self._head + 2)

    @sequence.setter
    def sequence(self, sequence: int) -> None:
        store(self.long, self._head + 2, sequence)

    # ---- the readers' lines ----

    def active(self) -> Iterator[tuple[int, Slot]]:
        for number, slot in enumerate(self.slots):
            if slot.state == ACTIVE:
                yield number, slot

    def oldest(self) -> int:
        """Where the slowest active reader is, 2**64 - 1 when there is none. What was published before
        it is read. Of two readers that release a message and then ask, one at least sees both
        beyond it."""
        fence()  # own cursor, or tail, before the others
        return min((slot.cursor & ~FLAGS for _, slot in self.active()), default=NOBODY)

    def evict(self, slot: int) -> None:
        """Free a slot and wake the writer that may wait for it."""
        self.slots[slot].state = FREE
        self.writable.notify()

    # ---- records ----

    def room_to_end(self, position: int) -> int:
        """Bytes from a position to the end of the record area."""
        return self.capacity - (position & (self.capacity - 1))

    def payload(self, position: int, length: int) -> memoryview:
        begin = self._data + (position & (self.capacity - 1)) + RECORD_BYTES
        return self.view[begin : begin + length]

    def load_record(self, position: int) -> Record:
        at = self._data + (position & (self.capacity - 1))
        long, half = self.long, self._half
        length, kind = self.short[at // 4 + 6], half[at // 2 + 14]
        return Record(
            position=long[at // 8],
            sequence=long[at // 8 + 1],
            published_ns=long[at // 8 + 2],
            length=length,
            kind=kind,
            format=half[at // 2 + 15],
            # No record is so near to the end of the area that these eight bytes would not lie in it.
            nbytes=long[at // 8 + 4] if kind == LARGE else length,
        )

    def store_record(self, record: Record) -> None:
        """Ordered by the store of head that follows."""
        at = self._data + (record.position & (self.capacity - 1))
        long, half = self.long, self._half
        long[at // 8], long[at // 8 + 1], long[at // 8 + 2] = record[:3]
        self.short[at // 4 + 6] = record.length
        half[at // 2 + 14], half[at // 2 + 15] = record.kind, record.format
        if record.kind == LARGE:
            long[at // 8 + 4] = record.nbytes

    def record_size(self, position: int, end: int, record: Record) -> int:
        """Bytes of the record loaded from ``position``, 0 when it is not one that a healthy
        writer could have published there with head at ``end``."""
        to_end = self.room_to_end(position)
        if record.position != position or record.format > LAST_FORMAT:
            return 0
        if (record.kind == DATA and record.length <= self.max_message) or (
            record.kind == LARGE and record.length == LARGE_BYTES
        ):
            size = record_bytes(record.length)
            fits = size <= to_end + SPILL
        elif record.kind == PAD and record.length == 0 and record.format == 0:
            size = to_end
            fits = size <= self.capacity // 2
        else:
            return 0
        return size if fits and size <= end - position else 0


def sequence_at(head: int, sequence: int) -> int:
    """Messages before this head, given the sequence as loaded while head did not change: the writer
    stores sequence first, so between the two it is one ahead, which the parity tells."""
    return sequence - ((sequence & 1) != (head & HEAD_ODD != 0))


def head_word(position: int, sequence: int) -> int:
    return position | (HEAD_ODD if sequence & 1 else 0)


def head_position(word: int) -> int:
    """LayoutError when no writer stores such a head."""
    if word & FLAGS & ~(HEAD_CLOSED | HEAD_ODD):
        raise LayoutError(f"head is {word:#x}, which has flags that nobody knows")
    return word & ~FLAGS
