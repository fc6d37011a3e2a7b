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
import fcntl
import mmap
import os
import re
import secrets
import stat
import struct
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiospin._errors import LayoutError

PREFIX: Final = "aiospin-"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")

# Lock bytes lie behind any size that a file can have, so they never meet a lock on the data.
WRITER_BYTE: Final = 0x7FFF_0000_0000_0000
READER_BYTE: Final = WRITER_BYTE + 1  # + slot

_FLOCK: Final = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


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

    def __init__(self, name: str, path: Path, map_fd: int, lock_fd: int, size: int) -> None:
        self.name = name
        self.path = path
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
    def create(cls, name: str | None, size: int, mode: int) -> tuple[Segment, Path]:
        """Make a segment of zeroed memory under a temporary name; publish() gives it its own.

        :return: the segment, with the writer's lock held, and the temporary path.
        :raises OSError: ENOSPC when the shared memory is full, before anything is written to it.
        """
        chosen = f"{os.getpid()}-{secrets.token_hex(4)}" if name is None else name
        path = path_of(chosen)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        map_fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _reserve(map_fd, size, path)
            os.fchmod(map_fd, mode)
            lock_fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            os.close(map_fd)
            temporary.unlink()
            raise
        try:
            segment = cls(chosen, path, map_fd, lock_fd, size)
            segment.lock(WRITER_BYTE)
        except BaseException:
            temporary.unlink()
            raise
        return segment, temporary

    def publish(self, temporary: Path) -> None:
        """Give a finished segment its name, atomically; that of a dead writer is taken over.

        :raises FileExistsError: a living broadcast has the name.
        """
        try:
            while True:
                try:
                    os.link(temporary, self.path)
                    return
                except FileExistsError:
                    remove_dead(self.path)
        finally:
            temporary.unlink()

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
        return _lock(self._lock_fd, byte, fcntl.F_WRLCK)

    def unlock(self, byte: int) -> None:
        if self._lock_fd is not None:
            _lock(self._lock_fd, byte, fcntl.F_UNLCK)

    def alive(self, byte: int) -> bool:
        """Does some other open member hold that lock?"""
        assert self._lock_fd is not None
        return _is_locked(self._lock_fd, byte)

    def unlink(self) -> None:
        """Remove the name, if it is still this segment's."""
        if self._lock_fd is None:
            return
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self._lock_fd)):
                self.path.unlink()
        except FileNotFoundError:
            pass

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
        _open_segments.discard(self)
        # Cleared before the close, which lets other threads run: the number may be somebody else's at once.
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)


def _reserve(fd: int, size: int, path: Path) -> None:
    """Give the file its memory now: a write into a full tmpfs would be a SIGBUS later."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM):
            raise
        room = os.fstatvfs(fd)
        raise OSError(
            error.errno,
            f"not enough shared memory: the broadcast needs {size} bytes, and "
            f"{room.f_bavail * room.f_frsize} are free; make its capacity smaller, or the file system larger",
            str(path.parent),
        ) from None


def _lock(fd: int, byte: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _is_locked(fd: int, byte: int) -> bool:
    request = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def remove_dead(path: Path) -> None:
    """Remove a segment whose writer is gone.

    :raises FileExistsError: its writer lives.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        # Two that clean up at once exclude each other by the lock, and the check of identity keeps
        # the second from removing what the first has already replaced.
        if not _lock(fd, WRITER_BYTE, fcntl.F_WRLCK):
            raise FileExistsError(
                errno.EEXIST,
                "a living broadcast has that name: choose another, or close it",
                str(path),
            )
        try:
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                path.unlink()
        except FileNotFoundError:
            pass
    finally:
        os.close(fd)


_open_segments: weakref.WeakSet[Segment] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for segment in list(_open_segments):
        segment.drop_lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
