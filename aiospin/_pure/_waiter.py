"""The ticket table of one waiter thread.

The thread looks at every ticket in passes: all the time while a ticket is within its spin
budget, otherwise after sleeps that double from 50 us up to the ticket's max_sleep. It does not
park on the words of a notified ticket, because a submit or a cancel must be able to end its
sleep: such tickets are looked at every millisecond at least. (The compiled core sleeps on all
their words at once.)

One lock is held during each look, so whoever holds it knows that nothing looks.
"""

from __future__ import annotations

import threading
import time
from typing import final

from ._clock import FOREVER, after, now_ns, seconds
from ._tally import Counter, count
from ._wait import FIRST_SLEEP_NS, Wait, longest_sleep_ns, no_plan

READY = 0
TIMED_OUT = 1
STOPPED = 3


class _Ticket:
    """One wait on its way through the table."""

    __slots__ = (
        "counted",
        "deadline_ns",
        "limit_ns",
        "next_ns",
        "sleep_ns",
        "spin_until_ns",
        "token",
        "wait",
    )

    def __init__(
        self,
        wait: Wait,
        token: object,
        deadline_ns: int,
        spin_ns: int,
        max_sleep_ns: int,
        counted: bool,
    ) -> None:
        self.counted = counted
        self.wait = wait
        self.token = token
        self.deadline_ns = deadline_ns
        self.spin_until_ns = min(after(now_ns(), spin_ns), deadline_ns)
        self.limit_ns = longest_sleep_ns(wait.watch, max_sleep_ns)
        self.sleep_ns = 0  # how long it slept last
        self.next_ns = 0  # when to look next

    def look(self, now: int) -> int | None:
        """READY, TIMED_OUT, or None and ``next_ns`` says when to look again: 0 is at once."""
        if self.wait.watch.look():
            how: Counter = "parked" if self.sleep_ns else "spun"
            self.wait.finish(how if self.counted else None)
            return READY
        if now >= self.deadline_ns:
            if self.counted:
                count("timed_out")
            return TIMED_OUT
        if now >= self.spin_until_ns:
            self.sleep_ns = min(2 * self.sleep_ns or FIRST_SLEEP_NS, self.limit_ns)
            self.next_ns = min(after(now, self.sleep_ns), self.deadline_ns)
        return None


@final
class Waiter:
    """The ticket table of one waiter thread. submit and cancel may be called from any thread."""

    def __init__(self) -> None:
        self._stopped = False
        self._reset()

    def _reset(self) -> None:
        self._tickets: dict[Wait, _Ticket] = {}
        self._empty_since_ns = now_ns()
        self._running = False
        # Callers queue on the first and hold it until they have had the second, which run() frees
        # between two passes: then run() waits for the first, so that it cannot starve them.
        # Both are re-entrant: a signal handler may cancel what its own thread was just submitting.
        self._queue = threading.RLock()
        self._changed = threading.Condition(threading.RLock())

    def submit(
        self,
        wait: Wait,
        token: object,
        deadline_ns: int,
        spin_ns: int | None,
        max_sleep_ns: int,
        hardware: bool,  # noqa: ARG002 - Python has no monitor instruction
        counted: bool = True,
        told: bool = False,  # noqa: ARG002 - it never asks
    ) -> None:
        """Let run() wait for it; run() hands token back. RuntimeError after stop(), or when
        the wait is submitted already or released."""
        if spin_ns is None:
            raise no_plan()
        with self._queue, self._changed:
            if self._stopped:
                raise RuntimeError("the waiter is stopped: nothing can be submitted to it any more")
            wait.turn.take()
            self._tickets[wait] = _Ticket(wait, token, deadline_ns, spin_ns, max_sleep_ns, counted)
            count("live_tickets")
            self._changed.notify_all()

    def cancel(self, wait: Wait) -> bool:
        """True: cancelled, run() will not return its token. False: it had completed already (or was
        never submitted). Either way nothing looks at the wait's buffer any more on return."""
        with self._queue, self._changed:
            if wait not in self._tickets:
                return False
            if self._tickets[wait].counted:
                count("cancelled")
            self._drop(wait)
            self._changed.notify_all()  # the table may be empty now: idle time begins
            return True

    def run(self, idle_ns: int) -> list[tuple[object, int]] | None:
        """Wait for completions: (token, READY or TIMED_OUT) each, at least one. An empty list
        after idle_ns without any ticket; None once stopped."""
        with self._queue, self._changed:
            if self._running:
                raise RuntimeError("another thread runs this waiter")
            self._running = True
        try:
            return self._run(idle_ns)
        finally:
            self._running = False

    def _run(self, idle_ns: int) -> list[tuple[object, int]] | None:
        begun_ns = now_ns()
        overslept = False
        while True:
            with self._queue:
                pass
            with self._changed:
                if self._stopped:
                    return None
                now = now_ns()
                done, next_ns = self._pass(now)
                if done:
                    return done
                if not self._tickets:
                    next_ns = after(max(begun_ns, self._empty_since_ns), idle_ns)
                    if now >= next_ns:
                        return []
                elif overslept:
                    count("spurious")
                if next_ns > now:
                    if self._tickets:
                        count("parks")
                    overslept = not self._changed.wait(seconds(next_ns - now))
                    continue
            time.sleep(0)  # spinning: lets other threads have the GIL
            overslept = False
            count("spin_ns", now_ns() - now)

    def _pass(self, now: int) -> tuple[list[tuple[object, int]], int]:
        """Look at the tickets that are due: what completed, and when the next one is due."""
        done: list[tuple[object, int]] = []
        next_ns = FOREVER
        for ticket in list(self._tickets.values()):
            if ticket.next_ns <= now:
                status = ticket.look(now)
                if status is not None:
                    self._drop(ticket.wait)
                    done.append((ticket.token, status))
                    continue
            next_ns = min(next_ns, ticket.next_ns)
        return done, next_ns

    def _drop(self, wait: Wait) -> None:
        del self._tickets[wait]
        if not self._tickets:
            self._empty_since_ns = now_ns()
        wait.turn.give_back()
        count("live_tickets", -1)

    def _drop_all(self) -> list[Wait]:
        waits = list(self._tickets)
        for wait in waits:
            self._drop(wait)
        return waits

    __del__ = _drop_all

    def stop(self) -> list[object]:
        """Make run() return None, now and ever after. The tokens of outstanding tickets, which
        are dropped."""
        with self._queue, self._changed:
            self._stopped = True
            tokens = [ticket.token for ticket in self._tickets.values()]
            self._drop_all()
            self._changed.notify_all()
            return tokens

    def before_fork(self) -> None:
        self._queue.acquire()
        self._changed.acquire()

    def after_fork_in_parent(self) -> None:
        self._changed.release()
        self._queue.release()

    def after_fork_in_child(self) -> None:
        """Drop all tickets; the table is empty and usable again."""
        for wait in self._drop_all():
            wait.release()
        self._reset()

    @property
    def live(self) -> int:
        """Tickets submitted and not yet completed or cancelled."""
        return len(self._tickets)
