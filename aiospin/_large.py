"""Large messages: those that do not fit into the ring lie in a file of their own (docs/layout.md).

The record in the ring says how long it is, the file is beside the segment and gone as soon as no reader
is before that record any more. Whoever finds that removes it: the reader that went past it last, the
writer before it makes the next one and while it waits, and a look every tenth of a second while there
are files and the writer does nothing or has closed, because a process that dies tells nobody.
"""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import stat
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from aiospin import _layout
from aiospin._errors import LayoutError
from aiospin._exit import closed
from aiospin._segment import fill_file, open_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from typing_extensions import Buffer

    from aiospin._core import core
    from aiospin._segment import Segment

# The bytes of large messages that readers have still to read may be so many times the capacity: as the
# capacity bounds what lies in the ring.
WINDOW: Final = 4

# Each has more than half the capacity, so eight fill the window; but in a ring of more than 8 GiB, where a message of
# 4 GiB is large. One that is forgotten the writer removes.
_MOST_PASSED: Final = 64

_HEADER: Final = struct.Struct("=4Q")  # id of the segment, sequence, length, 0


class _File(NamedTuple):
    path: Path
    end: int
    """Position of the end of its record: a reader with its cursor there is past it."""
    length: int


class Draft:
    """The file of a message that is being written."""

    def __init__(self, path: Path, fd: int, length: int) -> None:
        self.path = path
        self.length = length
        self._fd = fd
        self._map: mmap.mmap | None = None

    def view(self) -> memoryview:
        """All of the message, to be filled in place."""
        self._map = mmap.mmap(self._fd, _HEADER.size + self.length)
        return memoryview(self._map)[_HEADER.size :]

    def write(self, parts: Iterable[tuple[int, Buffer]]) -> None:
        """Fill in parts, each at its offset. Quicker than through the view, whose pages come one by one."""
        for offset, part in parts:
            _write(self._fd, pickle.PickleBuffer(part).raw(), _HEADER.size + offset)

    def close(self) -> None:
        os.close(self._fd)
        if self._map is not None:
            try:
                self._map.close()
            except BufferError:
                pass  # an array over it is still held; the documentation says not to use it any more


class OutgoingFiles:
    """The writer's side. Used by its thread and by the one that looks for readers that are gone."""

    def __init__(self, segment: Segment, ring: core.RingWriter) -> None:
        self._segment = segment
        self._ring = ring
        self._window = WINDOW * ring.capacity
        self._lossy = ring.overflow == _layout.DROP_OLDEST
        # Not only for other threads: a signal's handler may close the writer while this thread has it.
        self._lock = threading.RLock()
        self._closed = False
        self._files: deque[_File] = deque()  # in the order of their records
        self._nbytes = 0

    def __bool__(self) -> bool:
        """Are there any?"""
        return bool(self._files)

    def sweep(self) -> None:
        """Remove those that nobody will read any more."""
        with self._lock:
            if self._files:
                oldest = self._ring.oldest
                while self._files and self._files[0].end <= oldest:
                    file = self._files.popleft()
                    self._nbytes -= file.length
                    remove(file.path)

    def make_room(self, length: int) -> bool:
        """Room for another one? In "drop_oldest" mode there always is. Otherwise, if not, the ring's wait is set
        up to last until the oldest is read."""
        while True:
            self.sweep()
            with self._lock:
                if not self._files or self._nbytes + length <= self._window:
                    return True
                end = self._files[0].end
            if not self._lossy:
                self._ring.want_past(end)
                return False
            self._ring.drop_before(end)

    def create(self, length: int) -> Draft:
        """The file of the next message, for which a record is claimed.

        :raises OSError: ENOSPC; says how much was needed and how much is free.
        """
        segment, sequence = self._segment, self._ring.sequence
        path = segment.message(sequence)
        with self._lock:
            fd = -1 if self._closed else open_file(path)
        if fd < 0:
            raise closed()
        fill_file(fd, path, _HEADER.size + length, segment.mode, f"a message of {length} bytes")
        draft = Draft(path, fd, length)
        try:
            _write(fd, memoryview(_HEADER.pack(segment.id, sequence, length, 0)), 0)
        except BaseException:
            self.discard(draft)
            raise
        return draft

    def publish(self, draft: Draft, format: int) -> None:
        """Complete: let the readers have it."""
        draft.close()
        sequence = self._ring.sequence
        try:
            # Under the lock: whoever sweeps or closes meanwhile finds the file, or finds none.
            with self._lock:
                published = not self._closed
                if published:
                    self._ring.publish_large(draft.length, format)
                    self._files.append(_File(draft.path, self._ring.head, draft.length))
                    self._nbytes += draft.length
            if not published:
                raise closed()
        except BaseException:
            # The ring was closed meanwhile; but what a signal handler has interrupted may be published, and the
            # file is the readers' then.
            if self._ring.sequence == sequence:
                remove(draft.path)
            raise
        self.sweep()  # at once when there is no reader

    def discard(self, draft: Draft) -> None:
        draft.close()
        remove(draft.path)

    def close(self) -> None:
        """Make and publish no more, while the ring is still open. The file that another thread is writing goes at
        once: at the end of the program that thread will not come to it."""
        with self._lock:
            self._closed = True
            remove(self._segment.message(self._ring.sequence))


class IncomingFiles:
    """A reader's side: what the ring calls for large messages."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._opened = (0, segment.path)  # position and path of the one opened last
        # Those that another reader was before still. One may stand still while the writer drops the oldest: then
        # more than the window has room for are gone already.
        self._passed: deque[tuple[int, Path]] = deque(maxlen=_MOST_PASSED)

    def open(self, sequence: int, position: int, length: int, copy: bool) -> Buffer | None:
        """The message, or a read-only view of it. None: its file is gone.

        :raises LayoutError: what is there is not its file.
        """
        path = self._segment.message(sequence)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):
                raise LayoutError(f"{path} is no message: it is not a plain file") from None
            raise
        try:
            self._check(fd, path, sequence, length)
            message = _read(fd, length, path) if copy else _view(fd, length)
        finally:
            os.close(fd)
        self._opened = position, path
        return message

    def _check(self, fd: int, path: Path, sequence: int, length: int) -> None:
        segment, found = self._segment, os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != segment.owner:
            raise LayoutError(f"{path} is no message: it is no plain file of the segment's owner")
        if found.st_size != _HEADER.size + length:
            raise LayoutError(
                f"{path} has {found.st_size} bytes, should have {_HEADER.size + length}: the segment is corrupt"
            )
        header = os.pread(fd, _HEADER.size, 0)
        if header != _HEADER.pack(segment.id, sequence, length, 0):
            raise LayoutError(f"{path} is another message's file: the segment is corrupt")

    def passed(self, oldest: int) -> None:
        """The reader went past the one opened last, and no reader is before ``oldest`` any more."""
        self._passed.append(self._opened)
        self.sweep(oldest)

    def sweep(self, oldest: int) -> None:
        """Remove those that nobody will read any more."""
        while self._passed and self._passed[0][0] < oldest:
            remove(self._passed.popleft()[1])


def remove(path: Path) -> None:
    """Remove a file that somebody else may have removed, or whose owner alone may."""
    try:
        path.unlink()
    except (FileNotFoundError, PermissionError):
        pass


def _write(fd: int, data: memoryview, offset: int) -> None:
    while data:  # one call writes at most 2 GiB
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


def _read(fd: int, length: int, path: Path) -> bytes:
    message = os.pread(fd, length, _HEADER.size)
    if len(message) == length:
        return message
    parts = [message]  # one call reads at most 2 GiB
    missing = length - len(message)
    while missing:
        part = os.pread(fd, missing, _HEADER.size + length - missing)
        if not part:
            raise LayoutError(f"{path} is shorter than it was: the segment is corrupt")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _view(fd: int, length: int) -> memoryview:
    mapping = mmap.mmap(fd, _HEADER.size + length, prot=mmap.PROT_READ)
    return memoryview(mapping)[_HEADER.size :]
