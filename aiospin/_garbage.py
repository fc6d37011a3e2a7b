"""What dead processes left in the folder of the segments, and its removal.

What lives is never removed. Who lives the locks say (docs/layout.md), so the file of a segment that has
a writer or a reader stays, and so do the files that belong to it. Nobody joins a segment whose writer is
dead to read anything new, so between the question and the removal nothing can come to life but a reader
that is told at once that the writer died.

Several may clean up at once, and others make broadcasts of the same names meanwhile: who removes a file
holds the writer's lock on it, and has made sure that the name still leads to this very file. Only who
removed it could give the name to another.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aiospin import _layout, _lock, _snapshot
from aiospin._errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

# A file that is being made is not locked at first: its memory is reserved before, which takes a quarter of a
# second for a GiB. A minute is longer than any of that; until then what one left that was killed there stays. From
# the magic on, which is stored later, there is no doubt.
UNLOCKED_NS: Final = 60_000_000_000

# Seconds. Whoever cleans up holds a dead writer's lock for a few system calls; one that is descheduled meanwhile,
# longer. Only then is a lock that stays taken said to be a living writer's.
CLEANING: Final = 0.2

NO_SEGMENT: Final = "it is no segment"
_MEMBERS: Final = 1 + _layout.MAX_READERS
_NAME: Final = r"(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]{0,199})"
_FILE: Final = re.compile(
    rf"aiospin-{_NAME}(?:\+(?P<id>[0-9a-f]{{16}})\.(?P<kind>closed|new|message|bell)(?:-(?P<number>\d+))?)?"
)
_TEMPORARY: Final = re.compile(rf"\.aiospin-{_NAME}\.[0-9a-f]{{8}}")  # what layout 1 had for "new"


@dataclass(frozen=True)
class Finding:
    """A file that is garbage, or that looks like it and stays."""

    path: Path
    outcome: Literal["removed", "kept", "denied"]
    """A dry run says what would be."""
    nbytes: int
    """Of memory, that its removal gives back; 0 when it stays."""
    why: str


@dataclass(frozen=True)
class SegmentFile:
    """A file in the folder, as far as its name tells."""

    path: Path
    name: str
    id: int | None
    kind: str
    """segment, closed, new, message, bell."""
    number: int | None


def sweep(folder: Path, names: Collection[str] = (), *, dry_run: bool = False) -> Iterator[Finding]:
    """Remove what dead processes left.

    :param names: of the segments to look at; all when empty.
    :param dry_run: touch nothing, and find what would be removed.
    """
    # Listed once, and first: what is made from now on is nobody's garbage yet.
    files = [file for file in list_files(folder) if not names or file.name in names]
    gone: set[tuple[str, int | None]] = set()  # segments; one that would be removed is still there
    for file in files:
        if file.kind in ("segment", "closed"):
            yield from _sweep_segment(file, gone, dry_run)
        elif file.kind == "new":
            yield from _sweep_unfinished(file, dry_run)
    for file in files:
        if file.kind in ("message", "bell"):
            yield from _sweep_companion(file, gone, dry_run)


def remove_dead(path: Path) -> None:
    """Free the name of a segment whose writer is gone, for the next one.

    What its readers, if some live, have still to read stays: the segment goes on under the name of a
    closed one.

    :raises FileExistsError: its writer lives, or what is there is no segment.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _no_segment(path) from None
        raise
    try:
        if not _is_plain(fd) or not _snapshot.has_magic(fd):
            raise _no_segment(path)
        if not _take_from_cleaners(fd, path):
            raise FileExistsError(
                errno.EEXIST,
                "a living broadcast has that name: choose another, or close it",
                str(path),
            )
        if not _is_at(fd, path):
            return  # somebody else was quicker
        segment_id = _id_of(fd)
        if segment_id is not None and _has_readers(fd):
            path.rename(companion(path, segment_id, "closed"))
        else:
            path.unlink()
    except FileNotFoundError:
        pass
    finally:
        os.close(fd)


def _take_from_cleaners(fd: int, path: Path) -> bool:
    """The lock of a writer that is dead. Another one that cleans up has it for a moment; a writer keeps it."""
    deadline = time.monotonic() + CLEANING
    while not _lock.take(fd, _lock.WRITER_BYTE):
        if not _is_at(fd, path):
            return True  # it was removed
        if time.monotonic() > deadline:
            return False
        time.sleep(CLEANING / 100)
    return True


def sweep_closed(closed: Path, name: str) -> bool:
    """Remove a closed segment, and the large messages in it that nobody has read, once all its readers are gone.

    :return: is it still there?
    """
    with _opened(closed, dry_run=True) as fd:
        if isinstance(fd, int) and _has_readers(fd):
            return True
    for _ in sweep(closed.parent, (name,)):
        pass
    return closed.exists()


def companion(path: Path, segment_id: int, kind: str) -> Path:
    """The path of a file that belongs to the segment with this path and this id."""
    return path.with_name(f"{path.name}+{segment_id:016x}.{kind}")


def _no_segment(path: Path) -> FileExistsError:
    return FileExistsError(
        errno.EEXIST,
        "a file that is no broadcast has that name: choose another, or remove the file",
        str(path),
    )


# ---- the files ----


def list_files(folder: Path) -> list[SegmentFile]:
    """All files of segments in a folder, sorted."""
    found = []
    for entry in sorted(os.listdir(folder)):
        if match := _FILE.fullmatch(entry):
            kind, number = match["kind"], match["number"]
            if (number is not None) != (kind in ("message", "bell")):
                continue
            found.append(
                SegmentFile(
                    path=folder / entry,
                    name=match["name"],
                    id=None if match["id"] is None else int(match["id"], 16),
                    kind=kind or "segment",
                    number=None if number is None else int(number),
                )
            )
        elif match := _TEMPORARY.fullmatch(entry):
            found.append(SegmentFile(folder / entry, match["name"], None, "new", None))
    return found


def _sweep_segment(
    file: SegmentFile, gone: set[tuple[str, int | None]], dry_run: bool
) -> Iterator[Finding]:
    with _opened(file.path, dry_run) as fd:
        if fd is None:
            return
        if isinstance(fd, str):
            found = Finding(file.path, "kept", 0, fd)
        elif not _snapshot.has_magic(fd):
            found = Finding(file.path, "kept", 0, NO_SEGMENT)
        elif not _take_place(fd, file.path, dry_run):
            return
        elif _has_readers(fd):
            found = Finding(
                file.path, "kept", 0, "its writer is gone, but some of its readers still read"
            )
        else:
            gone.add((file.name, _id_of(fd)))
            found = _remove(file.path, "nobody uses it any more", dry_run)
    yield found


def _sweep_unfinished(file: SegmentFile, dry_run: bool) -> Iterator[Finding]:
    with _opened(file.path, dry_run) as fd:
        if not isinstance(fd, int):
            return
        age_ns = time.time_ns() - os.fstat(fd).st_mtime_ns
        if age_ns < UNLOCKED_NS and not _snapshot.has_magic(fd):
            return
        if not _take_place(fd, file.path, dry_run):
            return
        found = _remove(file.path, "who was making it died", dry_run)
    yield found


def _sweep_companion(
    file: SegmentFile, gone: set[tuple[str, int | None]], dry_run: bool
) -> Iterator[Finding]:
    assert file.id is not None
    segment = file.path.with_name(file.path.name.partition("+")[0])
    # In this order: a segment that is closed goes from the first name to the second.
    for path in (segment, companion(segment, file.id, "closed")):
        with _opened(path, dry_run) as fd:
            if isinstance(fd, str):
                return  # nobody can say whose it is
            if fd is None or (file.name, file.id) in gone:
                continue
            segment_id = _id_of(fd)
            if segment_id == file.id:
                if file.kind == "bell":
                    yield from _sweep_bell(file, fd, dry_run)
                return
            if segment_id is None and _lock.is_taken(fd, _lock.WRITER_BYTE, _MEMBERS):
                return  # it lives, and somebody has spoilt its id
    yield _remove(file.path, "its segment is gone", dry_run)


def _sweep_bell(file: SegmentFile, fd: int, dry_run: bool) -> Iterator[Finding]:
    """A doorbell in a segment that goes on. With the lock in hand nobody else takes the slot meanwhile."""
    assert file.number is not None
    byte = _lock.READER_BYTE + file.number
    if _free(fd, byte, dry_run):
        found = _remove(file.path, "its reader died", dry_run)
        if not dry_run:
            _lock.drop(fd, byte)
        yield found


# ---- one file ----


@contextmanager
def _opened(path: Path, dry_run: bool) -> Iterator[int | str | None]:
    """A descriptor; why there is none; or None: the file is gone."""
    flags = os.O_RDONLY if dry_run else os.O_RDWR  # for a lock it has to be writable
    try:
        fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield None
        return
    except PermissionError:
        yield "there is no permission to open it"
        return
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        yield NO_SEGMENT
        return
    try:
        yield fd if _is_plain(fd) else NO_SEGMENT
    finally:
        os.close(fd)


def _is_plain(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def _id_of(fd: int) -> int | None:
    """The id of a segment; None: it is too damaged, or too old, to have one."""
    try:
        return _snapshot.read_header(fd).id
    except LayoutError:
        return None


def _has_readers(fd: int) -> bool:
    return _lock.is_taken(fd, _lock.READER_BYTE, _layout.MAX_READERS)


def _take_place(fd: int, path: Path, dry_run: bool) -> bool:
    """Take the place of a dead writer, until fd is closed. False: it lives, or the name leads elsewhere by now."""
    return _free(fd, _lock.WRITER_BYTE, dry_run) and _is_at(fd, path)


def _free(fd: int, byte: int, dry_run: bool) -> bool:
    """Is there no such member? Then, but for a dry run, its lock is in hand."""
    return not _lock.is_taken(fd, byte) if dry_run else _lock.take(fd, byte)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def _remove(path: Path, why: str, dry_run: bool) -> Finding:
    try:
        found = os.lstat(path)
        if not dry_run:
            os.unlink(path)
    except FileNotFoundError:
        return Finding(path, "removed", 0, why)  # somebody else was quicker
    except PermissionError:
        return Finding(path, "denied", 0, "only its owner may remove it")
    return Finding(path, "removed", found.st_blocks * 512, why)
