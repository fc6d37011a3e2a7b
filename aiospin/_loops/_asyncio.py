"""asyncio, and every loop with its interface (uvloop among them), through its public API only.

A wait moves between three places. It spins in slices, in its own task, with a pass of the loop between
two of them, in which I/O and other tasks run: so what a message has to go through is in the caches when it
comes, and it needs no wake of the task. It sleeps in the loop's own poll, on the doorbell of a broadcast,
with a timer where the next message is foreseen. And the waiter thread takes over when the loop turns out
to be busy, or where there is no bell; it ends the wait with one coalesced ``call_soon_threadsafe``. One
wait of a loop spins in slices at a time: those of many would add up, and the waiter thread scans any
number at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

import anyio

from aiospin._bell import LOOK_AGAIN_NS
from aiospin._closes import Listener
from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextvars import Context

    from aiospin._bell import Bell
    from aiospin._closes import Closes
    from aiospin._pace import Pace
    from aiospin._policy import WaitPolicy
    from aiospin._target import Target
    from aiospin._waiter import Ticket, Waiter

# One slice, and so what a ready callback of somebody else may have to wait: long against the 1 to 3
# us that the loop needs between two slices, short against the 50 us that other wakes are late
# anyway (benchmarks/constants.py, "slice").
SLICE_NS: Final = 10_000
# A pass of a loop with nothing else to do takes up to 10 us here; one that takes longer than this
# ran somebody else's callbacks (benchmarks/constants.py, "busy": below, a wait gives up for its own passes).
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


def _none() -> None:
    return None


class AsyncioLoop:
    """The port of one event loop; at most one wake of it is pending."""

    def __init__(self, running: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(running)  # _loops holds this object for as long as the loop lives
        self._lock = threading.Lock()  # of the batch of the wake that is pending, which may grow
        # The loop's own handle alone keeps it, so that it goes with a loop that is closed before.
        self._pending: Callable[[], deque[AsyncioTicket] | None] = _none
        self.slicing = False  # a wait of this loop is spinning in slices
        self._listener = _Listener()

    def post(self, tickets: list[Ticket]) -> None:
        with self._lock:
            batch = self._pending()
            if batch is not None:
                batch.extend(tickets)  # type: ignore[arg-type]
                return
            batch = deque(tickets)  # type: ignore[arg-type]
            self._pending = weakref.ref(batch)
        loop = self._loop()
        if loop is not None:
            # Else, the loop was closed under its waits: nobody is left to be told.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._drain, batch)

    def _drain(self, batch: deque[AsyncioTicket]) -> None:
        with self._lock:
            self._pending = _none
        if len(batch) > 1:
            # For a loop that a task runs inside its step, as some notebooks do, and one that a task's error ends.
            asyncio.get_running_loop().call_soon(self._resolve, batch)
        self._resolve(batch)

    @staticmethod
    def _resolve(batch: deque[AsyncioTicket]) -> None:
        # None leaves the batch before its wait is over, which is over once: Ctrl-C may come, or a nested pass.
        while batch:
            ticket = batch[0]
            ticket.resolve()
            if batch and batch[0] is ticket:
                batch.popleft()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    def task(self) -> object:
        return asyncio.current_task()

    async def suspend(
        self, target: Target, deadline_ns: int, pace: Pace, policy: WaitPolicy, waiter: Waiter
    ) -> bool | None:
        if policy.mode == "thread" or not target.sliceable:
            return await self._with_waiter(target, deadline_ns, pace.rest(), policy, waiter)
        while True:
            from_ns, until_ns = pace.next()
            slept = False
            over: bool | None = None
            try:
                slept = core.now_ns() < from_ns
                if slept:
                    over = await self._on_bell(target, min(from_ns, deadline_ns))
                    if over is None and from_ns < deadline_ns:
                        over = await self._beside(target, from_ns, policy, waiter)
                elif not self.slicing:
                    over = await self._in_slices(
                        target, min(until_ns, deadline_ns), policy, pace.rehearsed
                    )
            except (asyncio.CancelledError, KeyboardInterrupt, GeneratorExit):
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

    # ---- in slices ----

    async def _in_slices(
        self, target: Target, until_ns: int, policy: WaitPolicy, rested: bool
    ) -> bool | None:
        """Spin on the loop's own thread. None: the loop has other work, spin beside it.

        :param rested: the task has just slept, so others need not run first.
        """
        busy_passes = 0
        began = core.now_ns()
        recheck_at_ns = began + target.recheck_ns
        try:
            self.slicing = True
            while True:
                if rested:
                    rested = False
                else:
                    await _one_pass()
                now = core.now_ns()
                busy = now - began > BUSY_NS and policy.mode != "loop"
                busy_passes = busy_passes + 1 if busy else 0
                left_ns = max(until_ns - now, 0)
                if target.wait.spin(min(SLICE_NS, left_ns), policy.hardware):
                    return True
                if busy_passes == BUSY_PASSES:
                    return None
                if left_ns <= SLICE_NS:
                    return False
                if now >= recheck_at_ns:
                    return target.recheck_now()
                began = core.now_ns()
        finally:
            self.slicing = False

    # ---- doorbells ----

    async def _on_bell(self, target: Target, until_ns: int) -> bool | None:
        """Sleep in the loop's poll. None: there is no bell to sleep on."""
        bell = target.bell
        if bell is None or (bell.owner is not self and not self._adopt(bell)):
            return None
        if bell.undrained:
            # Here too: an edge-triggered poll does not tell of it again, and the FIFO would fill up.
            bell.drain()
        asleep_until_ns = min(until_ns, core.now_ns() + LOOK_AGAIN_NS)
        bell.arm(asleep_until_ns)
        if not bell.park():
            # It came just now, so the bell did not let us.
            return True if target.wait.spin(0, False) else None
        sleep = _Sleep(asyncio.get_running_loop(), asleep_until_ns)
        bell.sleeper = sleep
        try:
            due = await sleep
        finally:
            if bell.sleeper is sleep:  # else the writer has unparked it
                bell.sleeper = None
                if bell.fifo >= 0:
                    bell.unpark()
        planned = due and asleep_until_ns == until_ns
        due_ns = until_ns if planned else core.FOREVER if due else 0
        return target.wait.woken(due_ns) or (not planned and target.recheck_now())

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
        if then is None and bell.sleeper is not None:
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
        if bell.sleeper is not None:
            bell.sleeper.end(False)

    def _rung(self, bell: Bell) -> None:
        sleep = bell.sleeper
        # A byte that wakes somebody stays: the poll comes here again for it, and the message is out by then.
        if sleep is None or bell.parked:
            if not bell.drain():
                # The writer's end is closed, and would be reported without end.
                self.disown(bell, bell.discard)
            elif sleep is None or bell.parked:  # if not, the writer rang before it was drained
                return
        else:
            bell.undrained = True
        if sleep is not None:
            bell.sleeper = None
            sleep.end(False)

    def _due(self, bell: Bell) -> None:
        sleep = bell.sleeper
        if sleep is None:
            bell.arm(core.FOREVER)  # left behind by a sleep that a ring ended
        elif core.now_ns() >= sleep.until_ns:
            bell.arm(core.FOREVER)
            sleep.end(True)
        # else the ring came in the same poll, and the next sleep has set it anew

    # ---- with the waiter thread ----

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
        ticket = AsyncioTicket(self, asyncio.get_running_loop(), target, waiter)
        closes = self._listener.follow(target) if target.follows_peers else None
        try:
            target.submit(waiter, ticket, deadline_ns, spin_ns, policy, nap, closes)
            status = await ticket.future
        except GeneratorExit:
            # The coroutine was dropped, perhaps with its loop: no awaiting any more.
            target.withdraw(waiter)
            target.join()
            raise
        except BaseException:
            if not target.withdraw(waiter):
                await ticket.finished()
            raise
        return target.outcome(status)


class _Listener(Listener):
    def _poll(self, closes: Closes) -> None:
        asyncio.get_running_loop().add_reader(closes.fd, self._hear, closes)

    def _hear(self, closes: Closes) -> None:
        if heard := closes.hear():
            _ask(closes.questions(heard))


def _ask(questions: Iterator[float]) -> None:
    for pause in questions:
        asyncio.get_running_loop().call_later(pause, _ask, questions)
        return


class _Wake(asyncio.Future[Any]):
    """What a task awaits that sleeps. It runs as soon as this is ended, in the same callback of the loop: for a future
    of asyncio the loop would make another pass first.

    A task tells whatever it awaits, if that is like a future, what to call in which context (asyncio.isfuture).
    """

    __slots__ = ("_context", "_step")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._step: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        if self._step is None and context is not None and not self.done():
            self._step, self._context = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        removed = super().remove_done_callback(fn)
        if fn == self._step:
            self._step = None
            removed += 1
        return removed

    def end(self, result: object) -> None:
        """From a callback of the loop, whose last step this is, as the task may do anything."""
        if self.done():
            return
        try:
            self.set_result(result)
            alone = asyncio.current_task() is None
            step = self._step
            if alone and step is not None:
                assert self._context is not None
                # The two in one: Ctrl-C is raised after a call, and finds that the step has begun, or has not.
                self._step = None
                self._context.run(step, self)
        finally:
            if self._step is not None:
                # The loop is run inside one of its tasks, as some notebooks do; or Ctrl-C came.
                self._call_soon()

    def _call_soon(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            self.get_loop().call_soon(step, self, context=self._context)

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        self._call_soon()
        return True


class _Sleep(_Wake):
    """One sleep on a bell, until a time at most. Its result: the time has come, and nobody rang."""

    __slots__ = ("until_ns",)

    def __init__(self, loop: asyncio.AbstractEventLoop, until_ns: int) -> None:
        super().__init__(loop)
        self.until_ns = until_ns


@coroutine
def _one_pass() -> Generator[None, None, None]:
    """Let the loop run everything else that is ready: asyncio.sleep(0) in one frame, which stays in the caches."""
    yield


class AsyncioTicket:
    """One wait that the waiter thread serves."""

    __slots__ = ("_loop", "_status", "_target", "_waiter", "future", "port")

    def __init__(
        self,
        port: AsyncioLoop,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        waiter: Waiter,
    ) -> None:
        self.port = port
        self.future = _Wake(loop)
        self._loop = loop
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
        self.future.end(self._status)

    async def finished(self) -> None:
        """Until the recheck that is running in the waiter thread has returned. Not to be cancelled:
        as long as it runs it uses the buffer."""
        self.future = _Wake(self._loop)
        # The scope keeps anyio's cancellations out, which it delivers again in each pass of the
        # loop; the loop here outlasts asyncio's own.
        with anyio.CancelScope(shield=True):
            while not self.future.done():
                try:
                    await asyncio.shield(self.future)
                except asyncio.CancelledError:
                    continue
