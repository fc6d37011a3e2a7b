"""A planned sleep where there is no doorbell: the waiter thread sleeps on the words meanwhile, for a part of the wait.

A writer that waits for room sleeps so, and a reader whose writer opens no bells. As in test_rehearsal.py each test says
what is planned.
"""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest
from bell_support import balance, running
from broadcast_support import Child, fill, pair, until_waits
from support import settled as until

import aiospin
from aiospin import BroadcastReader, BrokenResourceError, WaitPolicy, _member
from aiospin._core import core
from aiospin._pace import Pace

CALM = WaitPolicy()
PATIENCE_NS = 10_000_000_000
MOMENT_NS = 500_000  # a sleep that a plan begins with; how long is all one


class Plan:
    """What every wait does: it sleeps for so long, again and again, until it is told to spin."""

    def __init__(self, patch: pytest.MonkeyPatch, nap_ns: int = MOMENT_NS) -> None:
        self.naps = 0
        self.spins = False
        plan = Pace.next

        def next_of(pace: Pace) -> tuple[int, int]:
            if pace._planned:
                plan(pace)  # the core has to know that there is one
            if self.spins:
                return 0, core.FOREVER
            self.naps += 1
            due_ns = core.now_ns() + nap_ns
            return due_ns, due_ns

        patch.setattr(Pace, "next", next_of)


@pytest.mark.parametrize("spins", [False, True], ids=["asleep", "spinning"])
def test_it_is_one_wait(run: Any, monkeypatch: pytest.MonkeyPatch, spins: bool) -> None:
    """However often it sleeps, and nobody is asked after when a sleep ends as planned."""
    monkeypatch.setattr(_member, "GUARDED_NS", PATIENCE_NS)
    monkeypatch.setattr(_member._MemberTarget, "recheck_ns", PATIENCE_NS)

    async def main() -> None:
        writer, [reader] = pair(policy=CALM)
        async with writer, reader:
            fill(writer)
            questions: list[str] = []
            writer._target.follows_peers = False  # which begins with a question
            monkeypatch.setattr(writer, "_check_peer", lambda: questions.append("who lives?"))
            ended, before = balance(), aiospin.statistics()
            plan = Plan(monkeypatch)
            async with running(lambda: writer.send(b"news")) as sent:
                await until(lambda: plan.naps > 5)
                plan.spins = spins
                await until_waits(writer)
                assert balance() == ended - 1
                reader.receive_many_nowait()
                await sent.result()
            now = aiospin.statistics()
            assert balance() == ended
            assert now.waits == before.waits + 1
            assert now.timed_out == before.timed_out
            assert now.parked + now.spun == before.parked + before.spun + 1
            assert questions == []
            monkeypatch.undo()
            assert reader.receive_nowait() == b"news"

    run(main)


def test_cancelled_and_late_at_any_time(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends once, as what it was for its caller, also where that and the end of a sleep meet."""

    async def main() -> None:
        writer, [reader] = pair(policy=CALM)
        async with writer, reader:
            fill(writer)
            Plan(monkeypatch)
            chance = random.Random(1)
            ended, before = balance(), aiospin.statistics()
            cancelled = late = 0
            for _ in range(60):
                seconds = chance.uniform(0, 4) * MOMENT_NS / 1e9
                if chance.random() < 0.5:
                    with pytest.raises(TimeoutError):
                        await writer.send(b"never", seconds)
                    late += 1
                else:
                    with anyio.move_on_after(seconds) as scope:
                        await writer.send(b"never")
                    assert scope.cancelled_caught
                    cancelled += 1
            now = aiospin.statistics()
            assert balance() == ended
            assert (now.cancelled - before.cancelled, now.timed_out - before.timed_out) == (
                cancelled,
                late,
            )
            assert now.live_tickets == 0

    run(main)


WRITER = """
writer = BroadcastWriter.create(capacity=4096)
tell(writer.name)
told()
"""


def test_a_death_ends_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before the sleep was to end."""

    async def main() -> None:
        with Child(WRITER) as child:
            async with BroadcastReader.attach(child.hear(), policy=CALM) as reader:
                monkeypatch.setattr(reader, "_bell", None)
                Plan(monkeypatch, PATIENCE_NS)
                ended = balance()

                async def receive() -> None:
                    with pytest.raises(BrokenResourceError):
                        await reader.receive()

                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await until(lambda: aiospin.statistics().live_tickets == 1)
                    child.kill()
                assert balance() == ended

    run(main)
