"""What the tests of the command line share: ``aiospin`` as a child process, and records."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from support import PATIENCE, until

import aiospin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.connection import Connection
    from pathlib import Path

    import pytest
    from typing_extensions import Self


# What a spawned process runs must be importable there by name.


def fails(_: Connection) -> None:
    raise ValueError("on purpose")


def dies(_: Connection) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fresh_name() -> str:
    """A name that nobody has; the pid in it lets conftest see whether its files are left behind."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def records(messages: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(message)) + message for message in messages)


class Command:
    """``python -m aiospin …``, with pipes."""

    def __init__(self, *arguments: object, **options: Any) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aiospin", *map(str, arguments)],
            bufsize=0,  # communicate() would leave out what a buffer has read ahead
            **(pipes | options),
        )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self.process.wait(PATIENCE)

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        assert self.process.stdin.write(data) == len(data)

    def read(self, nbytes: int) -> bytes:
        """Exactly so many bytes of its output."""
        assert self.process.stdout is not None
        found = b""
        while len(found) < nbytes and (more := self.process.stdout.read(nbytes - len(found))):
            found += more
        return found

    def end(self, data: bytes | None = None) -> tuple[int, bytes, str]:
        """Write this, close its input, and wait for its end: exit status, the rest of its output, its stderr."""
        out, err = self.process.communicate(data, timeout=PATIENCE)
        return self.process.returncode, out, err.decode()


def attached(writer: aiospin.BroadcastWriter, readers: int = 1) -> None:
    """Wait until so many readers are there."""
    writer.wait_for_readers_sync(readers, PATIENCE)


def attach(name: str) -> aiospin.BroadcastReader:
    """Attach to a broadcast that another process is about to make."""
    found: list[aiospin.BroadcastReader] = []

    def look() -> bool:
        try:
            found.append(aiospin.BroadcastReader.attach(name))
        except FileNotFoundError:
            return False
        return True

    until(look)
    return found[0]


def forbid(monkeypatch: pytest.MonkeyPatch, function: str, path: Path) -> None:
    """Let a function of os fail for this path as it does for a file of another user; root may do anything."""
    allowed = getattr(os, function)

    def refuse(target: object, *arguments: object, **options: object) -> object:
        if target in (path, str(path)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return allowed(target, *arguments, **options)

    monkeypatch.setattr(os, function, refuse)
