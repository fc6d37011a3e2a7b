"""What the tests of the broadcast share: child processes that are told what to do, numbered messages."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
import zlib
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
from support import COMPILED, PATIENCE, environment

import aiospin

if TYPE_CHECKING:
    from typing_extensions import Self

SHM: Final = "/dev/shm/aiospin-"


def scaled(count: int, pure: int) -> int:
    """So many for the compiled core, fewer for the stand-in."""
    return count if COMPILED else pure


def waits(end: aiospin.BroadcastReader | aiospin.BroadcastWriter) -> bool:
    """Does some task or thread wait on this end?"""
    # Not by a receive or a send, which another thread would meet where there is no GIL.
    return end._ring.suspended


async def until_waits(end: aiospin.BroadcastReader | aiospin.BroadcastWriter) -> None:
    """Until another task waits on this end."""
    while not waits(end):
        await anyio.lowlevel.checkpoint()


def pair(
    capacity: int = 4096, readers: int = 1, **options: Any
) -> tuple[aiospin.BroadcastWriter, list[aiospin.BroadcastReader]]:
    """A writer and readers of it."""
    writer = aiospin.BroadcastWriter.create(capacity=capacity, **options)
    return writer, [aiospin.BroadcastReader.attach(writer.handle) for _ in range(readers)]


def fill(writer: aiospin.BroadcastWriter, message: bytes = b"x" * 32) -> int:
    """Send until there is no room; how many went in."""
    count = 0
    try:
        while True:
            writer.send_nowait(message)
            count += 1
    except aiospin.WouldBlock:
        return count


# ---- numbered, checksummed messages ----


def make_message(number: int, size: int) -> bytes:
    """A message with ``size`` bytes that depend on its number."""
    return numbered(number, random.Random(number).randbytes(size))


def numbered(number: int, body: bytes) -> bytes:
    """A message: the checksum of all that follows, the number, the body."""
    rest = number.to_bytes(8, "little") + body
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def number_of(message: bytes | memoryview) -> int:
    """The number of a message.

    :raises AssertionError: it is torn.
    """
    assert zlib.crc32(message[4:]) == int.from_bytes(message[:4], "little"), "torn"
    return int.from_bytes(message[4:12], "little")


# ---- child processes ----

_PRELUDE: Final = """\
from __future__ import annotations
import os, signal, sys, threading, time
import anyio
import aiospin
from aiospin import BroadcastReader, BroadcastWriter
def tell(*words): print(*words, flush=True)
def told():
    line = sys.stdin.readline()
    if not line: raise SystemExit("the test went away")
    return line.strip()
"""


class Child:
    """A Python process that runs a piece of code, with ``tell()`` and ``told()`` to talk to the test.

    :param args: its ``sys.argv[1:]``.
    :param pure: whether it uses the stand-in; as this process does when None.
    """

    def __init__(self, code: str, *args: object, pure: bool | None = None) -> None:
        extra = {} if pure is None else {"AIOSPIN_NO_EXT": "1" if pure else ""}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(PYTHONPATH=os.path.dirname(__file__), **extra),
        )
        self.pid = self._process.pid
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.send_signal(signal.SIGCONT)
        self._process.communicate()

    def tell(self, line: str = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        """The next line that the child told."""
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([file], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"child {self.pid} said nothing"
            more = os.read(file, 65536)
            assert more, f"child {self.pid} ended: {self._stderr()}"
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    def expect(self, line: str) -> None:
        heard = self.hear()
        assert heard == line, heard

    def _stderr(self) -> str:
        assert self._process.stderr is not None
        return self._process.stderr.read().decode()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def finish(self) -> str:
        """Wait for its end, which must be clean and silent; the rest of what it told."""
        out, err = self._process.communicate(timeout=PATIENCE)
        assert (self._process.returncode, err.decode()) == (0, "")
        return (self._buffer + out).decode()


def segments() -> set[str]:
    """The files that this process has made for segments, temporary ones too."""
    return {name for name in os.listdir("/dev/shm") if f"-{os.getpid()}-" in name}


def consume(handle: aiospin.BroadcastHandle, pipe: Any) -> None:
    """The body of a spawned process, which must be importable there: receive all and send it back."""
    with aiospin.BroadcastReader.attach(handle) as reader:
        pipe.send("attached")
        pipe.send(list(reader.iter_sync()))
