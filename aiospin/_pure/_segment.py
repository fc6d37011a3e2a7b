"""The bytes of a broadcast segment: csrc/core/ring_layout.h, laid out, checked and accessed.

Geometry is checked once and then kept here: nothing that a peer could change later is used as an
offset or a size unchecked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, final

from .._errors import LayoutError
from ._buffer import Pin, load, store
from ._park import EventCount

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC: Final = 0x31676E6972707361  # "aspring1" on a little-endian machine
VERSION: Final = 1
LINE: Final = 128  # bytes
ALIGN: Final = 64  # bytes; records begin at multiples of it
SPILL: Final = ALIGN  # bytes that a record may reach past the end of the record area
MIN_CAPACITY: Final = 4096
MAX_CAPACITY: Final = 1 << 46
MAX_READERS: Final = 1024
BYTE_ORDER: Final = 0x01020304
OTHER_BYTE_ORDER: Final = 0x04030201

BLOCK: Final = 0
DROP_OLDEST: Final = 1

FLAGS: Final = ALIGN - 1  # the bits of a position word that hold no position
HEAD_CLOSED: Final = 1  # in head: the writer closed cleanly
HEAD_ODD: Final = 2  # in head: an odd number of messages lies before it
CURSOR_JOINING: Final = 1  # in cursor: the reader is about to move up to head

FREE: Final = 0
ACTIVE: Final = 1

DATA: Final = 1
PAD: Final = 2

# magic, version, header_bytes, total_bytes, capacity, max_readers, overflow, writer_offset,
# readers_offset, data_offset, byte_order, line_bytes, created_ns, writer_pid, reserved
_HEADER: Final = struct.Struct("=Q2I2Q2I3Q2IQ2I")
_CONTROL_BYTES: Final = 3 * LINE
RECORD_BYTES: Final = 32


class Header(NamedTuple):
    magic: int
    version: int
    header_bytes: int
    total_bytes: int
    capacity: int
    max_readers: int
    overflow: int
    writer_offset: int
    readers_offset: int
    data_offset: int
    byte_order: int
    line_bytes: int
    created_ns: int
    writer_pid: int
    reserved: int


class Record(NamedTuple):
    position: int
    sequence: int
    published_ns: int
    length: int
    kind: int


def record_bytes(length: int) -> int:
    """Bytes of a record with this payload."""
    return (RECORD_BYTES + length + ALIGN - 1) & ~(ALIGN - 1)


def _capacity_allowed(capacity: int) -> bool:
    return MIN_CAPACITY <= capacity <= MAX_CAPACITY and capacity & (capacity - 1) == 0


def _data_offset(max_readers: int) -> int:
    return LINE + _CONTROL_BYTES + max_readers * LINE


def ring_bytes(capacity: int, max_readers: int) -> int:
    """Bytes of a segment; ValueError when the geometry is not allowed."""
    if not _capacity_allowed(capacity):
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
    buffer: Buffer, capacity: int, max_readers: int, overflow: int, pid: int, realtime_ns: int
) -> None:
    """Lay out an empty ring in zeroed memory."""
    total = ring_bytes(capacity, max_readers)
    if overflow not in (BLOCK, DROP_OLDEST):
        raise ValueError(f"overflow is {overflow}, should be 0 (block) or 1 (drop_oldest)")
    with _pin(buffer) as memory:
        if memory.nbytes < total:
            raise ValueError(
                f"the buffer is too short: it has {memory.nbytes} bytes, and the ring needs {total}"
            )
        header = Header(
            magic=0,
            version=VERSION,
            header_bytes=_HEADER.size,
            total_bytes=total,
            capacity=capacity,
            max_readers=max_readers,
            overflow=overflow,
            writer_offset=LINE,
            readers_offset=LINE + _CONTROL_BYTES,
            data_offset=_data_offset(max_readers),
            byte_order=BYTE_ORDER,
            line_bytes=LINE,
            created_ns=realtime_ns,
            writer_pid=pid,
            reserved=0,
        )
        _HEADER.pack_into(memory.view, 0, *header)
        # Last: who sees the magic sees the rest.
        store(memory.words(0, 8, 1, "ring"), 0, MAGIC)


def _check(header: Header, nbytes: int) -> None:
    """LayoutError that names the first field that is wrong."""
    h = header
    if h.magic == 0:
        raise LayoutError("magic is 0: the segment is not finished, or none")
    if h.byte_order == OTHER_BYTE_ORDER:
        raise LayoutError("byte_order says that a machine of the other byte order made the segment")
    for name, expected in (
        ("magic", MAGIC),
        ("version", VERSION),
        ("byte_order", BYTE_ORDER),
        ("header_bytes", _HEADER.size),
        ("line_bytes", LINE),
    ):
        if getattr(h, name) != expected:
            raise LayoutError(f"{name} is {getattr(h, name):#x}, should be {expected:#x}")
    if not _capacity_allowed(h.capacity):
        raise LayoutError(
            f"capacity is {h.capacity}, should be a power of two "
            f"from {MIN_CAPACITY} to {MAX_CAPACITY}"
        )
    if not 1 <= h.max_readers <= MAX_READERS:
        raise LayoutError(f"max_readers is {h.max_readers}, should be 1 to {MAX_READERS}")
    if h.overflow not in (BLOCK, DROP_OLDEST):
        raise LayoutError(f"overflow is {h.overflow}, should be 0 (block) or 1 (drop_oldest)")
    if h.total_bytes > nbytes:
        raise LayoutError(
            f"total_bytes is {h.total_bytes}, but the segment has only {nbytes}: it was truncated"
        )
    end = _HEADER.size
    for name, offset, size in (
        ("writer_offset", h.writer_offset, _CONTROL_BYTES),
        ("readers_offset", h.readers_offset, h.max_readers * LINE),
        ("data_offset", h.data_offset, h.capacity + SPILL),
    ):
        if offset % LINE:
            raise LayoutError(f"{name} is {offset}, should be a multiple of {LINE}")
        if offset < end:
            raise LayoutError(f"{name} is {offset}, but what lies before it ends at {end}")
        end = offset + size
        if end > h.total_bytes:
            raise LayoutError(
                f"{name} is {offset}, and {size} bytes from there do not fit into total_bytes, "
                f"{h.total_bytes}"
            )


def _open(pin: Pin) -> Header:
    if pin.nbytes < _HEADER.size:
        raise LayoutError(
            f"the segment has {pin.nbytes} bytes, its header alone needs {_HEADER.size}"
        )
    # Who sees the magic sees the rest; and what was unpacked cannot be changed by a peer any more.
    load(pin.words(0, 8, 1, "ring"), 0)
    header = Header(*_HEADER.unpack_from(pin.view))
    _check(header, pin.nbytes)
    return header


@final
class Slot:
    """A reader's line."""

    __slots__ = ("_cursor", "_long", "_pid", "_sequence", "_short", "_state")

    def __init__(self, segment: Segment, offset: int) -> None:
        self._long, self._short = segment.long, segment.short
        self._cursor = offset // 8
        self._state = offset // 4 + 2
        self._pid = offset // 4 + 3
        self._sequence = offset // 8 + 2

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
        # The record with its header still has to have a 32-bit length.
        self.max_message: Final = min(header.capacity // 2, (1 << 32) - 64)
        end = header.data_offset + header.capacity + SPILL
        self.view: Final = pin.view
        self.long: Final = pin.words(0, 8, end // 8, "ring")
        self.short: Final = pin.words(0, 4, end // 4, "ring")
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
        long, short = self.long, self.short
        return Record(
            position=long[at // 8],
            sequence=long[at // 8 + 1],
            published_ns=long[at // 8 + 2],
            length=short[at // 4 + 6],
            kind=short[at // 4 + 7],
        )

    def store_record(self, record: Record) -> None:
        """Ordered by the store of head that follows."""
        at = self._data + (record.position & (self.capacity - 1))
        long, short = self.long, self.short
        long[at // 8], long[at // 8 + 1], long[at // 8 + 2] = record[:3]
        short[at // 4 + 6], short[at // 4 + 7] = record[3:]

    def record_size(self, position: int, end: int, record: Record) -> int:
        """Bytes of the record loaded from ``position``, 0 when it is not one that a healthy
        writer could have published there with head at ``end``."""
        to_end = self.room_to_end(position)
        if record.position != position:
            return 0
        if record.kind == DATA and record.length <= self.max_message:
            size = record_bytes(record.length)
            fits = size <= to_end + SPILL
        elif record.kind == PAD and record.length == 0:
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
