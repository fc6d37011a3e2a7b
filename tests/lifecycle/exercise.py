"""Every kind of wait, blocking and on a loop: what a program must be able to do under whatever hardship.

Runs in child processes, whose hardship began before this is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

import anyio
from broadcast_support import fill
from support import PATIENCE, mark, suspended, waiting

import aiospin
from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    EndOfStream,
    Flag,
    WaitPolicy,
    eq,
    wait_for_flag,
    wait_for_flag_sync,
)

POLICIES: Final = {
    "default": WaitPolicy(),
    "loop": WaitPolicy("loop", max_spin=0.002, predict=False),
    "thread": WaitPolicy("thread", max_spin=0.002, predict=False),
    "park": WaitPolicy("park"),
}
PREDICATES: Final[list[Any]] = [eq(1), lambda view: view[0] == 1]
SHORT: Final = 0.005  # seconds
ROUNDS: Final = 4  # a bell is agreed on in the first ones, the others may sleep on it
LARGE: Final = 9000  # bytes, for a file of its own
SKIPPED: Final = 77  # exit status of a program that cannot be put to it here
BACKENDS: Final = ("asyncio", "trio")


def _files() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith(f"aiospin-{os.getpid()}-")}


_before: Final = _files()  # of somebody who had this pid before


def files() -> set[str]:
    """What this process has in shared memory, or has left there."""
    return _files() - _before


def everything(backends: tuple[str, ...] = BACKENDS) -> None:
    for policy in POLICIES.values():
        blocking_words(policy)
        blocking_broadcast(policy)
        for backend in backends:
            anyio.run(words, policy, backend=backend)
            anyio.run(broadcast, policy, backend=backend)


def expires(call: Callable[[], Any]) -> None:
    try:
        call()
    except TimeoutError:
        return
    raise AssertionError("it did not time out")


async def expires_async(call: Callable[[], Any]) -> None:
    try:
        await call()
    except TimeoutError:
        return
    raise AssertionError("it did not time out")


def blocking_words(policy: WaitPolicy) -> None:
    word = bytearray(64)
    flag = Flag(word, dtype="B")
    for predicate in PREDICATES:
        for notified in (False, True):
            options = {"notified": notified, "policy": policy}
            expires(lambda: wait_for_flag_sync(word, predicate, SHORT, **options))  # noqa: B023
            with waiting(lambda: wait_for_flag_sync(word, predicate, PATIENCE, **options)) as it:  # noqa: B023
                flag.store(1)
                flag.notify()
            assert it.get() == 1
            flag.store(0)
    with waiting(lambda: aiospin.spinloop(word, lambda: word[0] == 1, PATIENCE)) as it:
        flag.store(1)
    assert it.get() is True
    word.clear()  # nothing holds it any more


async def words(policy: WaitPolicy) -> None:
    word = bytearray(64)
    flag = Flag(word, dtype="B")
    for predicate in PREDICATES:
        for notified in (False, True):
            options = {"notified": notified, "policy": policy}
            await expires_async(lambda: wait_for_flag(word, predicate, SHORT, **options))  # noqa: B023
            mark()
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(lambda: wait_for_flag(word, predicate, PATIENCE, **options))  # noqa: B023
                await suspended(3)
                flag.store(1)
                flag.notify()
            flag.store(0)
    word.clear()


def blocking_broadcast(policy: WaitPolicy) -> None:
    with (
        BroadcastWriter.create(capacity=4096, policy=policy) as writer,
        BroadcastReader.attach(writer.handle, policy=policy) as reader,
    ):
        writer.wait_for_readers_sync(1, PATIENCE)
        for message in (b"a", b"b", bytes(LARGE)):
            with waiting(lambda: reader.receive_sync(PATIENCE)) as it:
                writer.send_sync(message)
            assert it.get() == message
        expires(lambda: reader.receive_sync(SHORT))
        count = fill(writer)
        expires(lambda: writer.send_sync(b"", SHORT))
        with waiting(lambda: writer.send_sync(b"later", PATIENCE)):
            assert len(reader.receive_many_sync(count)) == count
        assert reader.receive_sync(PATIENCE) == b"later"
        writer.close()
        try:
            reader.receive_sync(PATIENCE)
        except EndOfStream:
            return
    raise AssertionError("the stream did not end")


async def broadcast(policy: WaitPolicy) -> None:
    async with (
        BroadcastWriter.create(capacity=4096, policy=policy) as writer,
        BroadcastReader.attach(writer.handle, policy=policy) as reader,
    ):
        await writer.wait_for_readers(1, PATIENCE)
        for message in (*(bytes([number]) for number in range(ROUNDS)), bytes(LARGE)):
            assert await _while_waiting(lambda: reader.receive(PATIENCE), writer.send, message) == message  # fmt: skip
        await expires_async(lambda: reader.receive(SHORT))
        count = fill(writer)
        await expires_async(lambda: writer.send(b"", SHORT))
        await _while_waiting(lambda: writer.send(b"later"), reader.receive_many, count)
        assert await reader.receive(PATIENCE) == b"later"
        try:
            await _while_waiting(lambda: reader.receive(PATIENCE), writer.aclose)
        except EndOfStream:
            return
    raise AssertionError("the stream did not end")


async def _while_waiting(wait: Callable[[], Any], act: Callable[..., Any], *args: object) -> Any:
    """Act when the wait has looked and found nothing; what the wait came to."""
    outcome: list[Any] = []
    error: list[Exception] = []

    async def run() -> None:
        try:
            outcome.append(await wait())
        except Exception as raised:
            error.append(raised)

    mark()
    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await suspended()
        await act(*args)
    if error:
        raise error[0]
    return outcome[0]


def echo(there: str, back: str, backend: str | None, policy: WaitPolicy) -> None:
    """Answer each message of one broadcast on another, until the first ends."""
    with BroadcastWriter.create(back, policy=policy) as writer:
        print("there", flush=True)
        with BroadcastReader.attach(there, policy=policy) as reader:
            writer.wait_for_readers_sync(1, PATIENCE)
            if backend is None:
                for message in reader.iter_sync():
                    writer.send_sync(message)
            else:
                anyio.run(_echo, reader, writer, backend=backend)


async def _echo(reader: BroadcastReader, writer: BroadcastWriter) -> None:
    async for message in reader:
        await writer.send(message)
