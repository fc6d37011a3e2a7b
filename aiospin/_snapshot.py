"""A look at a segment from outside: who is in it and how far they are, for tools.

Whoever looks is no member: it holds no lock and no slot, maps nothing, and needs no more than
permission to read. The areas are read with ``pread``, which sees what is mapped elsewhere, and which
gives a short answer where a mapping of a file that was truncated meanwhile would be a SIGBUS. Nothing
that is read is trusted; docs/layout.md says what is checked.

The reader lines are read first and the writer's line after them, so no cursor is ahead of the head that
it is compared with; and again, as long as something was published between the two and it is not too often.
Where it is, a lag is too large by that.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aiospin import _layout as layout
from aiospin._errors import LayoutError
from aiospin._layout import Header

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRIES: Final = 16  # of two reads, a few microseconds; nobody publishes in most of those, at a million a second too


@dataclass(frozen=True)
class ReaderSnapshot:
    """A slot that is active. Whether its reader lives its lock says, not the slot."""

    slot: int
    pid: int
    joining: bool
    """It has not found its place yet; the rest says nothing about it."""
    parked: Literal["word", "bell"] | None
    """What it sleeps on, as it seems: a futex in the segment, or a FIFO in its event loop's poll."""
    cursor: int
    sequence: int
    """Of the next message that it will release."""
    lag_messages: int
    lag_bytes: int
    """Of the ring: records, with what they are padded by."""


@dataclass(frozen=True)
class Snapshot:
    """A segment at one time."""

    header: Header
    closed: bool
    """By its writer, cleanly."""
    writer_parked: bool
    """The writer seems to sleep until a reader makes room."""
    head: int
    """Bytes that went through the ring."""
    messages: int
    """Messages published."""
    used: int
    """Bytes of the ring that a reader has not released, or ("drop_oldest") that were not overwritten."""
    readers: tuple[ReaderSnapshot, ...]


def read(fd: int) -> Snapshot:
    """A snapshot of a segment's file.

    :raises LayoutError: it is no healthy segment; says why.
    """
    header = read_header(fd)
    control = _read(fd, header.writer_offset, layout.CONTROL_BYTES)
    for _ in range(_TRIES):
        before = control
        readers = _read(fd, header.readers_offset, header.max_readers * layout.LINE)
        control = _read(fd, header.writer_offset, layout.CONTROL_BYTES)
        if control[: layout.WRITER_LINE.size] == before[: layout.WRITER_LINE.size]:
            break
    return parse(header, readers, control)


def read_header(fd: int) -> Header:
    """The header alone."""
    return layout.parse_header(os.pread(fd, layout.HEADER.size, 0), os.fstat(fd).st_size)


def has_magic(fd: int) -> bool:
    """Was it meant to be a segment, healthy or not?"""
    return os.pread(fd, 8, 0) == struct.pack("=Q", layout.MAGIC)


def _read(fd: int, offset: int, nbytes: int) -> bytes:
    data = os.pread(fd, nbytes, offset)
    if len(data) < nbytes:
        end = offset + len(data)
        raise LayoutError(f"the file ends at byte {end}, {offset + nbytes} are needed")
    return data


def parse(header: Header, readers: bytes, control: bytes) -> Snapshot:
    """A snapshot of copies of the reader lines and of the control area, the latter copied later."""
    word, tail, sequence = layout.WRITER_LINE.unpack_from(control)
    head = word & ~layout.FLAGS
    _require(
        not word & layout.FLAGS & ~(layout.HEAD_CLOSED | layout.HEAD_ODD),
        f"head is {word:#x}, with a flag that is unknown",
    )
    # The sequence is stored just before the head, so it may be ahead of it by one.
    odd = bool(word & layout.HEAD_ODD)
    messages = sequence if bool(sequence & 1) == odd else sequence - 1
    _require(
        0 <= messages <= head // layout.ALIGN,
        f"sequence is {sequence}, which does not fit to head, {word:#x}",
    )
    active = tuple(_readers(header, readers, head, messages))
    if header.overflow == layout.DROP_OLDEST:
        oldest = tail
    else:
        oldest = min((reader.cursor for reader in active if not reader.joining), default=head)
    return Snapshot(
        header=header,
        closed=bool(word & layout.HEAD_CLOSED),
        writer_parked=bool(int.from_bytes(control[layout.WRITABLE :][:4], sys.byteorder) & 1),
        head=head,
        messages=messages,
        used=max(0, min(head - oldest, header.capacity)),
        readers=active,
    )


def _readers(header: Header, lines: bytes, head: int, messages: int) -> Iterator[ReaderSnapshot]:
    # What "block" lets a reader be behind: it may have gone on since its line was read.
    most = header.capacity if header.overflow == layout.BLOCK else head
    for slot in range(header.max_readers):
        word, state, pid, sequence, bell, parked = layout.READER_LINE.unpack_from(
            lines, slot * layout.LINE
        )
        if state == layout.FREE:
            continue
        _require(state == layout.ACTIVE, f"reader slot {slot} has state {state}")
        joining = bool(word & layout.CURSOR_JOINING)
        cursor = word & ~layout.FLAGS
        _require(
            not word & layout.FLAGS & ~layout.CURSOR_JOINING,
            f"the cursor of reader slot {slot} is {word:#x}, with a flag that is unknown",
        )
        _require(
            cursor <= head,
            f"the cursor of reader slot {slot} is {cursor}, ahead of head, {head}",
        )
        _require(
            joining or sequence <= messages + 1,  # of a message whose head is not stored yet
            f"the sequence of reader slot {slot} is {sequence}, of {messages} messages",
        )
        yield ReaderSnapshot(
            slot=slot,
            pid=pid,
            joining=joining,
            parked="bell" if bell == layout.BELL_PARKED else "word" if parked else None,
            cursor=cursor,
            sequence=sequence,
            lag_messages=0 if joining else max(min(messages - sequence, most // layout.ALIGN), 0),
            lag_bytes=0 if joining else min(head - cursor, most),
        )


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise LayoutError(otherwise)
