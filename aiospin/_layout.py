"""The layout of a broadcast segment in numbers, and the check of a header: docs/layout.md for Python code.

The same for C is csrc/core/ring_layout.h.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from aiospin._errors import LayoutError

MAGIC: Final = 0x31676E6972707361  # "aspring1" on a little-endian machine
VERSION: Final = 2
LINE: Final = 128  # bytes
ALIGN: Final = 64  # bytes; records begin at multiples of it
SPILL: Final = ALIGN  # bytes that a record may reach past the end of the record area
MIN_CAPACITY: Final = 4096  # bytes
MAX_CAPACITY: Final = 1 << 46  # bytes
MAX_READERS: Final = 1024
BYTE_ORDER: Final = 0x01020304
OTHER_BYTE_ORDER: Final = 0x04030201

BLOCK: Final = 0
DROP_OLDEST: Final = 1

FLAGS: Final = ALIGN - 1  # the bits of a position word that hold no position
HEAD_CLOSED: Final = 1  # in head: the writer closed cleanly
HEAD_ODD: Final = 2  # in head: an odd number of messages lies before it
CURSOR_JOINING: Final = 1  # in cursor: the reader is about to move up to head

FREE: Final = 0  # states of a reader line
ACTIVE: Final = 1

BELL_PARKED: Final = 3  # where the doorbell of a reader stands

# "=" is the order of this machine, without padding.
HEADER: Final = struct.Struct("=Q2I2Q2I3Q2IQ2IQ")
WRITER_LINE: Final = struct.Struct("=3Q")  # head, tail, sequence
READER_LINE: Final = struct.Struct("=Q2IQ2I")  # cursor, state, pid, sequence, bell, parked
CONTROL_BYTES: Final = 3 * LINE
WRITABLE: Final = 2 * LINE  # in the control area: the word that the writer parks on


class Header(NamedTuple):
    """What the creator fixed."""

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
    id: int


def parse_header(data: bytes, nbytes: int) -> Header:
    """Unpack the header of a segment with so many bytes.

    :raises LayoutError: names the first field that is wrong.
    """
    if len(data) < HEADER.size:
        raise LayoutError(f"the segment has {nbytes} bytes, its header alone needs {HEADER.size}")
    header = h = Header(*HEADER.unpack_from(data))
    if h.magic == 0:
        raise LayoutError("magic is 0: the segment is not finished, or none")
    if h.byte_order == OTHER_BYTE_ORDER:
        raise LayoutError("byte_order says that a machine of the other byte order made the segment")
    for name, expected in (
        ("magic", MAGIC),
        ("version", VERSION),
        ("byte_order", BYTE_ORDER),
        ("header_bytes", HEADER.size),
        ("line_bytes", LINE),
    ):
        if getattr(h, name) != expected:
            raise LayoutError(f"{name} is {getattr(h, name):#x}, should be {expected:#x}")
    if not capacity_allowed(h.capacity):
        raise LayoutError(
            f"capacity is {h.capacity}, should be a power of two "
            f"from {MIN_CAPACITY} to {MAX_CAPACITY}"
        )
    if not 1 <= h.max_readers <= MAX_READERS:
        raise LayoutError(f"max_readers is {h.max_readers}, should be 1 to {MAX_READERS}")
    if h.overflow not in (BLOCK, DROP_OLDEST):
        raise LayoutError(f"overflow is {h.overflow}, should be 0 (block) or 1 (drop_oldest)")
    if h.id == 0:
        raise LayoutError("id is 0")
    if h.total_bytes > nbytes:
        raise LayoutError(
            f"total_bytes is {h.total_bytes}, but the segment has only {nbytes}: it was truncated"
        )
    end = HEADER.size
    for name, offset, size in (
        ("writer_offset", h.writer_offset, CONTROL_BYTES),
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
    return header


def capacity_allowed(capacity: int) -> bool:
    return MIN_CAPACITY <= capacity <= MAX_CAPACITY and capacity & (capacity - 1) == 0
