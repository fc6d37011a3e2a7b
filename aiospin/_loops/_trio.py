"""trio, through ``trio.lowlevel``. It has no cheap call_soon to slice a spin with, so every wait
goes to the waiter thread, which wakes the run with one idempotent ``run_sync_soon``."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

import outcome
import trio

from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiospin._policy import WaitPolicy
    from aiospin._target import Target
    from aiospin._waiter import Ticket, Waiter

_run_loop: trio.lowlevel.RunVar[TrioLoop] = trio.lowlevel.RunVar("aiospin loop")


def loop_of() -> TrioLoop:
    try:
        return _run_loop.get()
    except LookupError:
        loop = TrioLoop(trio.lowlevel.current_trio_token())
        _run_loop.set(loop)
        return loop


class TrioLoop:
    """The port of one trio run; run_sync_soon itself collapses repeated wakes."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._lock = threading.Lock()  # of _completed
        self._completed: deque[TrioTicket] = deque()

    def post(self, tickets: list[Ticket]) -> None:
        with self._lock:
            self._completed.extend(tickets)  # type: ignore[arg-type]
        try:
            self._token.run_sync_soon(self._drain, idempotent=True)
        except trio.RunFinishedError:
            with self._lock:
                self._completed.clear()  # the run is over: nobody is left to be told

    def _drain(self) -> None:
        with self._lock:
            tickets = list(self._completed)
            self._completed.clear()
        for ticket in tickets:
            ticket.resolve()

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    def task(self) -> object:
        return trio.lowlevel.current_task()

    async def suspend(
        self, target: Target, deadline_ns: int, spin_ns: int, policy: WaitPolicy, waiter: Waiter
    ) -> bool:
        ticket = TrioTicket(self, target, waiter, trio.lowlevel.current_task())

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            if target.withdraw(waiter):
                ticket.task = None
                return trio.lowlevel.Abort.SUCCEEDED
            # A Python predicate is using the buffer in the waiter thread; it resumes us when it is done.
            return trio.lowlevel.Abort.FAILED

        try:
            target.submit(waiter, ticket, deadline_ns, spin_ns, policy)
            status: int = await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            # Cancelled cleanly above; anything else is a run that is being torn down.
            target.withdraw(waiter)
            target.join()
            raise
        if target.withdrawn:
            await trio.lowlevel.checkpoint_if_cancelled()
        return target.outcome(status)


class TrioTicket:
    """One suspended wait."""

    __slots__ = ("_status", "_target", "_waiter", "port", "task")

    def __init__(
        self, port: TrioLoop, target: Target, waiter: Waiter, task: trio.lowlevel.Task
    ) -> None:
        self.port = port
        self.task: trio.lowlevel.Task | None = task
        self._target = target
        self._waiter = waiter
        self._status = core.TIMED_OUT

    def complete(self, status: int) -> bool:
        outcome = self._target.complete(self._waiter, self, status)
        if outcome is None:
            return False
        self._status = outcome
        return True

    def resolve(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task, outcome.Value(self._status))
