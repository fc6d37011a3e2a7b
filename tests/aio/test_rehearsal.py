"""A rehearsal: when the sleep that its plan began with ends, a reader tries its operation once, and waits on.

Each test says what is planned instead of leaving it to what a stream teaches, and what happens at which moment of
the rehearsal.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from bell_support import asleep_on_bell, balance, bells_ring, running, watch_slices, with_bell
from support import settled as until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter, WaitPolicy
from aiospin._core import core
from aiospin._loops import AsyncioLoop
from aiospin._pace import Pace
from aiospin._policy import PRICE_FREE

pytestmark = bells_ring

CALM = WaitPolicy()
PATIENCE_NS = 10_000_000_000
MOMENT_NS = 1_000_000  # a sleep that a plan begins with; how long is all one

PLANS = {"parks": (core.FOREVER, core.FOREVER), "spins": (0, core.FOREVER)}

# The moments of a rehearsal, in their order. A message of the first two is found by it.
MOMENTS = ("sleep over", "to try", "tried", "back")
FOUND = MOMENTS[:2]


class Stage:
    """The waits of one reader: each sleeps for a moment, and again until it has rehearsed so often; then it parks
    or spins, as ``afterwards`` says."""

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        reader: BroadcastReader,
        afterwards: str = "parks",
        rehearsals: int = 1,
    ) -> None:
        self.tries = 0
        """Calls of the reader's operation; the first of them is before the wait."""
        self.cues: dict[str, Callable[[], object]] = {}
        """What happens at a moment of the first rehearsal."""
        receive, stop, begin = reader._receive, reader._stop_waiting, reader._begin_waiting

        def stop_waiting(ready: bool | None) -> None:
            if ready is None:
                self._cue("sleep over")
            stop(ready)

        def operation() -> bytes | None:
            self.tries += 1
            if self.tries == 2:
                self._cue("to try")
            message = receive()
            if self.tries == 2:
                self._cue("tried")
            return message

        def begin_waiting() -> None:
            begin()
            if self.tries == 2:
                self._cue("back")

        def next_of(pace: Pace) -> tuple[int, int]:
            plan(pace)  # the core has to know that there is one: it learns from what ends the wait
            if self.tries <= rehearsals:
                due_ns = core.now_ns() + MOMENT_NS
                return due_ns, due_ns
            return PLANS[afterwards]

        for name in ("aiospin._loops._asyncio", "aiospin._loops._trio"):
            if name in sys.modules:  # a ring that is lost is a hang
                patch.setattr(f"{name}.LOOK_AGAIN_NS", core.FOREVER)
        plan = Pace.next
        patch.setattr(Pace, "next", next_of)
        patch.setattr(reader, "_receive", operation)
        patch.setattr(reader, "_stop_waiting", stop_waiting)
        patch.setattr(reader, "_begin_waiting", begin_waiting)

    def _cue(self, moment: str) -> None:
        self.cues.pop(moment, int)()


@pytest.fixture(params=PLANS)
def afterwards(request: pytest.FixtureRequest) -> str:
    """How a wait goes on after its rehearsal."""
    plan: str = request.param
    return plan


def its_wait_is_over(reader: BroadcastReader) -> None:
    """Also for what learns from it: the next plan is one of another wait, whose time begins now."""
    assert not reader._target.look()
    now_ns = core.now_ns()
    assert reader._target.wait.plan(PRICE_FREE, PATIENCE_NS)[1] >= now_ns + PATIENCE_NS


async def usable(writer: BroadcastWriter, reader: BroadcastReader) -> None:
    """Nothing is left of the last wait."""
    await writer.send(b"next")
    with anyio.fail_after(PATIENCE_NS / 1e9):
        assert await reader.receive() == b"next"


def test_the_operation_is_tried_at_the_end_of_each_planned_sleep(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that is no end of the wait: it is counted once, and what it waited for is learned from once."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            ended, before, learned = balance(), aiospin.statistics(), reader.statistics().prediction
            stage = Stage(monkeypatch, reader, rehearsals=3)
            async with running(reader.receive) as received:
                await until(lambda: stage.tries == 4)
                await asleep_on_bell(reader)
                now = aiospin.statistics()
                assert now.waits == before.waits + 1
                assert now.parks >= before.parks + 3
                assert balance() == ended - 1
                assert reader.statistics().prediction == learned
                assert now.live_tickets == 0  # it needs no waiter thread
                await writer.send(b"news")
                assert await received.result() == b"news"
            assert stage.tries == 5
            assert balance() == ended
            assert aiospin.statistics().parked == before.parked + 1

    run(main)


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_message_is_lost(
    run: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str, moment: str
) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before = balance()
            stage = Stage(monkeypatch, reader, afterwards)
            stage.cues[moment] = lambda: writer.send_nowait(b"just now")
            with anyio.fail_after(PATIENCE_NS / 1e9):
                assert await reader.receive() == b"just now"
            assert stage.tries == (2 if moment in FOUND else 3)
            assert balance() == before
            its_wait_is_over(reader)
            await usable(writer, reader)

    run(main)


def test_the_spin_begins_at_once(run_asyncio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a sleep others have had their turn: they have the next one after the first slice."""

    async def main() -> None:
        turns: list[str] = []
        loop = asyncio.get_running_loop()

        def callback() -> None:
            nonlocal next_one
            turns.append("callback")
            next_one = loop.call_soon(callback)

        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            watch_slices(monkeypatch, reader, lambda: turns.append("slice"))
            stage = Stage(monkeypatch, reader, "spins")
            stage.cues["tried"] = lambda: turns.append("tried")
            next_one = loop.call_soon(callback)
            async with running(reader.receive) as received:
                await until(lambda: turns.count("slice") >= 2)
                await writer.send(b"news")
                assert await received.result() == b"news"
            next_one.cancel()
        spin = turns[turns.index("tried") :]
        assert spin[:2] == ["tried", "slice"]
        assert spin[2] != "slice"

    run_asyncio(main)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_close_from_another_thread_ends_the_wait(
    run: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str, moment: str
) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before = balance()

            def close() -> None:
                thread = threading.Thread(target=reader.close)
                thread.start()
                thread.join()

            stage = Stage(monkeypatch, reader, afterwards)
            stage.cues[moment] = close
            with anyio.fail_after(PATIENCE_NS / 1e9), pytest.raises(aiospin.ClosedResourceError):
                await reader.receive()
            assert balance() == before

    run(main)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cancellation_ends_the_wait(
    run: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str, moment: str
) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before, cancelled = balance(), aiospin.statistics().cancelled
            with anyio.fail_after(PATIENCE_NS / 1e9), anyio.CancelScope() as scope:
                stage = Stage(monkeypatch, reader, afterwards)
                stage.cues[moment] = scope.cancel
                await reader.receive()
            assert scope.cancelled_caught
            assert aiospin.statistics().cancelled == cancelled + 1
            assert balance() == before
            await usable(writer, reader)

    run(main)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_message_and_a_cancellation(
    run: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str, moment: str
) -> None:
    """The one or the other, and the message is not lost."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before = balance()
            got = b""
            with anyio.fail_after(PATIENCE_NS / 1e9), anyio.CancelScope() as scope:

                def both() -> None:
                    scope.cancel()
                    writer.send_nowait(b"just now")

                stage = Stage(monkeypatch, reader, afterwards)
                stage.cues[moment] = both
                got = await reader.receive()
            with anyio.fail_after(PATIENCE_NS / 1e9):
                assert (got or await reader.receive()) == b"just now"
            assert balance() == before
            await usable(writer, reader)

    run(main)


def test_a_cancellation_beside_the_timer(
    run_asyncio: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str
) -> None:
    """In the same pass of the loop, and first."""

    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:

            def due(loop: Any, bell: Any) -> None:
                receiving.cancel()
                of_the_timer(loop, bell)

            of_the_timer = AsyncioLoop._due
            before = balance()
            with monkeypatch.context() as patch:
                patch.setattr(AsyncioLoop, "_due", due)
                stage = Stage(patch, reader, afterwards)
                receiving = asyncio.ensure_future(reader.receive())
                with pytest.raises(asyncio.CancelledError):
                    await receiving
            assert stage.tries == 1
            assert balance() == before
            await usable(writer, reader)

    run_asyncio(main)


def test_a_deadline_before_the_end_of_the_sleep_is_no_rehearsal(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before, timed_out = balance(), aiospin.statistics().timed_out
            stage = Stage(monkeypatch, reader)
            with pytest.raises(TimeoutError):
                await reader.receive(MOMENT_NS / 1e9 / 10)
            assert stage.tries == 1
            assert aiospin.statistics().timed_out == timed_out + 1
            assert balance() == before
            await usable(writer, reader)

    run(main)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_deadline_that_passes_in_the_rehearsal(
    run: Any, monkeypatch: pytest.MonkeyPatch, afterwards: str, moment: str
) -> None:
    async def main() -> None:
        async with BroadcastWriter.create() as writer, await with_bell(writer, CALM) as reader:
            before, timed_out = balance(), aiospin.statistics().timed_out
            stage = Stage(monkeypatch, reader, afterwards)
            timeout = 20 * MOMENT_NS / 1e9
            too_late = time.monotonic() + 2 * timeout

            def dawdle() -> None:
                while time.monotonic() < too_late:
                    pass

            stage.cues[moment] = dawdle
            with anyio.fail_after(PATIENCE_NS / 1e9), pytest.raises(TimeoutError):
                await reader.receive(timeout)
            assert aiospin.statistics().timed_out == timed_out + 1
            assert balance() == before
            await usable(writer, reader)

    run(main)


# ---- blocking ----


class Due:
    """A reader's wait whose plan has just ended a sleep, the first few times that it runs."""

    def __init__(self, wait: Any, rehearsals: int = 1) -> None:
        self._wait = wait
        self._left = rehearsals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wait, name)

    def run(self, *arguments: Any) -> bool | None:
        self._left -= 1
        return None if self._left >= 0 else self._wait.run(*arguments)


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_message_is_lost_when_a_blocking_wait_rehearses(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with BroadcastWriter.create() as writer, BroadcastReader.attach(writer.handle) as reader:
        before = balance()
        stage = Stage(monkeypatch, reader, rehearsals=0)
        stage.cues[moment] = lambda: writer.send_nowait(b"just now")
        monkeypatch.setattr(reader._target, "wait", Due(reader._target.wait))
        assert reader.receive_sync(PATIENCE_NS / 1e9) == b"just now"
        assert stage.tries == (2 if moment in FOUND else 3)
        assert balance() == before
        its_wait_is_over(reader)


def test_a_blocking_wait_that_rehearses_keeps_its_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    with BroadcastWriter.create() as writer, BroadcastReader.attach(writer.handle) as reader:
        before = balance()
        stage = Stage(monkeypatch, reader, rehearsals=0)
        monkeypatch.setattr(reader._target, "wait", Due(reader._target.wait, 3))
        with pytest.raises(TimeoutError):
            reader.receive_sync(MOMENT_NS / 1e9)
        assert stage.tries == 4
        assert balance() == before


def test_a_blocking_wait_that_rehearses_is_ended_by_a_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with BroadcastWriter.create() as writer, BroadcastReader.attach(writer.handle) as reader:
        before = balance()
        stage = Stage(monkeypatch, reader, rehearsals=0)
        stage.cues["sleep over"] = reader.close
        monkeypatch.setattr(reader._target, "wait", Due(reader._target.wait))
        with pytest.raises(aiospin.ClosedResourceError):
            reader.receive_sync(PATIENCE_NS / 1e9)
        assert balance() == before
