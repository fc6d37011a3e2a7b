"""What the tests of the broadcast share: loops, child processes that are told what to do, numbered messages."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, Final

import anyio

import aiospin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from typing_extensions import Self

LOOPS: Final = ("asyncio", "uvloop", "trio")
PURE: Final = os.environ.get("AIOSPIN_NO_EXT") == "1"
PATIENCE: Final = 20.0  # seconds after which something that must happen is said not to


def run(loop: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an async function on one of LOOPS; a hang is a TimeoutError."""

    async def limited() -> Any:
        with anyio.fail_after(PATIENCE):
            return await function(*args)

    if loop == "trio":
        return anyio.run(limited, backend="trio")
    options = {"use_uvloop": loop == "uvloop"}
    return anyio.run(limited, backend="asyncio", backend_options=options)


def scaled(count: int, pure: int) -> int:
    """So many for the compiled core, fewer for the stand-in."""
    return pure if PURE else count


def until(condition: Callable[[], bool]) -> None:
    """Block until something that other threads or processes do is done."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0.0005)


def waits(end: aiospin.BroadcastReader | aiospin.BroadcastWriter) -> bool:
    """Does some task or thread wait on this end? Only for an empty ring (reader) or a full one (writer)."""
    try:
        if isinstance(end, aiospin.BroadcastReader):
            end.receive_nowait()
        else:
            end.send_nowait(b"")
    except aiospin.WouldBlock:
        return False
    except aiospin.BusyResourceError:
        return True
    raise AssertionError("the ring was not as the test assumed")


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
    """``size`` bytes and a head: the number, and a checksum of all that follows it."""
    body = number.to_bytes(8, "little") + random.Random(number).randbytes(size)
    return zlib.crc32(body).to_bytes(4, "little") + body


def number_of(message: bytes | memoryview) -> int:
    """The number of a message.

    :raises AssertionError: it is torn.
    """
    assert zlib.crc32(message[4:]) == int.from_bytes(message[:4], "little"), "torn"
    return int.from_bytes(message[4:12], "little")


class Thread(threading.Thread):
    """A thread whose exception comes out of join()."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._error: BaseException | None = None
        self.result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:
            self._error = error

    def finish(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self.result


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
        environment = dict(os.environ)
        folder = os.path.dirname(__file__)
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, (folder, environment.get("PYTHONPATH")))
        )
        if pure is not None:
            environment["AIOSPIN_NO_EXT"] = "1" if pure else "0"
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
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


def segments() -> Iterator[str]:
    """The files of all segments, temporary ones too."""
    folder = "/dev/shm"
    return (name for name in os.listdir(folder) if "aiospin-" in name)
