"""asyncio: the task runs in the very callback that ends its sleep, without another pass of the loop."""

from __future__ import annotations

import asyncio
import contextvars
import signal
from collections import deque
from typing import Any

import pytest
from bell_support import PARK, asleep_on_bell, bells_ring, completions, running, with_bell
from support import settled, until

import aiospin
from aiospin import BroadcastWriter, WaitPolicy, eq, wait_for_flag
from aiospin._loops._asyncio import AsyncioLoop, AsyncioTicket, _Wake, loop_of

THREAD = WaitPolicy(mode="thread")
name = contextvars.ContextVar[str]("name")


@bells_ring
def test_the_ring_runs_the_task(run_asyncio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        over: list[bool] = []
        rung = AsyncioLoop._rung

        def and_then(loop: AsyncioLoop, bell: Any) -> None:
            rung(loop, bell)
            over.append(received.over)

        monkeypatch.setattr(AsyncioLoop, "_rung", and_then)
        async with BroadcastWriter.create() as writer, await with_bell(writer, PARK) as reader:
            async with running(reader.receive) as received:
                await asleep_on_bell(reader)
                await writer.send(b"x")
                assert await received.result() == b"x"
            assert over[0]

    run_asyncio(main)


def test_a_completion_runs_the_task(run_asyncio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        over: list[bool] = []
        drain = AsyncioLoop._drain

        def and_then(loop: AsyncioLoop, batch: deque[AsyncioTicket]) -> None:
            drain(loop, batch)
            over.append(waited.over)

        monkeypatch.setattr(AsyncioLoop, "_drain", and_then)
        word = bytearray(8)
        async with running(lambda: wait_for_flag(word, eq(1), policy=THREAD)) as waited:
            await settled(lambda: aiospin.statistics().live_tickets == 1)
            word[0] = 1
            await waited.result()
        assert over == [True]

    run_asyncio(main)


async def sleeper(wake: _Wake, told: list[Any]) -> None:
    name.set("the task's own")
    try:
        told.append(await wake)
    except BaseException as error:
        told.append(type(error))
        raise
    finally:
        told.append(name.get())


async def one_pass() -> None:
    await asyncio.sleep(0)


def test_in_its_own_context(run_asyncio: Any) -> None:
    async def main() -> None:
        loop, told = asyncio.get_running_loop(), []
        wake = _Wake(loop)
        task = asyncio.ensure_future(sleeper(wake, told))
        await one_pass()

        def end() -> None:
            name.set("the callback's")
            wake.end("awake")
            told.append(name.get())

        loop.call_soon(end)
        await one_pass()
        assert told == ["awake", "the task's own", "the callback's"]
        await task
        wake.end("again")
        assert wake.result() == "awake"

    run_asyncio(main)


def test_of_a_loop_that_runs_inside_a_task(run_asyncio: Any) -> None:
    """Some notebooks do that: two tasks at once there are not, so this one has to come by itself."""

    async def main() -> None:
        told: list[Any] = []
        wake = _Wake(asyncio.get_running_loop())
        task = asyncio.ensure_future(sleeper(wake, told))
        await one_pass()
        wake.end("awake")
        assert told == []
        await one_pass()
        assert told == ["awake", "the task's own"]
        await task

    run_asyncio(main)


@pytest.mark.parametrize("first", ["end", "cancel"])
def test_cancelled(run_asyncio: Any, first: str) -> None:
    """Which of the two is first counts, and the task runs once."""

    async def main() -> None:
        loop, told = asyncio.get_running_loop(), []
        wake = _Wake(loop)
        task = asyncio.ensure_future(sleeper(wake, told))
        await one_pass()
        for step in ("end", "cancel") if first == "end" else ("cancel", "end", "cancel"):
            loop.call_soon(*((wake.end, "awake") if step == "end" else (task.cancel,)))
        await one_pass()
        await one_pass()
        assert told == ["awake" if first == "end" else asyncio.CancelledError, "the task's own"]
        assert task.cancelled() == (first == "cancel")
        if first == "end":
            await task

    run_asyncio(main)


def test_before_it_is_awaited(run_asyncio: Any) -> None:
    async def main() -> None:
        wake = _Wake(asyncio.get_running_loop())
        wake.end("awake")
        assert await wake == "awake"

    run_asyncio(main)


def test_others_may_listen(run_asyncio: Any) -> None:
    """As to any future: a shield, a second task."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wake = _Wake(loop)
        told: list[Any] = []
        tasks = [asyncio.ensure_future(sleeper(wake, told)) for _ in range(2)]
        shield = asyncio.shield(wake)
        await one_pass()
        first, context = wake._step, wake._context
        assert first is not None
        assert wake.remove_done_callback(first) == 1
        assert wake.remove_done_callback(first) == 0
        wake.add_done_callback(first, context=context)
        loop.call_soon(wake.end, "awake")
        assert await shield == "awake"
        await asyncio.gather(*tasks)
        assert told == ["awake", "the task's own"] * 2

    run_asyncio(main)


def test_one_that_raises_leaves_the_others_their_completions(run_asyncio: Any) -> None:
    """KeyboardInterrupt goes through the loop, and who runs it again finds everybody else awake."""

    async def waits(word: bytearray, told: list[int], index: int) -> None:
        await wait_for_flag(word, eq(1), policy=THREAD)
        told.append(index)
        if index == 1:
            raise KeyboardInterrupt

    async def begin(word: bytearray) -> None:
        tasks.extend(asyncio.ensure_future(waits(word, told, index)) for index in range(4))
        await settled(lambda: aiospin.statistics().live_tickets == 4)
        port = loop_of(asyncio.get_running_loop())
        word[0] = 1
        until(lambda: completions(port) == 4)
        await asyncio.wait(tasks)

    async def new_loop() -> asyncio.AbstractEventLoop:
        return type(asyncio.get_running_loop())()

    loop = run_asyncio(new_loop)
    tasks: list[asyncio.Task[None]] = []
    told: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(begin(bytearray(8)))
        loop.run_until_complete(asyncio.wait(tasks))
        assert sorted(told) == [0, 1, 2, 3]
        assert isinstance(tasks[1].exception(), KeyboardInterrupt)
    finally:
        loop.close()


def test_one_that_runs_the_loop_does_not_keep_the_others_asleep() -> None:
    """As nest_asyncio does, or a modal dialog in a loop of Qt: inside the step of one task, for another."""
    loop = asyncio.new_event_loop()
    awake: list[asyncio.Task[Any] | None] = []
    woken: list[list[bool]] = []

    def run_inside(step_of: asyncio.Task[Any]) -> None:
        asyncio.tasks._leave_task(loop, step_of)  # type: ignore[attr-defined]
        for _ in range(3):
            loop.call_soon(lambda: None)  # the poll is not to wait
            loop._run_once()  # type: ignore[attr-defined]
        for _ in range(10):  # the pass outside has counted what it will find
            loop.call_soon(lambda: None)
        asyncio.tasks._enter_task(loop, step_of)  # type: ignore[attr-defined]

    async def one(word: bytearray, tasks: list[asyncio.Task[None]]) -> None:
        await wait_for_flag(word, eq(1), policy=THREAD)
        awake.append(asyncio.current_task())
        if len(awake) == 1:
            assert awake[0] is not None
            run_inside(awake[0])
            woken.append([task.done() for task in tasks if task is not awake[0]])

    async def main() -> None:
        word, tasks = bytearray(8), list[asyncio.Task[None]]()
        tasks += [asyncio.ensure_future(one(word, tasks)) for _ in range(2)]
        await settled(lambda: aiospin.statistics().live_tickets == 2)
        port = loop_of(loop)
        word[0] = 1
        until(lambda: completions(port) == 2)
        await asyncio.gather(*tasks)
        assert woken == [[True]]

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_interrupted_before_a_wait_is_over() -> None:
    """Who comes next finds it in the batch."""

    class Ticket:
        over = interrupted = False

        def resolve(self) -> None:
            if not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            self.over = True

    tickets = [Ticket() for _ in range(3)]
    batch: Any = deque(tickets)
    for _ in tickets:
        with pytest.raises(KeyboardInterrupt):
            AsyncioLoop._resolve(batch)
    AsyncioLoop._resolve(batch)
    assert all(ticket.over for ticket in tickets)
    assert not batch


def test_interrupted_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is not lost: the task goes on, or can be cancelled, when the loop is run again."""
    loop = asyncio.new_event_loop()
    told: list[Any] = []

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    async def begin(wake: _Wake) -> asyncio.Task[None]:
        task = asyncio.ensure_future(sleeper(wake, told))
        await one_pass()
        return task

    try:
        wake = _Wake(loop)
        task = loop.run_until_complete(begin(wake))
        loop.call_soon(wake.end, "awake")
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "current_task", interrupted)
            with pytest.raises(KeyboardInterrupt):
                loop.run_forever()
        assert told == []
        loop.run_until_complete(task)
        assert told == ["awake", "the task's own"]
    finally:
        loop.close()
