"""asyncio, and every loop with its interface (uvloop among them), through its public API only.

A wait moves between three places. It spins in slices that re-schedule themselves with ``call_soon``, so
that I/O and other tasks run between two of them. It sleeps in the loop's own poll, on the doorbell of a
broadcast, with a timer where the next message is foreseen. And the waiter thread takes over when the loop
turns out to be busy, or where there is no bell; it ends the wait with one coalesced
``call_soon_threadsafe``. One wait of a loop spins in slices at a time: those of many would add up, and
the waiter thread scans any number at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from aiospin._bell import LOOK_AGAIN_NS
from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiospin._bell import Bell
    from aiospin._pace import Pace
    from aiospin._policy import WaitPolicy
    from aiospin._target import Target
    from aiospin._waiter import Ticket, Waiter

# One slice, and so what a ready callback of somebody else may have to wait: long against the 1 to 3
# us that the loop needs between two slices, short against the 50 us that other wakes are late
# anyway.
SLICE_NS: Final = 10_000
# A pass of a loop with nothing else to do takes up to 10 us here; one that takes longer than this
# ran somebody else's callbacks.
BUSY_NS: Final = 30_000
# Busy passes in a row after which the loop is said to have other work. One may be a stray timer.
BUSY_PASSES: Final = 2

_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncioLoop] = (
    weakref.WeakKeyDictionary()
)


def loop_of(running: asyncio.AbstractEventLoop) -> AsyncioLoop:
    found = _loops.get(running)
    if found is None:
        found = _loops.setdefault(running, AsyncioLoop(running))
    return found


class AsyncioLoop:
    """The port of one event loop; at most one wake of it is pending."""

    def __init__(self, running: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(running)  # _loops holds this object for as long as the loop lives
        self._lock = threading.Lock()  # of the two below
        self._completed: deque[AsyncioTicket] = deque()
        self._wake_pending = False
        self.slicing = False  # a wait of this loop is spinning in slices

    def post(self, tickets: list[Ticket]) -> None:
        with self._lock:
            self._completed.extend(tickets)  # type: ignore[arg-type]
            if self._wake_pending:
                return
            self._wake_pending = True
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._drain)
                return
        except RuntimeError:
            pass  # the loop was closed under its waits: nobody is left to be told
        with self._lock:
            self._completed.clear()
            self._wake_pending = False

    def _drain(self) -> None:
        with self._lock:
            self._wake_pending = False
            tickets = list(self._completed)
            self._completed.clear()
        for ticket in tickets:
            ticket.resolve()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def task(self) -> object:
        return asyncio.current_task()

    async def suspend(
        self, target: Target, deadline_ns: int, pace: Pace, policy: WaitPolicy, waiter: Waiter
    ) -> bool:
        loop = asyncio.get_running_loop()
        ticket = AsyncioTicket(self, loop, target, deadline_ns, pace, policy, waiter)
        try:
            ticket.go_on()
            if ticket.future.done():
                # Others run even beside waits that are too short to be suspended.
                await asyncio.sleep(0)
            status = await ticket.future
        except (
            GeneratorExit
        ):  # the coroutine was dropped, perhaps with its loop: no awaiting any more
            ticket.withdraw()
            target.join()
            raise
        except BaseException:
            if not ticket.withdraw():
                await ticket.finished()
            raise
        return target.outcome(status)

    # ---- doorbells ----

    def park(self, bell: Bell, ticket: AsyncioTicket, until_ns: int) -> bool:
        """Sleep in this loop's poll until the bell is rung or the time has come. False: not on this bell."""
        if bell.owner is not self and not self._adopt(bell):
            return False
        bell.arm(until_ns)
        if not bell.park():
            return False
        bell.ticket = ticket
        return True

    def _adopt(self, bell: Bell) -> bool:
        if not bell.ready():
            return False
        if bell.owner is not None and not bell.owner.disown(bell):
            return False  # another loop polls it, and is told to stop
        loop = asyncio.get_running_loop()
        bell.owner = self
        try:
            loop.add_reader(bell.fifo, self._rung, bell)
            loop.add_reader(bell.timer, self._due, bell)
        except (NotImplementedError, OSError, ValueError):
            # A loop that polls no descriptors, or no more of them.
            with contextlib.suppress(NotImplementedError, OSError, ValueError):
                self.disown(bell)
            bell.discard()
            return False
        return True

    def disown(self, bell: Bell, then: Callable[[], None] | None = None) -> bool:
        """Poll it no longer, and do something after that. From any thread. False: soon, in the loop's own."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            self._stop_polling(None, bell, then)
        elif loop.is_running() and not self._runs_here(loop):
            with contextlib.suppress(RuntimeError):  # it was closed meanwhile
                loop.call_soon_threadsafe(self._stop_polling, loop, bell, then)
                return False
            self._stop_polling(None, bell, then)
        else:
            self._stop_polling(loop, bell, then)
        return True

    @staticmethod
    def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
        try:
            return asyncio.get_running_loop() is loop
        except RuntimeError:
            return False

    def _stop_polling(
        self,
        loop: asyncio.AbstractEventLoop | None,
        bell: Bell,
        then: Callable[[], None] | None,
    ) -> None:
        if then is None and bell.ticket is not None:
            return  # the reader has come back meanwhile, and sleeps here
        if loop is not None and bell.owner is self:
            for fd in (bell.fifo, bell.timer):
                if fd >= 0:
                    loop.remove_reader(fd)
        if bell.owner is self:
            bell.owner = None
        if then is not None:
            then()

    def wake(self, bell: Bell) -> None:
        """End the sleep on it, if there is one. From any thread."""
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed: nobody sleeps there
                loop.call_soon_threadsafe(self._wake, bell)

    @staticmethod
    def _wake(bell: Bell) -> None:
        ticket = bell.ticket
        if ticket is not None:
            ticket.woken(0)

    def _rung(self, bell: Bell) -> None:
        ticket = bell.ticket
        if not bell.drain():
            # The writer's end is closed, and would be reported without end.
            self.disown(bell, bell.discard)
        if ticket is not None:
            ticket.woken(0)

    def _due(self, bell: Bell) -> None:
        ticket = bell.ticket
        if ticket is None:
            bell.arm(core.FOREVER)  # left behind by a sleep that a ring ended
        elif core.now_ns() >= ticket.asleep_until_ns:
            bell.arm(core.FOREVER)
            ticket.woken(ticket.asleep_until_ns)
        # else the ring came in the same poll, and the next sleep has set it anew


class AsyncioTicket:
    """One suspended wait, wherever it is."""

    __slots__ = (
        "_bell",
        "_busy_passes",
        "_deadline_ns",
        "_handle",
        "_last_ns",
        "_loop",
        "_pace",
        "_planned_until_ns",
        "_policy",
        "_recheck_at_ns",
        "_spin_until_ns",
        "_status",
        "_target",
        "_waiter",
        "asleep_until_ns",
        "future",
        "port",
    )

    def __init__(
        self,
        port: AsyncioLoop,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        deadline_ns: int,
        pace: Pace,
        policy: WaitPolicy,
        waiter: Waiter,
    ) -> None:
        self.port = port
        self.future: asyncio.Future[int] = loop.create_future()
        self.asleep_until_ns = 0
        self._loop = loop
        self._target = target
        self._deadline_ns = deadline_ns
        self._pace = pace
        self._policy = policy
        self._waiter = waiter
        self._status = core.TIMED_OUT
        self._handle: asyncio.Handle | None = None
        self._bell: Bell | None = None

    def go_on(self) -> None:
        """Spin or sleep next? Called at the start, and whenever one of them has ended without news."""
        from_ns, until_ns = self._pace.next()
        now = core.now_ns()
        if now >= self._deadline_ns:
            core.count("timed_out", 1)
            self.resolve_as(core.TIMED_OUT)
        elif self._policy.mode == "thread" or not self._target.sliceable:
            self._hand_over()
        elif now < from_ns:
            self._park(min(from_ns, self._deadline_ns))
        elif self.port.slicing:
            self._hand_over()
        else:
            self._spin(min(until_ns, self._deadline_ns))

    # ---- in slices ----

    def _spin(self, until_ns: int) -> None:
        self._last_ns = core.now_ns()
        self._recheck_at_ns = self._last_ns + self._target.recheck_ns
        self._spin_until_ns = until_ns
        self._busy_passes = 0
        self.port.slicing = True
        self._handle = self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        try:
            self._spin_on()
        except Exception as error:
            self._stop_slicing()
            self._fail(error)

    def _spin_on(self) -> None:
        now = core.now_ns()
        busy = now - self._last_ns > BUSY_NS and self._policy.mode != "loop"
        self._busy_passes = self._busy_passes + 1 if busy else 0
        left = self._spin_until_ns - now
        if self._target.wait.spin(min(SLICE_NS, max(left, 0)), self._policy.hardware):
            self._stop_slicing()
            self.resolve_as(core.READY)
        elif self._busy_passes == BUSY_PASSES:
            self._stop_slicing()
            self._tell_task(self._hand_over)
        elif left <= SLICE_NS:
            self._stop_slicing()
            self._tell_task(self.go_on)
        elif now >= self._recheck_at_ns:
            self._stop_slicing()
            self._tell_task(self._recheck_and_go_on)
        else:
            self._last_ns = core.now_ns()
            self._handle = self._loop.call_soon(self._slice)

    def _recheck_and_go_on(self) -> None:
        if self._target.recheck_now():
            self.resolve_as(core.READY)
        else:
            self.go_on()

    def _stop_slicing(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self.port.slicing = False

    def _tell_task(self, step: Callable[[], None]) -> None:
        try:
            step()
        except BaseException as error:  # a closed waiter, no thread to be had, a dead peer
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    # ---- on the bell ----

    def _park(self, until_ns: int) -> None:
        bell = self._target.bell
        self._planned_until_ns = until_ns
        self.asleep_until_ns = min(until_ns, core.now_ns() + LOOK_AGAIN_NS)
        if bell is None:
            self._hand_over()
        elif self.port.park(bell, self, self.asleep_until_ns):
            self._bell = bell
        elif self._target.wait.spin(0, False):  # it came just now, so the bell did not let us park
            self.resolve_as(core.READY)
        else:
            self._hand_over()

    def woken(self, due_ns: int) -> None:
        """The sleep on the bell has ended: 0, it was rung, else its time has come."""
        self._tell_task(lambda: self._look_again(due_ns))

    def _look_again(self, due_ns: int) -> None:
        self._leave_bell()
        if due_ns and due_ns != self._planned_until_ns:
            due_ns = core.FOREVER
        planned = 0 < due_ns < core.FOREVER
        if self._target.wait.woken(due_ns):
            self.resolve_as(core.READY)
        elif planned:
            self.go_on()
        else:
            self._recheck_and_go_on()

    def _leave_bell(self) -> None:
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.ticket = None
            if bell.fifo >= 0:
                bell.unpark()

    # ---- with the waiter thread ----

    def _hand_over(self) -> None:
        self._target.submit(self._waiter, self, self._deadline_ns, self._pace.rest(), self._policy)

    def complete(self, status: int) -> bool:
        outcome = self._target.complete(self._waiter, self, status)
        if outcome is None:
            return False
        self._status = outcome
        return True

    def resolve(self) -> None:
        self.resolve_as(self._status)

    def resolve_as(self, status: int) -> None:
        if not self.future.done():
            self.future.set_result(status)

    def withdraw(self) -> bool:
        """Stop; False: a recheck is running in the waiter thread, wait for finished()."""
        if self._handle is not None or self._bell is not None:
            core.count("cancelled", 1)  # the waiter counts those that it has
        self._stop_slicing()
        self._leave_bell()
        return self._target.withdraw(self._waiter)

    async def finished(self) -> None:
        """Until the recheck that is running in the waiter thread has returned. Not to be cancelled:
        as long as it runs it uses the buffer."""
        self.future = self._loop.create_future()
        # The scope keeps anyio's cancellations out, which it delivers again in each pass of the
        # loop; the loop here outlasts asyncio's own.
        with anyio.CancelScope(shield=True):
            while not self.future.done():
                try:
                    await asyncio.shield(self.future)
                except asyncio.CancelledError:
                    continue
