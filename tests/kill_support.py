"""Victims: processes that are halted at every system call of an operation, to be killed or continued there.

What others see of a process changes by its stores to shared memory and by its system calls. The first are stepped
through, one instruction at a time, by tests/native/test_ring_kill.c; the second here.

A nursery is a process that forks victims, so that each costs milliseconds, and traces them. The test talks to it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest
from broadcast_support import Child
from support import until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter

TRACEME, CONT, SYSCALL, SETOPTIONS = (
    0,
    7,
    24,
    0x4200,
)  # requests of ptrace(2), on every architecture
TRACESYSGOOD, EXITKILL = 1, 1 << 20
SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
DENIED: Final = 77  # exit status

CAPACITY: Final = 4096
MAX_READERS: Final = 3
LARGE: Final = 3 * CAPACITY  # bytes, for a file of its own


# ---- what victims do ----


@dataclass(frozen=True)
class Operation:
    """Something that is done to a broadcast."""

    prepare: Callable[[str], Any]
    """Makes what it is done with; before the test goes on."""
    run: Callable[[Any], object]
    warm_up: Callable[[Any], object] = lambda _: None
    """Just before it."""


def _writer(name: str) -> BroadcastWriter:
    return BroadcastWriter.create(name, capacity=CAPACITY, max_readers=MAX_READERS)


def _send_in_place(writer: BroadcastWriter) -> None:
    with writer.acquire_write(5) as view:
        view[:] = b"later"


def _read_in_place(reader: BroadcastReader) -> None:
    with reader.acquire_read() as view:
        assert view[:1]


def _wait_in_vain(reader: BroadcastReader) -> None:
    try:
        reader.receive_sync(0.02)
    except TimeoutError:
        pass


def _on_a_loop(function: Callable[[], Any]) -> None:
    anyio.run(function)


def _until_asleep_on_a_bell(writer: BroadcastWriter) -> None:
    """The reader in slot 0 has heard messages, and sleeps on the doorbell that it and the writer have agreed on."""
    memory = writer._segment.memory  # docs/layout.md
    line = int.from_bytes(memory[48:56], "little")  # of slot 0
    bell, parked = line + 24, line + 28
    while memory[bell] != 3:  # parked on the bell
        writer.send_sync(b"first")
        until(lambda: memory[bell] == 3 or memory[parked])


OPERATIONS: Final = {
    "create": Operation(lambda name: name, _writer),
    "send": Operation(_writer, lambda writer: writer.send_sync(b"later")),
    "send in place": Operation(_writer, _send_in_place),
    "send large": Operation(_writer, lambda writer: writer.send_sync(b"l" * LARGE)),
    "send on a loop": Operation(_writer, lambda writer: _on_a_loop(lambda: writer.send(b"later"))),
    "ring": Operation(_writer, lambda writer: writer.send_sync(b"later"), _until_asleep_on_a_bell),
    "close": Operation(_writer, lambda writer: writer.close()),
    "attach": Operation(lambda name: name, BroadcastReader.attach),
    "receive": Operation(BroadcastReader.attach, lambda reader: reader.receive_sync()),
    "receive many": Operation(BroadcastReader.attach, lambda reader: reader.receive_many_sync()),
    "receive in place": Operation(BroadcastReader.attach, _read_in_place),
    "receive on a loop": Operation(
        BroadcastReader.attach, lambda reader: _on_a_loop(reader.receive)
    ),
    "wait": Operation(BroadcastReader.attach, _wait_in_vain),
    "leave": Operation(BroadcastReader.attach, lambda reader: reader.close()),
}


# ---- the nursery: runs in a process of its own ----


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")


def _be_a_victim(operation: Operation, name: str) -> None:
    """Stop before the warm-up, before the operation, and after it."""
    try:
        _ptrace(TRACEME, 0)
    except OSError:
        os._exit(DENIED)
    thing = operation.prepare(name)
    os.kill(os.getpid(), signal.SIGSTOP)
    operation.warm_up(thing)
    os.kill(os.getpid(), signal.SIGSTOP)
    try:
        operation.run(thing)
    except (aiospin.BrokenResourceError, FileExistsError):
        pass  # the test was quicker
    os.kill(os.getpid(), signal.SIGSTOP)


def _stopped_by(pid: int) -> int | None:
    """The signal that stopped it; None: it has ended, with DENIED."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSTOPPED(status):
        return os.WSTOPSIG(status)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == DENIED:
        return None
    raise AssertionError(f"the victim ended with {status:#x}")


def _resume(pid: int, request: int) -> int | None:
    """Let it run to its next stop."""
    _ptrace(request, pid)
    return _stopped_by(pid)


def _tell(line: str) -> None:
    print(line, flush=True)


def tend() -> None:
    """The nursery's work, line by line: "OPERATION NAME" forks a victim, a number lets it make so many stops at
    system calls, "kill" and "go on" end it."""
    _on_a_loop(
        anyio.lowlevel.checkpoint
    )  # loads now what a victim would load in hundreds of system calls
    for line in sys.stdin:
        words = line.split()
        operation, name = OPERATIONS[" ".join(words[:-1])], words[-1]
        pid = os.fork()
        if pid == 0:
            try:
                _be_a_victim(operation, name)
            finally:
                os._exit(1)
        if _stopped_by(pid) is None:
            _tell("denied")
            continue
        _ptrace(SETOPTIONS, pid, TRACESYSGOOD | EXITKILL)
        _tell(str(pid))
        stops, over = int(sys.stdin.readline()), False
        _resume(pid, CONT)
        for _ in range(stops):
            over = _resume(pid, SYSCALL) == signal.SIGSTOP
            if over:
                break
        _tell("over" if over else "halted")
        if sys.stdin.readline().strip() == "go on":
            while not over:
                over = _resume(pid, CONT) == signal.SIGSTOP
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        _tell("gone")


# ---- the test's side ----


class Victim:
    """A process that stands before the warm-up of an operation."""

    def __init__(self, nursery: Child, operation: str, name: str) -> None:
        self._nursery = nursery
        nursery.tell(f"{operation} {name}")
        answer = nursery.hear()
        if answer == "denied":
            pytest.skip("this system does not allow a process to trace its child")
        self.pid = int(answer)

    def halt(self, stops: int) -> bool:
        """Let it run to the so-manieth stop at a system call. False: the operation has not so many."""
        self._nursery.tell(str(stops))
        return self._nursery.hear() == "halted"

    def kill(self) -> None:
        self._nursery.tell("kill")
        self._nursery.expect("gone")

    def go_on(self) -> None:
        """Let it finish; it dies after that, with all that it holds."""
        self._nursery.tell("go on")
        self._nursery.expect("gone")


@contextmanager
def nursery() -> Iterator[Child]:
    with Child("import kill_support; kill_support.tend()") as child:
        yield child
