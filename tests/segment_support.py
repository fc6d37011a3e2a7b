"""Segments made by hand, from docs/layout.md and without the code under test, in whatever state a test wants."""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITER_BYTE: Final = 0x7FFF000000000000
ID: Final = 0x0123456789ABCDEF
HEX: Final = "0123456789abcdef"

# ---- header fields: offset and struct code ----
FIELDS: Final = {
    "magic": (0, "Q"),
    "version": (8, "I"),
    "header_bytes": (12, "I"),
    "total_bytes": (16, "Q"),
    "capacity": (24, "Q"),
    "max_readers": (32, "I"),
    "overflow": (36, "I"),
    "writer_offset": (40, "Q"),
    "readers_offset": (48, "Q"),
    "data_offset": (56, "Q"),
    "byte_order": (64, "I"),
    "line_bytes": (68, "I"),
    "created_ns": (72, "Q"),
    "writer_pid": (80, "I"),
    "id": (88, "Q"),
}
CLOSED: Final = 1
ODD: Final = 2
JOINING: Final = 1
PARKED_ON_BELL: Final = 3


@dataclass
class Slot:
    """An active reader line."""

    cursor: int = 0
    sequence: int = 0
    pid: int = 4242
    state: int = 1
    bell: int = 0
    parked: int = 0


@dataclass
class Forged:
    """What is in a segment."""

    capacity: int = 4096
    max_readers: int = 4
    overflow: int = 0
    head: int = 0  # without flags
    flags: int = 0  # of head, beside ODD
    tail: int = 0
    messages: int = 0
    writable: int = 0
    slots: dict[int, Slot] = field(default_factory=dict)
    header: dict[str, int] = field(default_factory=dict)  # what differs from a healthy one

    def data(self) -> bytearray:
        data_offset = 512 + 128 * self.max_readers
        total = data_offset + self.capacity + 64
        memory = bytearray(total)
        values = {
            "magic": 0x31676E6972707361,
            "version": 2,
            "header_bytes": 96,
            "total_bytes": total,
            "capacity": self.capacity,
            "max_readers": self.max_readers,
            "overflow": self.overflow,
            "writer_offset": 128,
            "readers_offset": 512,
            "data_offset": data_offset,
            "byte_order": 0x01020304,
            "line_bytes": 128,
            "created_ns": 1_700_000_000_000_000_000,
            "writer_pid": 4241,
            "id": ID,
        } | self.header
        for name, value in values.items():
            offset, code = FIELDS[name]
            struct.pack_into("=" + code, memory, offset, value)
        odd = ODD if self.messages % 2 else 0
        struct.pack_into(
            "=QQQ", memory, 128, self.head | self.flags | odd, self.tail, self.messages
        )
        struct.pack_into("=I", memory, 128 + 256, self.writable)
        for slot, line in self.slots.items():
            struct.pack_into(
                "=QIIQII",
                memory,
                512 + 128 * slot,
                *(line.cursor, line.state, line.pid, line.sequence, line.bell, line.parked),
            )
        return memory


def forge(path: Path, **options: Any) -> Path:
    """Make the file of a segment, in which nobody lives."""
    path.write_bytes(Forged(**options).data())
    return path


@contextmanager
def living(path: Path, *slots: int, writer: bool = False) -> Iterator[None]:
    """Hold the locks of members of a segment, as living processes do."""
    bytes_held = [WRITER_BYTE + 1 + slot for slot in slots] + ([WRITER_BYTE] if writer else [])
    fd = os.open(path, os.O_RDWR)
    try:
        for byte in bytes_held:
            request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
        yield
    finally:
        os.close(fd)
