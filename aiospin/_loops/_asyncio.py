"""asyncio, and every loop with its interface (uvloop among them), through its public API only.

A wait spins in slices that re-schedule themselves with ``call_soon``, so that I/O and other tasks
run between two of them. When the loop turns out to be busy, or the spin has lasted long enough, the
waiter thread takes over and ends the wait with one coalesced ``call_soon_threadsafe``. One wait of
a loop spins at a time: the slices of many would add up, and the waiter thread scans any number at
once.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio

from aiospin._core import core

if TYPE_CHECKING:
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
        self, target: Target, deadline_ns: int, spin_ns: int, policy: WaitPolicy, waiter: Waiter
    ) -> bool:
        loop = asyncio.get_running_loop()
        ticket = AsyncioTicket(self, loop, target, deadline_ns, policy, waiter)
        try:
            wants_slices = spin_ns and target.sliceable and policy.mode in ("adaptive", "loop")
            if wants_slices and not self.slicing:
                ticket.spin(spin_ns)
            else:
                ticket.hand_over(spin_ns)
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


class AsyncioTicket:
    """One suspended wait: first in slices on the loop, then with the waiter."""

    __slots__ = (
        "_busy_passes",
        "_deadline_ns",
        "_handle",
        "_last_ns",
        "_loop",
        "_policy",
        "_spin_until_ns",
        "_status",
        "_target",
        "_waiter",
        "future",
        "port",
    )

    def __init__(
        self,
        port: AsyncioLoop,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        deadline_ns: int,
        policy: WaitPolicy,
        waiter: Waiter,
    ) -> None:
        self.port = port
        self.future: asyncio.Future[int] = loop.create_future()
        self._loop = loop
        self._target = target
        self._deadline_ns = deadline_ns
        self._policy = policy
        self._waiter = waiter
        self._status = core.TIMED_OUT
        self._handle: asyncio.Handle | None = None

    def spin(self, spin_ns: int) -> None:
        self._last_ns = core.now_ns()
        self._spin_until_ns = min(self._last_ns + spin_ns, self._deadline_ns)
        self._busy_passes = 0
        self.port.slicing = True
        self._handle = self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        now = core.now_ns()
        busy = now - self._last_ns > BUSY_NS and self._policy.mode != "loop"
        self._busy_passes = self._busy_passes + 1 if busy else 0
        left = self._spin_until_ns - now
        if self._target.wait.spin(min(SLICE_NS, max(left, 0)), self._policy.hardware):
            self._stop_slicing()
            self.resolve_as(core.READY)
        elif left <= SLICE_NS or self._busy_passes == BUSY_PASSES:
            self._stop_slicing()
            try:
                self.hand_over(max(left - SLICE_NS, 0))
            except (
                BaseException
            ) as error:  # a closed waiter, or no thread to be had: the task shall know
                if not self.future.done():
                    self.future.set_exception(error)
        else:
            self._last_ns = core.now_ns()
            self._handle = self._loop.call_soon(self._slice)

    def _stop_slicing(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
            self.port.slicing = False

    def hand_over(self, spin_ns: int) -> None:
        """Let the waiter thread go on."""
        self._target.submit(self._waiter, self, self._deadline_ns, spin_ns, self._policy)

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
        if self._handle is not None:
            core.count("cancelled", 1)  # the waiter counts those that it has
        self._stop_slicing()
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
