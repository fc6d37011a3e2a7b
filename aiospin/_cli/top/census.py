"""What broadcasts there are at one time, and the rates since the time before.

The dataclasses are the schema of ``aiospin top --json``, which docs/cli.md describes: fields may be added,
none changes its meaning, or SCHEMA is counted up.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aiospin import _layout as layout
from aiospin import _lock, _snapshot
from aiospin._cli.top.processes import command_of
from aiospin._errors import LayoutError
from aiospin._garbage import list_files

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from aiospin._garbage import SegmentFile
    from aiospin._snapshot import ReaderSnapshot, Snapshot

SCHEMA: Final = 1

State = Literal["live", "closed", "dead", "corrupt", "foreign", "unreadable"]
_REMOVABLE: Final = "nobody uses it: aiospin gc removes it"


@dataclass(frozen=True)
class WriterRow:
    pid: int
    command: str | None
    alive: bool
    parked: bool


@dataclass(frozen=True)
class ReaderRow:
    slot: int
    pid: int
    command: str | None
    alive: bool
    joining: bool
    parked: Literal["word", "bell"] | None
    lag_messages: int
    lag_bytes: int
    messages_per_second: float | None
    bytes_per_second: float | None


@dataclass(frozen=True)
class SegmentRow:
    name: str
    path: str
    state: State
    reason: str | None
    file_bytes: int | None
    id: str | None = None
    created: float | None = None
    overflow: Literal["block", "drop_oldest"] | None = None
    capacity: int | None = None
    used_bytes: int | None = None
    max_readers: int | None = None
    messages: int | None = None
    messages_per_second: float | None = None
    bytes_per_second: float | None = None
    large_messages: int = 0
    large_bytes: int = 0
    writer: WriterRow | None = None
    readers: tuple[ReaderRow, ...] = ()


@dataclass(frozen=True)
class Census:
    schema: int
    time: float
    folder: str
    free_bytes: int
    segments: tuple[SegmentRow, ...]


@dataclass(frozen=True)
class _Mark:
    """How far somebody was, and when."""

    seconds: float
    messages: int
    position: int


class Observer:
    """Looks at a folder again and again, as nobody's member.

    :param names: of the broadcasts to look at; all when empty.
    """

    def __init__(self, folder: Path, names: Collection[str] = ()) -> None:
        self._folder = folder
        self._names = names
        # Who was where when: writers have slot -1. By id, so that a new segment of an old name begins anew.
        self._before: dict[tuple[int, int, int], _Mark] = {}
        self._now: dict[tuple[int, int, int], _Mark] = {}
        self._commands: dict[tuple[int, int, int], str | None] = {}

    def look(self) -> Census:
        files = [
            file for file in list_files(self._folder) if not self._names or file.name in self._names
        ]
        segments = [
            row
            for file in files
            if file.kind in ("segment", "closed")
            and (row := self._segment(file, files)) is not None
        ]
        self._before, self._now = self._now, {}
        room = os.statvfs(self._folder)
        return Census(
            schema=SCHEMA,
            time=time.time(),
            folder=str(self._folder),
            free_bytes=room.f_bavail * room.f_frsize,
            segments=tuple(segments),
        )

    def _segment(self, file: SegmentFile, files: list[SegmentFile]) -> SegmentRow | None:
        """None: it is gone."""
        name, path = file.name, str(file.path)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                return SegmentRow(name, path, "foreign", "it is not a plain file", None)
            return SegmentRow(name, path, "unreadable", error.strerror, None)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return SegmentRow(name, path, "foreign", "it is not a plain file", None)
            nbytes = found.st_blocks * 512
            if not _snapshot.has_magic(fd):
                reason = "it has not the magic of a segment"
                return SegmentRow(name, path, "foreign", reason, nbytes)
            try:
                snapshot = _snapshot.read(fd)
            except LayoutError as error:
                members = _lock.is_taken(fd, _lock.WRITER_BYTE, 1 + layout.MAX_READERS)
                reason = str(error) if members else f"{error}; {_REMOVABLE}"
                return SegmentRow(name, path, "corrupt", reason, nbytes)
            return self._healthy(file, files, fd, found, snapshot)
        finally:
            os.close(fd)

    def _healthy(
        self,
        file: SegmentFile,
        files: list[SegmentFile],
        fd: int,
        found: os.stat_result,
        snapshot: Snapshot,
    ) -> SegmentRow:
        header = snapshot.header
        now = time.monotonic()
        writer_lives = _lock.is_taken(fd, _lock.WRITER_BYTE)
        readers = tuple(
            self._reader(reader, fd, found, header.id, now) for reader in snapshot.readers
        )
        state, reason = _state(snapshot.closed, writer_lives, sum(row.alive for row in readers))
        rates = self._rates((header.id, -1, 0), _Mark(now, snapshot.messages, snapshot.head))
        large = [
            _size(other.path)
            for other in files
            if other.kind == "message" and (other.name, other.id) == (file.name, header.id)
        ]
        return SegmentRow(
            name=file.name,
            path=str(file.path),
            state=state,
            reason=reason,
            file_bytes=found.st_blocks * 512,
            id=f"{header.id:016x}",
            created=header.created_ns / 1e9,
            overflow="drop_oldest" if header.overflow == layout.DROP_OLDEST else "block",
            capacity=header.capacity,
            used_bytes=snapshot.used,
            max_readers=header.max_readers,
            messages=snapshot.messages,
            messages_per_second=rates[0],
            bytes_per_second=rates[1],
            large_messages=len(large),
            large_bytes=sum(large),
            writer=WriterRow(
                pid=header.writer_pid,
                command=self._command(header.writer_pid, found),
                alive=writer_lives,
                parked=writer_lives and snapshot.writer_parked,
            ),
            readers=readers,
        )

    def _reader(
        self, reader: ReaderSnapshot, fd: int, found: os.stat_result, segment_id: int, now: float
    ) -> ReaderRow:
        rates: tuple[float | None, float | None] = (None, None)
        if not reader.joining:
            mark = _Mark(now, reader.sequence, reader.cursor)
            rates = self._rates((segment_id, reader.slot, reader.pid), mark)
        alive = _lock.is_taken(fd, _lock.READER_BYTE + reader.slot)
        return ReaderRow(
            slot=reader.slot,
            pid=reader.pid,
            command=self._command(reader.pid, found),
            alive=alive,
            joining=reader.joining,
            parked=reader.parked if alive else None,
            lag_messages=reader.lag_messages,
            lag_bytes=reader.lag_bytes,
            messages_per_second=rates[0],
            bytes_per_second=rates[1],
        )

    def _rates(self, who: tuple[int, int, int], mark: _Mark) -> tuple[float | None, float | None]:
        self._now[who] = mark
        before = self._before.get(who)
        if before is None or mark.seconds <= before.seconds:
            return None, None
        seconds = mark.seconds - before.seconds
        return (
            (mark.messages - before.messages) / seconds,
            (mark.position - before.position) / seconds,
        )

    def _command(self, pid: int, file: os.stat_result) -> str | None:
        """Asked for once: it does not change, and is still known of the dead."""
        who = (pid, file.st_dev, file.st_ino)
        if self._commands.get(who) is None:
            self._commands[who] = command_of(pid, file)
        return self._commands[who]


def _state(closed: bool, writer_lives: bool, readers: int) -> tuple[State, str | None]:
    some = "1 reader still reads" if readers == 1 else f"{readers} readers still read"
    if closed and (readers or writer_lives):
        return "closed", f"its writer closed it, {some}"
    if writer_lives:
        return "live", None
    return "dead", f"its writer died, {some}" if readers else _REMOVABLE


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
