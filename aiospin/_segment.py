"""The file behind a broadcast: made, found, mapped, locked, removed.

A segment is a file in a folder of shared memory, so that a container needs nothing but that folder.
Each member (the writer, each reader) holds a record lock on one byte of it, far behind its end; the
kernel drops the lock with the process, so asking for it tells the living from the dead in any PID
namespace.

The locks belong to open file descriptions (F_OFD_SETLK). Those are inherited by fork, and a child
that kept them would make a dead parent look alive, so the child closes them at once. The mapping
uses a description of its own, because ``mmap`` keeps a duplicate of the descriptor that it is
given.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiospin import _garbage, _layout, _lock
from aiospin._errors import LayoutError

PREFIX: Final = "aiospin-"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


def folder() -> Path:
    """Where segments live: shared memory where there is a file system for it."""
    shm = Path("/dev/shm")
    return shm if shm.is_dir() else Path(tempfile.gettempdir())


def path_of(name: str) -> Path:
    """The file of a segment.

    :raises ValueError: not a name.
    """
    if not isinstance(name, str):
        raise TypeError(f"a broadcast's name is a string, not {name!r}")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for a broadcast: 1 to 200 of the characters A-Z a-z 0-9 _ . -, "
            "the first a letter, a digit or _"
        )
    return folder() / (PREFIX + name)


@dataclass(frozen=True)
class BroadcastHandle:
    """What a process needs to attach to a broadcast: small, picklable, and its ``str()`` is the name."""

    name: str

    def __str__(self) -> str:
        return self.name


class Segment:
    """An open, mapped segment, and the lock of one member of it."""

    id = 0  # of its header; known when that was written, or checked

    def __init__(self, name: str, path: Path, map_fd: int, lock_fd: int, size: int) -> None:
        self.name = name
        self.path = path
        found = os.fstat(map_fd)
        self.owner, self.mode = found.st_uid, stat.S_IMODE(found.st_mode)
        self._lock_fd: int | None = lock_fd
        self.pid = os.getpid()
        try:
            self.memory = mmap.mmap(map_fd, size)
        except BaseException:
            os.close(lock_fd)
            raise
        finally:
            os.close(map_fd)
        _open_segments.add(self)

    @classmethod
    def create(cls, name: str | None, size: int, mode: int) -> Segment:
        """Make a segment of zeroed memory under a temporary name; publish() gives it its own, discard() removes it.
        The writer's lock is held.

        :raises OSError: ENOSPC when the shared memory is full, before anything is written to it.
        """
        chosen = f"{os.getpid()}-{secrets.token_hex(4)}" if name is None else name
        path = path_of(chosen)
        number = secrets.randbits(64) or 1
        temporary = _garbage.companion(path, number, "new")
        map_fd = make_file(temporary, size, mode, "the broadcast")
        try:
            lock_fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            os.close(map_fd)
            temporary.unlink()
            raise
        try:
            segment = cls(chosen, path, map_fd, lock_fd, size)
            segment.id = number
            segment.lock(_lock.WRITER_BYTE)
        except BaseException:
            temporary.unlink()
            raise
        return segment

    def publish(self) -> None:
        """Give a finished segment its name, atomically; that of a dead writer is taken over, and what is left
        of dead ones of that name is removed.

        :raises FileExistsError: a living broadcast has the name.
        """
        temporary = self.companion("new")
        while True:
            for _ in _garbage.sweep(self.path.parent, (self.name,)):
                pass
            try:
                os.link(temporary, self.path)
                break
            except FileExistsError:
                _garbage.remove_dead(self.path)
        temporary.unlink()

    def discard(self) -> None:
        """Remove one that was not published."""
        self.companion("new").unlink(missing_ok=True)

    def companion(self, kind: str) -> Path:
        """The path of another file that belongs to this segment."""
        return _garbage.companion(self.path, self.id, kind)

    def message(self, sequence: int) -> Path:
        """The path of a large message."""
        return self.companion(f"message-{sequence}")

    @classmethod
    def attach(cls, name: str) -> Segment:
        """Open an existing segment.

        :raises FileNotFoundError: no broadcast of that name.
        :raises PermissionError: it belongs to somebody else.
        :raises LayoutError: what is there is too small, or no plain file.
        """
        path = path_of(name)
        try:
            map_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT,
                "there is no broadcast of that name: has the writer created it, and not closed it yet?",
                str(path),
            ) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise LayoutError(f"{path} is no segment: it is not a plain file") from None
            raise
        try:
            found = os.fstat(map_fd)
            if not stat.S_ISREG(found.st_mode):
                raise LayoutError(f"{path} is no segment: it is not a plain file")
            if found.st_uid not in (os.geteuid(), 0) and found.st_mode & 0o022 == 0:
                raise PermissionError(
                    errno.EPERM,
                    "the broadcast belongs to another user, who did not share it",
                    str(path),
                )
            if found.st_size == 0:  # which cannot be mapped; the core checks every other size
                raise LayoutError(f"{path} is no segment: it is empty")
            lock_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            if not os.path.samestat(found, os.fstat(lock_fd)):
                os.close(lock_fd)
                raise FileNotFoundError(
                    errno.ENOENT, "the broadcast was replaced while attaching: try again", str(path)
                )
        except BaseException:
            os.close(map_fd)
            raise
        return cls(name, path, map_fd, lock_fd, found.st_size)

    def lock(self, byte: int) -> bool:
        """Take a member's lock for as long as this process lives or until close(). False: it is taken."""
        assert self._lock_fd is not None
        return _lock.take(self._lock_fd, byte)

    def unlock(self, byte: int) -> None:
        if self._lock_fd is not None:
            _lock.drop(self._lock_fd, byte)

    @property
    def lock_fd(self) -> int:
        """The descriptor that the member's lock belongs to, to ask with after those of others; until drop_lock()."""
        assert self._lock_fd is not None
        return self._lock_fd

    def alive(self, byte: int, count: int = 1) -> bool:
        """Does some other open member hold one of these locks?"""
        assert self._lock_fd is not None
        return _lock.is_taken(self._lock_fd, byte, count)

    def unlink(self) -> None:
        """Remove the name, if it is still this segment's."""
        if self._has_name():
            self.path.unlink()

    def retire(self) -> None:
        """Give the name free for a reader to remove the rest: the last one, which is past the large messages."""
        if self._has_name():
            self.path.rename(self.companion("closed"))
        self.remove_retired()

    def remove_retired(self) -> None:
        """Remove a retired segment and all that belongs to it, if no other reader is left.

        Who leaves drops its lock first, and who retires a segment renames it first: so one of them at least
        finds both done.
        """
        closed = self.companion("closed")
        if closed.exists() and not self.alive(_lock.READER_BYTE, _layout.MAX_READERS):
            ours = self.companion("").name
            # Not by glob(), which hides what keeps it from looking: whoever is told can close again.
            for name in (
                *filter(lambda name: name.startswith(ours), os.listdir(closed.parent)),
                closed.name,
            ):
                closed.with_name(name).unlink(missing_ok=True)

    def _has_name(self) -> bool:
        assert self._lock_fd is not None
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._lock_fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Drop the lock and the mapping. Views of messages that are still held keep the memory
        mapped until they go. Idempotent."""
        self.drop_lock()
        try:
            self.memory.close()
        except BufferError:
            pass

    def drop_lock(self) -> None:
        """Close the description that the lock belongs to."""
        # Cleared before the close, which lets other threads run: the number may be somebody else's at once.
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            _open_segments.discard(self)
            os.close(fd)


def make_file(path: Path, size: int, mode: int, what: str) -> int:
    """A new file with all of its memory, of zeroes: a write into a full tmpfs would be a SIGBUS later.

    :raises OSError: ENOSPC; says how much was needed and how much is free. Nothing is left behind.
    """
    fd = open_file(path)
    fill_file(fd, path, size, mode, what)
    return fd


def open_file(path: Path) -> int:
    """The first half of make_file()."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def fill_file(fd: int, path: Path, size: int, mode: int, what: str) -> None:
    """The second, which takes its time. Closes the descriptor where it fails."""
    try:
        os.posix_fallocate(fd, 0, size)
        os.fchmod(fd, mode)
    except BaseException as error:
        room = os.fstatvfs(fd)
        os.close(fd)
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
            raise OSError(
                error.errno,
                f"not enough shared memory: {what} needs {size} bytes, and "
                f"{room.f_bavail * room.f_frsize} are free; make it smaller, or the file system larger",
                str(path.parent),
            ) from None
        raise


_open_segments: weakref.WeakSet[Segment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for segment in list(_open_segments):
        segment.drop_lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
