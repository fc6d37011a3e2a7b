"""trio, through ``trio.lowlevel``.

A wait spins in slices with a checkpoint between two of them, in which other tasks run and cancellation
arrives. It sleeps in trio's own poll, on a doorbell, where it has one; else the waiter thread wakes the run
with one idempotent ``run_sync_soon``.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

import outcome
import trio

from aiospin._bell import LOOK_AGAIN_NS
from aiospin._closes import Listener
from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiospin._bell import Bell
    from aiospin._closes import Closes
    from aiospin._pace import Pace
    from aiospin._policy import WaitPolicy
    from aiospin._target import Target
    from aiospin._waiter import Ticket, Waiter

# One slice of spinning, and what a checkpoint may take before it is said to have run somebody else's
# tasks. Twice and three times those of asyncio, because a checkpoint does more than a callback; chosen, not
# measured.
SLICE_NS: Final = 20_000
BUSY_NS: Final = 60_000
BUSY_PASSES: Final = 2  # in a row; one may be a stray timer
# A first slice may end the wait without a checkpoint. Of so many waits one lets others run in any case: as
# often as a task that never has to wait (BUDGET of _wait.py).
WAITS_PER_CHECKPOINT: Final = 128

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
        self._slicing = False  # a wait of this run is spinning in slices
        self._waits = 0
        self._listener = _Listener()

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
        self, target: Target, deadline_ns: int, pace: Pace, policy: WaitPolicy, waiter: Waiter
    ) -> bool | None:
        if policy.mode == "thread" or not target.sliceable:
            return await self._with_waiter(target, deadline_ns, pace.rest(), policy, waiter)
        self._waits += 1
        pause = self._waits % WAITS_PER_CHECKPOINT == 0 and not pace.rehearsed
        while True:
            from_ns, until_ns = pace.next()
            slept = False
            over: bool | None = None
            try:
                if pause:
                    pause = False
                    await trio.lowlevel.checkpoint()
                slept = core.now_ns() < from_ns
                if slept:
                    over = await self._on_bell(target, min(from_ns, deadline_ns))
                    if over is None and from_ns < deadline_ns:
                        over = await self._beside(target, from_ns, policy, waiter)
                elif not self._slicing:
                    over = await self._in_slices(target, min(until_ns, deadline_ns), policy)
            except (trio.Cancelled, KeyboardInterrupt, GeneratorExit):
                core.count("cancelled", 1)
                raise
            if over is None:
                return await self._with_waiter(target, deadline_ns, pace.rest(), policy, waiter)
            if over:
                return True
            if core.now_ns() >= deadline_ns:
                core.count("timed_out", 1)
                return False
            if slept and from_ns != core.FOREVER:
                return None

    async def _in_slices(self, target: Target, until_ns: int, policy: WaitPolicy) -> bool | None:
        """Spin on the run's own thread. None: the run has other work, spin beside it."""
        busy_passes = 0
        recheck_at_ns = core.now_ns() + target.recheck_ns
        try:
            self._slicing = True
            while True:
                now = core.now_ns()
                left_ns = max(until_ns - now, 0)
                if target.wait.spin(min(SLICE_NS, left_ns), policy.hardware):
                    return True
                if left_ns <= SLICE_NS:
                    return False
                if now >= recheck_at_ns:
                    return target.recheck_now()
                began = core.now_ns()
                await trio.lowlevel.checkpoint()
                busy = core.now_ns() - began > BUSY_NS and policy.mode != "loop"
                busy_passes = busy_passes + 1 if busy else 0
                if busy_passes == BUSY_PASSES:
                    return None
        finally:
            self._slicing = False

    async def _on_bell(self, target: Target, until_ns: int) -> bool | None:
        """Sleep in the run's poll. None: there is no bell to sleep on."""
        bell = target.bell
        if bell is None or (bell.owner is not self and not self._adopt(bell)):
            return None
        # What the last sleep, or one in another loop, has left behind: nobody has polled it since.
        if not bell.drain():  # the writer's end is closed
            bell.discard()
            return None
        asleep_until_ns = min(until_ns, core.now_ns() + LOOK_AGAIN_NS)
        bell.arm(asleep_until_ns)
        if not bell.park():
            return True if target.wait.spin(0, False) else None
        bell.sleeper = self
        try:
            with contextlib.suppress(trio.ClosedResourceError):  # wake()
                await trio.lowlevel.wait_readable(bell.door)
        finally:
            bell.sleeper = None
            bell.unpark()
        due = core.now_ns() >= asleep_until_ns
        planned = due and asleep_until_ns == until_ns
        due_ns = until_ns if planned else core.FOREVER if due else 0
        return target.wait.woken(due_ns) or (not planned and target.recheck_now())

    def _adopt(self, bell: Bell) -> bool:
        if not bell.ready() or (bell.owner is not None and not bell.owner.disown(bell)):
            return False
        try:
            _ = bell.door
        except OSError:  # no more descriptors: the waiter thread does it all
            bell.discard()
            return False
        bell.owner = self
        return True

    def disown(self, bell: Bell, then: Callable[[], None] | None = None) -> bool:
        """Poll it no longer, and do something after that: at once, as only a sleeping wait polls it."""
        bell.owner = None
        if then is not None:
            then()
        return True

    def wake(self, bell: Bell) -> None:
        """End the sleep on it, if there is one. From any thread."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._wake, bell)

    @staticmethod
    def _wake(bell: Bell) -> None:
        if bell.sleeper is not None:
            trio.lowlevel.notify_closing(bell.door)

    async def _beside(
        self, target: Target, until_ns: int, policy: WaitPolicy, waiter: Waiter
    ) -> bool:
        """Sleep until a time that was planned, while the waiter thread sleeps on the watch."""
        try:
            woken = await self._with_waiter(target, until_ns, 0, policy, waiter, nap=True)
        except Exception:  # of the recheck, which ends the wait; suspend() counts a cancellation
            core.count("parked", 1)
            raise
        return target.wait.woken(0 if woken else until_ns) or (woken and target.recheck_now())

    async def _with_waiter(
        self,
        target: Target,
        deadline_ns: int,
        spin_ns: int | None,
        policy: WaitPolicy,
        waiter: Waiter,
        nap: bool = False,
    ) -> bool:
        ticket = TrioTicket(self, target, waiter, trio.lowlevel.current_task())

        def abort(_: Callable[[], None]) -> trio.lowlevel.Abort:
            if target.withdraw(waiter):
                ticket.task = None
                return trio.lowlevel.Abort.SUCCEEDED
            # A Python predicate is using the buffer in the waiter thread; it resumes us when it is done.
            return trio.lowlevel.Abort.FAILED

        closes = self._listener.follow(target) if target.follows_peers else None
        try:
            target.submit(waiter, ticket, deadline_ns, spin_ns, policy, nap, closes)
            status: int = await trio.lowlevel.wait_task_rescheduled(abort)
        except BaseException:
            # Cancelled cleanly above; anything else is a run that is being torn down.
            target.withdraw(waiter)
            target.join()
            raise
        if target.withdrawn:
            await trio.lowlevel.checkpoint_if_cancelled()
        return target.outcome(status)


class _Listener(Listener):
    def _poll(self, closes: Closes) -> None:
        trio.lowlevel.spawn_system_task(self._listen, closes)

    async def _listen(self, closes: Closes) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(closes.fd)
                self._hear(closes)
        except OSError:  # the poll takes no more descriptors
            self._deaf = True
        finally:  # at the end of the run, too
            closes.close()

    def _hear(self, closes: Closes) -> None:
        if heard := closes.hear():
            questions = closes.questions(heard)
            for pause in questions:  # once: the first of them is asked at once
                with contextlib.suppress(RuntimeError):  # the run is ending
                    trio.lowlevel.spawn_system_task(self._ask_again, questions, pause)
                break

    async def _ask_again(self, questions: Iterator[float], pause: float | None) -> None:
        while pause is not None:
            await trio.sleep(pause)
            pause = next(questions, None)


class TrioTicket:
    """One wait that the waiter thread serves."""

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
