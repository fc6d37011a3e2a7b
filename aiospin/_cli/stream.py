"""Messages on a pipe: lines, or records with a length in front; what ``pub`` reads and ``sub`` writes.

lines     a message is a line without its newline. A message that contains newlines arrives as
          several, so this is for text.
records   4 bytes, the length as a little-endian unsigned integer, and then so many bytes of message. For
          anything.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import struct
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from aiospin._cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

FORMATS: Final = ("lines", "records")
FORMATS_HELP: Final = """\
formats:
  lines    A message is a line without its newline. An end of input without a newline ends
           the last line. A message that contains newlines becomes several lines.
  records  4 bytes, the length as a little-endian unsigned integer, and then so many bytes of
           message: for anything, up to 4 GiB - 1. In Python: struct.pack("<I", len(m)) + m"""

_PREFIX: Final = struct.Struct("<I")
_MAX_RECORD: Final = (1 << 32) - 1  # what the prefix can say
CHUNK: Final = 1 << 20  # bytes asked for in one read: a pipe gives up to 64 KiB, a file all of it


class Splitter(Protocol):
    """Makes messages of the chunks of a stream, however these are cut."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that end in this chunk."""

    def finish(self) -> list[bytes]:
        """The stream ended.

        :raises CommandError: in the middle of a message.
        """


class LineSplitter:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line that has not ended yet

    def feed(self, chunk: bytes) -> list[bytes]:
        lines = chunk.split(b"\n")
        if len(lines) == 1:
            self._pieces.append(chunk)
            return []
        self._pieces.append(lines[0])
        lines[0] = b"".join(self._pieces)
        self._pieces = [lines.pop()]
        return lines

    def finish(self) -> list[bytes]:
        rest = b"".join(self._pieces)
        self._pieces = []
        return [rest] if rest else []


class RecordSplitter:
    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._held = 0  # bytes in pieces
        self._wanted = _PREFIX.size  # bytes that are the next record, or its prefix

    def feed(self, chunk: bytes) -> list[bytes]:
        self._pieces.append(chunk)
        self._held += len(chunk)
        if self._held < self._wanted:
            return []
        data = b"".join(self._pieces)
        records = []
        begin = 0
        while True:
            wanted = _PREFIX.size
            if len(data) - begin >= wanted:
                wanted += _PREFIX.unpack_from(data, begin)[0]
            if len(data) - begin < wanted:
                break
            records.append(data[begin + _PREFIX.size : begin + wanted])
            begin += wanted
        rest = data[begin:]
        self._pieces = [rest]
        self._held = len(rest)
        self._wanted = wanted
        return records

    def finish(self) -> list[bytes]:
        if self._held:
            announced = (
                f"{self._wanted - _PREFIX.size} bytes are announced, and {self._held - _PREFIX.size} came"
                if self._held >= _PREFIX.size
                else f"its prefix has {_PREFIX.size} bytes, and {self._held} came"
            )
            raise CommandError(f"the input ended in the middle of a record: {announced}")
        return []


def batches(fd: int, kind: str, signals: int) -> Iterator[list[bytes]]:
    """Read messages until the end of a file, as many at a time as are there.

    :param signals: what signals_told() gave.
    :raises CommandError: the input is no sequence of messages, or cannot be read.
    """
    splitter: Splitter = LineSplitter() if kind == "lines" else RecordSplitter()
    while chunk := _read(fd, signals):
        if messages := splitter.feed(chunk):
            yield messages
    if messages := splitter.finish():
        yield messages


def _read(fd: int, signals: int) -> bytes:
    # A signal that comes right before a read begins does not end it, and its handler would wait for more input.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(signals, select.POLLIN)
    while True:
        ready = [found for found, _ in poll.poll()]
        if signals in ready:  # of a handler that did not raise
            os.read(signals, CHUNK)
        if fd not in ready:
            continue
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:  # somebody who shares the file made it so, and was faster
            pass
        except OSError as error:
            raise CommandError(f"the input cannot be read: {error.strerror}") from None


def write(fd: int, kind: str, messages: list[bytes]) -> None:
    """Write messages, however long that takes.

    :raises BrokenPipeError: nobody reads any more.
    :raises CommandError: a message too long for the format, or the output cannot be written.
    """
    if kind == "lines":
        if len(messages) == 1:  # it may be large: no copy for a newline
            pieces = [messages[0], b"\n"] if len(messages[0]) >= CHUNK else [messages[0] + b"\n"]
        else:
            pieces = [b"\n".join([*messages, b""])]
    else:
        interleaved = [piece for message in messages for piece in (_prefix(message), message)]
        large = len(messages) == 1 and len(messages[0]) >= CHUNK
        pieces = interleaved if large else [b"".join(interleaved)]
    _write_all(fd, pieces)


def _prefix(message: bytes) -> bytes:
    if len(message) > _MAX_RECORD:
        raise CommandError(
            f"a message of {len(message)} bytes is too long for a record: 4 GiB - 1 at most"
        )
    return _PREFIX.pack(len(message))


def _write_all(fd: int, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(fd, rest) :]
            except BlockingIOError:
                select.select([], [fd], [])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise CommandError(f"the output cannot be written: {error.strerror}") from None


def check_reader(fd: int) -> None:
    """Ask whether somebody still reads an output to which nothing is written just now.

    :raises BrokenPipeError: nobody does.
    """
    poll = select.poll()
    poll.register(fd, 0)  # errors are always told
    if any(events & select.POLLERR for _, events in poll.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def standard_input() -> int:
    """Its descriptor. Who was started without one must not take for it what was opened since.

    :raises CommandError: there is none.
    """
    if sys.stdin is None:
        raise CommandError("there is nothing to read: standard input is closed")
    return sys.stdin.fileno()


def standard_output() -> int:
    """The same for standard output."""
    if sys.stdout is None:
        raise CommandError("there is nowhere to write to: standard output is closed")
    return sys.stdout.fileno()


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind, so that a broadcast is closed and a terminal is put right again."""

    def unwind(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)  # as a shell reports it

    before = {number: signal.signal(number, unwind) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def signals_told() -> Iterator[int]:
    """A descriptor that is readable once a signal has come, for who waits in the kernel."""
    with ExitStack() as undo:
        come, go = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        undo.callback(os.close, come)
        undo.callback(os.close, go)
        undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(go, warn_on_full_buffer=False))
        yield come
