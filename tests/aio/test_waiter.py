"""The waiter thread: one's own and the default one, its end, its hand-over to the loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from functools import partial
from typing import Any

import anyio
import pytest
from bell_support import completions
from support import PATIENCE, mark, settled, suspended, until

import aiospin
from aiospin import ClosedResourceError, Waiter, WaitPolicy, eq, ne, wait_for_flag
from aiospin._loops._asyncio import loop_of

PARK = WaitPolicy(mode="park")
POLICIES = {
    "default": WaitPolicy(),
    "park": PARK,
    "thread": WaitPolicy(mode="thread", max_spin=3600, predict=False),
    "adaptive": WaitPolicy(max_spin=1e-3, predict=False),
    "loop": WaitPolicy(mode="loop", max_spin=1e-3, predict=False),
}


def _names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> WaitPolicy:
    return POLICIES[request.param]


def test_a_waiter_of_ones_own(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        with Waiter(name="mine") as waiter:
            assert repr(waiter) == "<aiospin.Waiter 'mine' idle>"
            assert "mine" not in _names(), "no thread before it is needed"

            async def wait() -> None:
                assert await wait_for_flag(word, eq(1), policy=PARK, waiter=waiter) == 1

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await settled(lambda: waiter.live)
                assert "mine" in _names()
                assert "aiospin-waiter" not in _names()
                assert repr(waiter) == "<aiospin.Waiter 'mine' running>"
                word[0] = 1
            assert waiter.live == 0
        assert waiter.closed
        assert repr(waiter) == "<aiospin.Waiter 'mine' closed>"
        assert "mine" not in _names()
        waiter.close()

    run(main)


def test_a_closed_waiter_takes_no_waits(run: Any, policy: WaitPolicy) -> None:
    async def main() -> None:
        waiter = Waiter(name="mine")
        waiter.close()
        word = bytearray(8)
        assert await wait_for_flag(word, eq(0), waiter=waiter) == 0
        with pytest.raises(ClosedResourceError, match=r"mine.*closed"), anyio.fail_after(PATIENCE):
            await wait_for_flag(word, eq(1), policy=policy, waiter=waiter)
        with pytest.raises(ClosedResourceError, match=r"mine.*closed"):
            await wait_for_flag(word, lambda: False, policy=policy, waiter=waiter)
        word.append(0)

    run(main)


def test_closing_a_waiter_ends_its_waits(run: Any) -> None:
    async def main() -> None:
        word, ended = bytearray(8), []
        waiter = Waiter()
        live = aiospin.statistics().live_tickets

        async def wait(predicate: Any, policy: WaitPolicy) -> None:
            with pytest.raises(ClosedResourceError):
                await wait_for_flag(word, predicate, policy=policy, waiter=waiter)
            ended.append(predicate)

        async with anyio.create_task_group() as group:
            for policy in (PARK, POLICIES["thread"]):
                group.start_soon(wait, eq(1), policy)
                group.start_soon(wait, lambda buffer: buffer[0] == 1, policy)
            await settled(lambda: aiospin.statistics().live_tickets == live + 4)
            waiter.close()
        assert len(ended) == 4
        word.append(0)

    run(main)


@pytest.mark.parametrize("mode", ["adaptive", "loop"])
def test_a_waiter_that_is_closed_in_mid_spin(run: Any, mode: Any) -> None:
    """The slices on the loop end, and the waiter that is to go on is closed."""

    async def main() -> None:
        word, ended = bytearray(8), []
        waiter = Waiter(name="mine")
        policy = WaitPolicy(mode=mode, max_spin=0.02, predict=False)
        mark()

        async def wait() -> None:
            with pytest.raises(ClosedResourceError), anyio.fail_after(PATIENCE):
                await wait_for_flag(word, eq(1), policy=policy, waiter=waiter)
            ended.append(True)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            waiter.close()
        assert ended
        word.append(0)

    run(main)


def test_a_thread_that_cannot_be_started(
    run: Any, policy: WaitPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        word = bytearray(8)

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with Waiter() as waiter:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                for predicate in (eq(1), lambda: False):
                    with (
                        pytest.raises(RuntimeError, match="can't start new thread"),
                        anyio.fail_after(PATIENCE),
                    ):
                        await wait_for_flag(word, predicate, policy=policy, waiter=waiter)
                    assert waiter.live == 0
                    word.append(0)
            with pytest.raises(TimeoutError):
                await wait_for_flag(word, eq(1), 1e-3, policy=PARK, waiter=waiter)

    run(main)


def test_a_closed_waiter_cannot_be_entered() -> None:
    waiter = Waiter(name="mine")
    waiter.close()
    with pytest.raises(ClosedResourceError, match=r"mine.*closed"), waiter:
        pass


def test_bad_arguments(run: Any) -> None:
    async def main() -> None:
        for wrong in (1, "mine", object(), Waiter):
            with pytest.raises(TypeError, match=r"waiter must be an aiospin\.Waiter"):
                await wait_for_flag(bytearray(8), eq(1), waiter=wrong)

    run(main)
    with pytest.raises(TypeError, match="name must be a string"):
        Waiter(name=None)  # type: ignore[arg-type]


def test_two_waiters_serve_side_by_side(run: Any) -> None:
    """A slow predicate in one does not delay the other."""

    async def main() -> None:
        word, entered, leave = bytearray(8), threading.Event(), threading.Event()
        loop_thread = threading.get_ident()

        def slow() -> bool:
            if threading.get_ident() == loop_thread:
                return False
            entered.set()
            return leave.wait(30)

        async def wait_slowly(waiter: Waiter) -> None:
            await wait_for_flag(word, slow, waiter=waiter)

        mark()
        with Waiter(name="slow") as waiter:
            async with anyio.create_task_group() as group:
                group.start_soon(wait_slowly, waiter)
                await suspended()
                word[7] = 1
                await settled(entered.is_set)
                with pytest.raises(TimeoutError):
                    await wait_for_flag(word, eq(1), 0.01, policy=PARK)
                leave.set()

    run(main)


def test_one_wake_for_many_completions(run_asyncio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loop has not come to it, one wake is pending and no more."""

    async def main() -> None:
        count, wakes = 100, 0
        word = bytearray(8)
        loop = asyncio.get_running_loop()
        port, live = loop_of(loop), aiospin.statistics().live_tickets

        class Spy:
            def call_soon_threadsafe(self, *arguments: Any) -> Any:
                nonlocal wakes
                wakes += 1
                return loop.call_soon_threadsafe(*arguments)

        spy = Spy()
        monkeypatch.setattr(port, "_loop", lambda: spy)

        async with anyio.create_task_group() as group:
            for index in range(count):
                group.start_soon(
                    lambda index=index: wait_for_flag(
                        word, ne(0, offset=index % 8), policy=POLICIES["thread"]
                    )
                )
            await settled(lambda: aiospin.statistics().live_tickets == live + count)
            for index in range(8):  # one after the other, so that they come in several batches
                word[index] = 1
                until(lambda index=index: completions(port) >= (index + 1) * (count // 8))
            until(lambda: completions(port) == count)
            assert wakes == 1
        assert wakes == 1

    run_asyncio(main)


def test_the_default_waiter_starts_again(run: Any) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await wait_for_flag(bytearray(8), eq(1), 50e-3, policy=PARK)
            assert "aiospin-waiter" in _names()
            aiospin._waiter.close_default_waiter()
            assert "aiospin-waiter" not in _names()

    run(main)


@pytest.mark.parametrize("when", ["after", "before"])
def test_a_loop_that_is_closed_under_its_waits(
    run_asyncio: Any, policy: WaitPolicy, when: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No wake of it, no output, and the buffer is free once the task is gone. So it is if the wait was over before, and
    the loop had been told."""
    made: list[Any] = []

    async def main() -> None:
        made.append(type(asyncio.get_running_loop()))

    run_asyncio(main)
    loop = made[0]()
    word = bytearray(8)

    async def begin() -> asyncio.Task[Any]:
        mark()
        task = asyncio.ensure_future(wait_for_flag(word, eq(1), policy=policy))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own complaint
        await suspended()
        return task

    task = loop.run_until_complete(begin())
    if when == "after":
        loop.close()
    word[0] = 1
    if policy in (PARK, POLICIES["thread"]):
        until(lambda: aiospin.statistics().live_tickets == 0)  # it completes, for nobody
        if when == "before":
            until(partial(completions, loop_of(loop)))
    loop.close()
    assert not task.done()
    del task, loop

    def is_free() -> bool:
        gc.collect()  # the task and what it waits for refer to each other
        return aiospin.statistics().pinned_buffers == 0

    until(is_free)
    word.append(0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mode", ["thread", "park"])
def test_a_coroutine_that_is_dropped(run_asyncio: Any, mode: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        coroutine = wait_for_flag(word, eq(1), policy=WaitPolicy(mode=mode))
        assert coroutine.send(None) is not None
        with pytest.raises(BufferError):
            word.append(0)
        coroutine.close()
        word.append(0)

    run_asyncio(main)
