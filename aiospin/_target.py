"""What one wait waits for: a native watch, or a Python callable over a buffer.

A target is used by the loop's thread (or the blocking caller) and, while it is submitted, by the
waiter thread.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from aiospin._core import core
from aiospin._errors import ClosedResourceError
from aiospin._predicate import Predicate

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiospin._bell import Bell
    from aiospin._closes import Closes
    from aiospin._policy import WaitPolicy
    from aiospin._predicate import Dtype
    from aiospin._waiter import Ticket, Waiter

# A callable is also called this often when no byte has changed, for one that looks elsewhere too.
# The contract names 50 ms: soon enough for people, and only twenty calls a second.
RECHECK_NS: Final = 50_000_000

# A look at a snapshot compares every byte, with the waiter's table locked. At the 10 GB/s of a
# memory that streams (0.1 ns a byte) this much sleep keeps the looks to a fiftieth of the time.
SLEEP_NS_PER_BYTE: Final = 5
# Larger buffers are not spun on: one look would take longer than a slice of the loop.
MAX_SPIN_BYTES: Final = 64 * 1024


class Target:
    """A native watch: a predicate over a buffer, or an end of a broadcast ring."""

    __slots__ = ("wait",)

    sliceable = True
    """May be spun on in the loop's thread."""
    least_sleep_ns = 0
    """Between two looks while cold, whatever the policy says."""
    withdrawn = False
    recheck_ns = RECHECK_NS
    bell: Bell | None = None
    """The doorbell to sleep on in an event loop, where there is one."""
    follows_peers = False
    """Somebody who waits for it in an event loop should hear of it when those die whom it waits for."""
    unasked = False
    """One of those may have died while nobody waited."""

    def __init__(self, wait: core.Wait) -> None:
        self.wait = wait

    def look(self) -> bool:
        """Once, at the start of the wait."""
        return self.wait.look()

    @property
    def result(self) -> Any:
        return self.wait.value

    def follow_peers(self, closes: Closes) -> bool:
        """Have ask_after_peers() called when one of those may have died whom this waits for. False: it cannot be."""
        raise NotImplementedError  # of one that says follows_peers

    def ask_after_peers(self) -> None:
        """If one of them has died, the wait finds out. From any thread."""

    def recheck_now(self) -> bool:
        """Is the wait over, for another reason than that the watch is ready? It is not submitted. Asked
        after each sleep in a loop's poll, and every ``recheck_ns`` of a spin; counts a wait that it ends."""
        return False

    def run(self, deadline_ns: int, spin_ns: int | None, policy: WaitPolicy) -> bool | None:
        """Block the calling thread until ready (True) or the deadline passed (False), or for a rehearsal (None):
        see Loop.suspend."""
        sleep_ns = max(policy.sleep_ns, self.least_sleep_ns)
        return self.wait.run(deadline_ns, spin_ns, sleep_ns, policy.hardware)

    def submit(
        self,
        waiter: Waiter,
        ticket: Ticket,
        deadline_ns: int,
        spin_ns: int | None,
        policy: WaitPolicy,
        nap: bool = False,
        closes: Closes | None = None,
    ) -> None:
        """Have the waiter complete the ticket when it is ready, or at the deadline.

        :param nap: a part of the wait, which its caller counts and whose deadline is the plan's.
        :param closes: what the caller hears of, and follows this target with; None: the core is to ask after peers.
        """
        sleep_ns = max(policy.sleep_ns, self.least_sleep_ns)
        told = closes is not None and self in closes  # it may have been closed since
        hardware = policy.hardware
        waiter._submit(
            self.wait, ticket, deadline_ns, spin_ns, sleep_ns, hardware, counted=not nap, told=told
        )

    def complete(self, waiter: Waiter, ticket: Ticket, status: int) -> int | None:  # noqa: ARG002
        """In the waiter thread: how the wait ended, or None: it goes on, submitted again."""
        return status

    def withdraw(self, waiter: Waiter) -> bool:
        """Take it back from the waiter. False: a Python predicate is running and will complete the ticket."""
        waiter._cancel(self.wait)
        return True

    def join(self) -> None:
        """Block until no Python predicate is running."""

    def outcome(self, status: int) -> bool:
        """How the wait ended: READY is True, TIMED_OUT is False; what a Python predicate raised is raised."""
        if status == core.STOPPED:
            raise ClosedResourceError("the waiter that served this wait was closed")
        return status == core.READY

    def release(self) -> None:
        """Unpin the buffer."""
        self.wait.release()


class RecheckedTarget(Target):
    """A watch that Python looks after: whenever it is ready, and every ``recheck_ns`` besides, or whenever the core
    ended the wait before its time.

    The recheck runs in the thread that waits. One that runs in the waiter thread may be using the
    buffer, so a wait that is given up meanwhile ends only when it has returned.
    """

    __slots__ = (
        "__weakref__",
        "_closes",
        "_deadline_ns",
        "_error",
        "_idle",
        "_nap",
        "_planned",
        "_policy",
        "_running",
        "_spin_until_ns",
        "_ticket",
    )

    recheck_ns: int

    @property
    def rest_ns(self) -> int:
        """The same for a wait that the core goes on with by itself."""
        return self.recheck_ns

    def __init__(self, wait: core.Wait) -> None:
        super().__init__(wait)
        self._idle = threading.Condition()  # guards the two below; told when _running ends
        self._running = 0  # the waiter thread that is in recheck(), or none
        # The submitted one. A completion of an earlier one may still be on its way through the waiter thread.
        self._ticket: Ticket | None = None
        self._error: BaseException | None = None
        _rechecked.add(self)

    @property
    def withdrawn(self) -> bool:  # type: ignore[override]
        return self._ticket is None

    def recheck(self, woken: bool) -> bool:
        """Is the wait over? ``woken``: the watch is ready; otherwise only time has passed."""
        raise NotImplementedError

    def recheck_now(self) -> bool:
        over = True
        try:
            over = self.recheck(False)
        finally:  # what it raises ends the wait too
            if over:
                core.count("parked", 1)
        return over

    def run(self, deadline_ns: int, spin_ns: int | None, policy: WaitPolicy) -> bool | None:
        spin_until_ns = core.now_ns() + (spin_ns or 0)
        while True:
            now = core.now_ns()
            left_ns = None if spin_ns is None else max(spin_until_ns - now, 0)
            woken = super().run(min(deadline_ns, now + self.rest_ns), left_ns, policy)
            if woken is None:
                return None
            over = self.recheck(woken)
            if not over and not woken and core.now_ns() >= deadline_ns:
                return False
            self._correct_counts(woken, over)
            if over:
                return True
            if woken:
                spin_until_ns = core.now_ns() + (spin_ns or 0)

    def _correct_counts(self, woken: bool, over: bool) -> None:
        """The core counts each of its waits as one that ended; ours may go on, or end without it."""
        if not woken:
            core.count("timed_out", -1)  # that was no timeout of the caller's
            if over:
                core.count("parked", 1)
        elif not over:
            core.count("waits", 1)  # one for each change

    def submit(
        self,
        waiter: Waiter,
        ticket: Ticket,
        deadline_ns: int,
        spin_ns: int | None,
        policy: WaitPolicy,
        nap: bool = False,
        closes: Closes | None = None,
    ) -> None:
        with self._idle:
            self._nap = nap
            self._closes = closes
            self._deadline_ns = deadline_ns
            self._planned = spin_ns is None
            self._spin_until_ns = core.now_ns() + (spin_ns or 0)
            self._policy = policy
            self._ticket = ticket
            self._error = None
            self._resubmit(waiter, ticket)

    def _resubmit(self, waiter: Waiter, ticket: Ticket) -> None:
        now = core.now_ns()
        left_ns = None if self._planned else self._limit(max(self._spin_until_ns - now, 0))
        until_ns = min(self._deadline_ns, now + self.rest_ns)
        super().submit(waiter, ticket, until_ns, left_ns, self._policy, self._nap, self._closes)

    def _limit(self, spin_ns: int) -> int:
        """How much of that may be spun."""
        return spin_ns

    def complete(self, waiter: Waiter, ticket: Ticket, status: int) -> int | None:
        with self._idle:
            if ticket is not self._ticket or status == core.STOPPED:
                return status
            if self._nap and status == core.TIMED_OUT and core.now_ns() >= self._deadline_ns:
                return (
                    status  # as planned: the message is about to come, and its way shall be short
                )
            self._running = threading.get_ident()
        woken = status == core.READY
        outcome: int | None = None
        error: BaseException | None = None
        try:
            over = self.recheck(woken)
            if over:
                outcome = core.READY
            elif not woken and core.now_ns() >= self._deadline_ns:
                outcome = core.TIMED_OUT
            if outcome != core.TIMED_OUT and not self._nap:
                self._correct_counts(woken, over)
        except BaseException as raised:
            error = raised
        with self._idle:
            self._running = 0
            self._idle.notify_all()
            if outcome is None and error is None and ticket is self._ticket:
                # Under the lock, so that withdraw() finds either us running or a ticket to cancel.
                try:
                    if woken:
                        self._spin_until_ns = core.now_ns() + self._policy.spin_ns
                    self._resubmit(waiter, ticket)
                    return None
                except BaseException as raised:  # the waiter was closed meanwhile
                    error = raised
            self._error = error
            return core.READY if outcome is None else outcome

    def withdraw(self, waiter: Waiter) -> bool:
        with self._idle:
            self._ticket = self._closes = None
            if self._running:
                return False
            waiter._cancel(self.wait)
            return True

    def join(self) -> None:
        if self._running == threading.get_ident():
            return  # the predicate itself has ended the wait: closed its coroutine, say
        with self._idle:
            self._idle.wait_for(lambda: not self._running)

    def forget_runner(self) -> None:
        """In the child of a fork, where the waiter thread is not."""
        self._idle = threading.Condition()
        self._running = 0

    def outcome(self, status: int) -> bool:
        self._ticket = self._closes = None  # which refer to the loop
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame
        return super().outcome(status)


class CallableTarget(RecheckedTarget):
    """A Python callable, called at the start and whenever the buffer's bytes have changed."""

    __slots__ = ("_function", "_result", "_view", "least_sleep_ns")

    sliceable = False
    recheck_ns = RECHECK_NS

    def __init__(
        self,
        buf: Any,
        function: Callable[..., Any],
        notified: bool = False,
        takes_buffer: bool | None = None,
    ) -> None:
        if takes_buffer is None:
            takes_buffer = _takes_argument(function)
        # The snapshot is taken before the first call, so that no change between the two is missed.
        super().__init__(core.Wait(buf, None, notified))
        view = memoryview(buf)
        self.least_sleep_ns = view.nbytes * SLEEP_NS_PER_BYTE
        self._view = view if takes_buffer else None
        self._function = function
        self._result: Any = None

    def look(self) -> bool:
        if self.recheck(True):
            core.count("waits", 1)
            core.count("ready", 1)
            return True
        # Again when bytes changed during the call: this look brings the snapshot up to date.
        if not self.wait.look():
            return False
        over = self.recheck(True)
        self._correct_counts(True, over)
        return over

    def recheck(self, woken: bool) -> bool:  # noqa: ARG002 - it is called either way
        result = self._function() if self._view is None else self._function(self._view)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError(
                f"the predicate {self._function!r} returned an awaitable; it must be a plain function "
                "whose result is true or false"
            )
        try:
            true = bool(result)
        except Exception as error:
            raise TypeError(
                f"the predicate {self._function!r} returned {result!r}, which is neither true nor false ({error})"
            ) from error
        if true:
            self._result = result
        return true

    @property
    def result(self) -> Any:
        return self._result

    def run(self, deadline_ns: int, spin_ns: int | None, policy: WaitPolicy) -> bool | None:
        return super().run(deadline_ns, None if spin_ns is None else self._limit(spin_ns), policy)

    def _limit(self, spin_ns: int) -> int:
        return spin_ns if self.least_sleep_ns <= MAX_SPIN_BYTES * SLEEP_NS_PER_BYTE else 0

    def release(self) -> None:
        self.wait.release()
        if self._view is not None:
            try:
                self._view.release()
            except BufferError:
                pass  # the callable kept an array over it: then it is theirs to let go


def _takes_argument(function: Callable[..., Any]) -> bool:
    """Does a predicate take the buffer, or nothing?"""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True  # a builtin without a signature: such as len or any, it works on the buffer
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    required = [p for p in positional if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 1 or keyword_only:
        raise TypeError(
            f"the predicate {function!r} takes {len(required) + len(keyword_only)} arguments; it may take the buffer, "
            "or nothing"
        )
    return bool(required) or any(p.kind is p.VAR_POSITIONAL for p in positional)


_rechecked: weakref.WeakSet[RecheckedTarget] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for target in list(_rechecked):
        target.forget_runner()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def make_target(buf: Any, predicate: Any, notified: bool, default: Dtype | None = None) -> Target:
    """The target of a wait on a buffer.

    :param default: element type for predicates that name none; the buffer's own when None.
    :raises TypeError: a predicate that is neither a native one nor callable, or no buffer.
    :raises ValueError: the predicate does not fit the buffer.
    """
    try:
        return _make_target(buf, predicate, notified, default)
    except Exception as error:
        # The frames that refused it hold the buffer: without them a caller who keeps the error can still close
        # the memory.
        del buf
        raise error.with_traceback(None) from error.__cause__


def _make_target(buf: Any, predicate: Any, notified: bool, default: Dtype | None) -> Target:
    if isinstance(predicate, Predicate):
        return Target(core.Wait(buf, predicate.program_for(buf, default), notified))
    if not callable(predicate):
        raise TypeError(
            "the predicate must be a native one, such as aiospin.ge(1, dtype='uint32'), or a callable, "
            f"not {predicate!r}"
        )
    if inspect.iscoroutinefunction(predicate):
        raise TypeError(f"the predicate {predicate!r} is an async function; it must be a plain one")
    return CallableTarget(buf, predicate, notified)
