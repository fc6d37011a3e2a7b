"""What the tests share: child interpreters, threads, and memory that other processes see.

Nothing here sleeps to order events: who has to wait for somebody watches what that one changes.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.lowlevel import checkpoint

import aiospin

# How many times slower than real hardware this machine is: tests/emulated/qemu_user.py says so.
SLOWNESS = float(os.environ.get("AIOSPIN_TEST_SLOWNESS", "1"))
# seconds; far longer than anything here takes, so that a hang ends as a failure
PATIENCE = 30.0 * SLOWNESS
COMPILED = aiospin.capabilities().backend != "python"


def until(condition: Callable[[], Any]) -> None:
    """Let other threads and processes run until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0)


class Outcome:
    """What a thread came to."""

    def __init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.body: Callable[[], Any]
        self.value: Any = None
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            self.value = self.body()
        except BaseException as error:
            self.error = error

    def get(self) -> Any:
        """What it returned; what it raised is raised here."""
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the thread hangs"
        if self.error is not None:
            raise self.error
        return self.value


@contextmanager
def running(body: Callable[[], Any]) -> Iterator[Outcome]:
    """Run a function in a thread beside the block; what it raised comes out at the end."""
    outcome = Outcome()
    outcome.body = body
    outcome.thread.start()
    yield outcome
    outcome.get()


@contextmanager
def waiting(body: Callable[[], Any]) -> Iterator[Outcome]:
    """The same for a function that waits: the block begins when it looked and found nothing."""
    before = aiospin.statistics().waits
    with running(body) as outcome:
        until(lambda: aiospin.statistics().waits > before or not outcome.thread.is_alive())
        yield outcome


def environment(**extra: str) -> dict[str, str]:
    """This process's environment for a child. A variable is taken away by the value ""."""
    changed: Mapping[str, str] = os.environ | extra
    return {name: value for name, value in changed.items() if value}


def interpreter(
    source: str, *arguments: str, timeout: float = PATIENCE, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter, with ``extra`` in its environment."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**extra),
        check=False,
    )


def clean(source: str, *arguments: str, **extra: str) -> str:
    """What a program printed that ended well: exit status 0 and nothing on stderr."""
    done = interpreter(source, *arguments, **extra)
    assert (done.returncode, done.stderr) == (0, ""), (
        f"{done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


@contextmanager
def shared(path: Path, nbytes: int = 4096) -> Iterator[mmap.mmap]:
    """Memory that another process can map by the path of its file."""
    path.write_bytes(bytes(nbytes))
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), nbytes)
    with memory:
        yield memory


PEER = """
import mmap, sys
import anyio

import aiospin
for line in sys.stdin:
    path, dtype, offset, value, notify = line.split()
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        flag = aiospin.Flag(memory, dtype=dtype, offset=int(offset))
        flag.store(int(value))
        if notify == "True":
            flag.notify()
    print(flush=True)
"""


class Peer:
    """Another process, which stores into shared memory when it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )

    def ask(
        self,
        path: Path,
        value: int,
        *,
        dtype: str = "uint32",
        offset: int = 0,
        notify: bool = False,
    ) -> None:
        """Have it store; it does so some time after this call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path} {dtype} {offset} {value} {notify}\n")
        self._process.stdin.flush()

    def done(self) -> None:
        """Until it has."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "\n", "the peer died"

    def close(self) -> None:
        self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0


_marked = [0]


def mark() -> None:
    """Waits are counted from here, for ``suspended``."""
    _marked[0] = aiospin.statistics().waits


async def suspended(waits: int = 1) -> None:
    """Let the other tasks run until so many waits have looked since ``mark``, and found nothing."""
    await settled(lambda: aiospin.statistics().waits >= _marked[0] + waits)


async def settled(condition: Callable[[], Any]) -> None:
    """Let the other tasks run until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        await checkpoint()


def of_a_child(question: Callable[[], bool]) -> bool:
    """What a forked child answers."""
    pid = os.fork()
    if pid == 0:
        answer = False
        try:
            answer = question()
        finally:
            os._exit(0 if answer else 1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == 0
