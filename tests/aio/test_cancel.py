"""Cancellation: when the await ends, by whatever cause, nothing refers to the buffer any more."""

from __future__ import annotations

import asyncio
import threading
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from bell_support import completions
from support import PATIENCE, mark, settled, suspended, until

import aiospin
from aiospin import Flag, WaitPolicy, eq, wait_for_flag, wait_for_flag_sync
from aiospin._core import core
from aiospin._loops import current_loop
from aiospin._target import RecheckedTarget

WAYS: dict[str, dict[str, Any]] = {
    "adaptive": {"policy": WaitPolicy(max_spin=1e-3, predict=False)},
    "loop": {"policy": WaitPolicy(mode="loop", max_spin=1.0, predict=False)},
    "thread": {"policy": WaitPolicy(mode="thread", max_spin=1.0, predict=False)},
    "park": {"policy": WaitPolicy(mode="park")},
    "notified": {"policy": WaitPolicy(mode="park"), "notified": True},
    "callable": {"predicate": lambda buffer: buffer[0] == 1},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"predicate": eq(1), **WAYS[request.param]}


def test_cancel_then_close(run: Any, way: dict[str, Any]) -> None:
    async def main() -> None:
        shm = SharedMemory(create=True, size=64)
        mark()
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: wait_for_flag(shm.buf, **way))
            await suspended()
            group.cancel_scope.cancel()
        shm.close()
        shm.unlink()

    run(main)


def test_a_tasks_own_cancel(run_asyncio: Any, way: dict[str, Any]) -> None:
    async def main() -> None:
        shm = SharedMemory(create=True, size=64)
        mark()
        task = asyncio.ensure_future(wait_for_flag(shm.buf[8:16], **way))
        await suspended()
        task.cancel("enough")
        try:
            await task
        except asyncio.CancelledError:
            shm.close()  # with the error and its traceback still alive
            shm.unlink()
        assert task.cancelled()

    run_asyncio(main)


def test_anyios_timeouts(run: Any, way: dict[str, Any]) -> None:
    async def main() -> None:
        word = bytearray(8)
        with anyio.move_on_after(0.01) as scope:
            await wait_for_flag(word, **way)
        assert scope.cancelled_caught
        word.append(0)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await Flag(word, dtype="B").wait(way["predicate"])
        word.append(0)

    run(main)


def test_asyncios_wait_for(run_asyncio: Any, way: dict[str, Any]) -> None:
    async def main() -> None:
        word = bytearray(8)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait_for_flag(word, **way), 0.01)
        word.append(0)

    run_asyncio(main)


def test_a_wait_that_is_cancelled_before_it_begins(run: Any, way: dict[str, Any]) -> None:
    async def main() -> None:
        word = bytearray(8)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await wait_for_flag(word, **way)
        assert scope.cancelled_caught
        word.append(0)
        with anyio.CancelScope() as scope:
            scope.cancel()
            word[0] = 1
            assert await wait_for_flag(word, **way), (
                "ready does not suspend, so it is not cancelled"
            )
        word.append(0)

    run(main)


def test_one_of_many_is_cancelled(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        seen: list[int] = []
        scopes = [anyio.CancelScope() for _ in range(10)]
        mark()

        async def wait(index: int) -> None:
            with scopes[index]:
                await wait_for_flag(word, eq(1), policy=WaitPolicy(mode="park"))
                seen.append(index)

        async with anyio.create_task_group() as group:
            for index in range(10):
                group.start_soon(wait, index)
            await suspended(10)
            for scope in scopes[::2]:
                scope.cancel()
            await settled(lambda: aiospin.statistics().live_tickets == 5)
            word[0] = 1
        assert sorted(seen) == [1, 3, 5, 7, 9]

    run(main)


@pytest.mark.parametrize("name", ["thread", "park", "notified", "callable"])
def test_a_cancel_after_completion(run: Any, name: str) -> None:
    """The waiter thread has posted it and the loop has not come to it: the late wake finds nobody."""

    async def main() -> None:
        word, live, port = bytearray(8), aiospin.statistics().live_tickets, current_loop()
        way = {"predicate": eq(1), **WAYS[name]}

        async with anyio.create_task_group() as group:
            group.start_soon(lambda: wait_for_flag(word, **way))
            await settled(lambda: aiospin.statistics().live_tickets > live)
            word[0] = 1
            Flag(word, dtype="B").notify()
            until(lambda: completions(port))  # this thread does not let the loop run meanwhile
            group.cancel_scope.cancel()
        for _ in range(5):
            await checkpoint()
        word.append(0)

    run(main)


# Rounds of cancel-then-close for each way; on plain asyncio they add up to more than ten thousand.
ROUNDS = {"asyncio": 1700}
FEWER = 150


def test_ten_thousand_rounds(run: Any, way: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Cancelled at different moments, also just as the word comes to be what is waited for."""
    rounds = ROUNDS.get(request.node.callspec.params["run"], FEWER)
    assert ROUNDS["asyncio"] * len(WAYS) >= 10_000

    async def main() -> None:
        ended = []

        async def wait(shm: SharedMemory) -> None:
            try:
                ended.append(await wait_for_flag(shm.buf, **way))
            except BaseException:
                ended.append(None)
                raise

        for turn in range(rounds):
            shm = SharedMemory(create=True, size=64)
            async with anyio.create_task_group() as group:
                group.start_soon(wait, shm)
                for _ in range(turn % 5):
                    await checkpoint()
                if turn % 3 == 0:
                    shm.buf[0] = 1
                    Flag(shm.buf, dtype="B").notify()
                group.cancel_scope.cancel()
            shm.close()
            shm.unlink()
        assert len(ended) <= rounds  # one that never began is not counted
        assert ended.count(None) > rounds // 3

    run(main)


# ---- while a Python predicate runs in the waiter thread ----


class Slow:
    """A predicate that says when it runs in the waiter thread, and stays there until it is let go."""

    def __init__(self, answer: Any = False) -> None:
        self.caller = threading.get_ident()
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.left = False
        self.answer = answer

    def __call__(self, buffer: memoryview) -> Any:
        if threading.get_ident() == self.caller:
            return False
        self.entered.set()
        assert self.leave.wait(PATIENCE)
        assert buffer[1] == 0, "the buffer is still there"
        self.left = True
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [False, True, LookupError("too late")], ids=repr)
def test_the_await_ends_when_the_predicate_has_returned(run: Any, answer: Any) -> None:
    async def main() -> None:
        shm = SharedMemory(create=True, size=64)
        slow, ended = Slow(answer), []
        mark()

        async def wait() -> None:
            try:
                await wait_for_flag(shm.buf, slow)
            finally:
                ended.append(slow.left)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            shm.buf[0] = 1
            await settled(slow.entered.is_set)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(50):  # the loop goes on meanwhile
                    await checkpoint()
                assert not ended
            slow.leave.set()
        assert ended == [True]
        shm.close()
        shm.unlink()

    run(main)


def test_a_second_cancel_does_not_cut_it_short(run_asyncio: Any) -> None:
    async def main() -> None:
        word, slow = bytearray(8), Slow()
        mark()
        task = asyncio.ensure_future(wait_for_flag(word, slow))
        await suspended()
        word[0] = 1
        await settled(slow.entered.is_set)
        for _ in range(3):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
        slow.leave.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slow.left
        word.append(0)

    run_asyncio(main)


def test_a_slow_predicate_can_still_end_the_wait(run: Any) -> None:
    async def main() -> None:
        word, slow, results = bytearray(8), Slow("done"), []
        mark()

        async def wait() -> None:
            results.append(await wait_for_flag(word, slow))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            word[0] = 1
            await settled(slow.entered.is_set)
            slow.leave.set()
        assert results == ["done"]
        word.append(0)

    run(main)


# ---- a completion that comes too late ----


class Table:
    """A waiter that only remembers what was submitted to it."""

    def __init__(self) -> None:
        self.submitted: list[object] = []

    def _submit(self, _: object, ticket: object, *__: object, **___: object) -> None:
        self.submitted.append(ticket)

    def _cancel(self, _: object) -> bool:
        return False  # it completed; the completion is on its way through the waiter thread


class Never(RecheckedTarget):
    """Not over, or a mistake, whenever Python looks after it."""

    __slots__ = ("answer",)

    recheck_ns = 50_000_000

    def __init__(self, answer: BaseException | None) -> None:
        super().__init__(core.Wait(bytearray(8), None, False))
        self.answer = answer

    def recheck(self, woken: bool) -> bool:
        if self.answer is not None:
            raise self.answer
        return woken


def _completes_too_late(target: Any, status: int) -> None:
    table, policy = Table(), WaitPolicy()
    first, second = object(), object()
    target.submit(table, first, core.FOREVER, 0, policy)
    assert target.withdraw(table)
    target.submit(table, second, core.FOREVER, 0, policy)
    assert target.complete(table, first, status) == status, "it is over, for nobody"
    assert table.submitted == [first, second], "nothing is submitted again in the name of the old"
    assert not target.withdrawn
    assert target.outcome(core.TIMED_OUT) is False, "no error of the old comes out of the new"


@pytest.mark.parametrize("status", [core.READY, core.TIMED_OUT], ids=["ready", "timed out"])
@pytest.mark.parametrize("answer", [None, LookupError("stale")], ids=["goes on", "raises"])
def test_a_stale_completion_does_not_disturb_the_next_wait(
    status: int, answer: BaseException | None
) -> None:
    target = Never(answer)
    _completes_too_late(target, status)
    target.release()


@pytest.mark.parametrize("status", [core.READY, core.TIMED_OUT], ids=["ready", "timed out"])
def test_the_same_at_the_ends_of_a_broadcast(status: int) -> None:
    with (
        aiospin.BroadcastWriter.create(capacity=4096) as writer,
        aiospin.BroadcastReader.attach(writer.handle) as reader,
    ):
        _completes_too_late(reader._target, status)
        _completes_too_late(writer._target, status)


# ---- errors keep no hold on the buffer ----

MISTAKES: list[Any] = [
    pytest.param(predicate, options, id=name)
    for name, predicate, options in (
        ("negative timeout", eq(1), {"timeout": -1}),
        ("timeout of the wrong type", eq(1), {"timeout": "1"}),
        ("no policy", eq(1), {"policy": "latency"}),
        ("no predicate", 5, {}),
        ("async predicate", asyncio.sleep, {}),
        ("predicate of too many arguments", lambda a, b: True, {}),
        ("value that does not fit", eq(256), {}),
        ("offset behind the end", eq(1, dtype="I", offset=100), {}),
        ("unaligned", eq(1, dtype="I", offset=2), {}),
    )
]


@pytest.mark.parametrize(("predicate", "options"), MISTAKES)
def test_a_refused_wait_lets_go_of_the_buffer(
    run: Any, predicate: Any, options: dict[str, Any]
) -> None:
    """Also of a slice made for the call, while the error and its traceback are still alive."""

    async def main() -> None:
        word = bytearray(64)
        with pytest.raises((TypeError, ValueError)) as info:
            await wait_for_flag(memoryview(word)[:8], predicate, **options)
        word.clear()
        assert info.value.__traceback__ is not None

    run(main)


@pytest.mark.parametrize(("predicate", "options"), MISTAKES)
def test_a_refused_blocking_wait_lets_go_of_the_buffer(
    predicate: Any, options: dict[str, Any]
) -> None:
    word = bytearray(64)
    with pytest.raises((TypeError, ValueError)) as info:
        wait_for_flag_sync(memoryview(word)[:8], predicate, **options)
    word.clear()
    assert info.value.__traceback__ is not None
