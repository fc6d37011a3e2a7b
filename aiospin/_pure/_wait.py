"""One wait: look, spin, park. The same class waits on a predicate, a snapshot and a ring's ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, final

from . import _futex
from ._buffer import order
from ._clock import after, now_ns, seconds
from ._tally import Counter, count
from ._watch import PredicateWatch, SnapshotWatch, Value, Watch

if TYPE_CHECKING:
    from typing_extensions import Buffer

FIRST_SLEEP_NS: Final = 50_000  # ns; the timer slack of Linux: shorter sleeps would take as long
# A signal that arrives just before the system call does not interrupt it, so a park ends this often
# for Python to look: soon for a person at Ctrl-C, and ten wakes a second cost next to nothing.
RECHECK_NS: Final = 100_000_000  # ns


def longest_sleep_ns(watch: Watch, max_sleep_ns: int) -> int:
    """The limit for one who sleeps without a futex, though the caller may count on being
    notified."""
    return min(max_sleep_ns, _futex.FALLBACK_NS) if watch.notified else max_sleep_ns


def no_plan() -> RuntimeError:
    """A spin in Python takes the GIL from the program with every look, so none is ever planned."""
    return RuntimeError("nothing is learned of what this waits for")


class _Turn:
    """Who uses the wait now: one caller or one waiter, never two."""

    __slots__ = ("_lock", "released")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.released = False

    def take(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError("the wait is in use: it is submitted, or another thread runs it")
        if self.released:
            self._lock.release()
            raise RuntimeError("the wait is released: make a new one")

    def give_back(self) -> None:
        self._lock.release()

    __enter__ = take

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@final
class Wait:
    """One wait at a time on one thing: pins the buffer until release()."""

    predicts = False
    prediction = (0, 0, 0, 0, 0)

    __slots__ = ("__weakref__", "turn", "watch")

    def __init__(self, buffer: Buffer, program: bytes | None, notified: bool) -> None:
        self._watch_over(
            SnapshotWatch(buffer, notified)
            if program is None
            else PredicateWatch(buffer, program, notified)
        )

    @classmethod
    def over(cls, watch: Watch) -> Wait:
        """A wait on something that is no buffer of its own: an end of a ring."""
        wait = cls.__new__(cls)
        wait._watch_over(watch)
        return wait

    def _watch_over(self, watch: Watch) -> None:
        self.watch = watch
        self.turn = _Turn()

    def finish(self, how: Counter | None) -> None:
        """It turned ready, which is counted as that. For this class and the waiter."""
        order()  # what the caller reads next was written before what the look saw
        if how is not None:
            count(how)

    def look(self) -> bool:
        """The first look of a wait; begins its statistics and its gap."""
        with self.turn:
            count("waits")
            if self.watch.look():
                self.finish("ready")
                return True
            return False

    def spin(self, budget_ns: int, hardware: bool) -> bool:  # noqa: ARG002 - Python has no such
        """Spin until ready or the budget is spent. At least one look. Other threads run between
        looks."""
        with self.turn:
            return self._spin(after(now_ns(), budget_ns))

    def _spin(self, until_ns: int) -> bool:
        begin = now_ns()
        ready = self.watch.look()
        while not ready and now_ns() < until_ns:
            time.sleep(0)  # lets other threads have the GIL
            ready = self.watch.look()
        count("spin_ns", now_ns() - begin)
        if ready:
            self.finish("spun")
        return ready

    def run(
        self,
        deadline_ns: int,
        spin_ns: int | None,
        max_sleep_ns: int,
        hardware: bool,  # noqa: ARG002
    ) -> bool:
        """Wait in this thread: spin for spin_ns, then park. False when the deadline passed.
        Signal handlers run meanwhile and what they raise comes out. ``hardware`` is for the
        compiled core: Python has no monitor instruction."""
        if spin_ns is None:
            raise no_plan()
        with self.turn:
            if self._spin(min(after(now_ns(), spin_ns), deadline_ns)):
                return True
            limit_ns = longest_sleep_ns(self.watch, max_sleep_ns)
            sleep_ns = min(FIRST_SLEEP_NS, limit_ns)
            slept = woken = False
            while True:
                words = self.watch.prepare()
                if self.watch.look():
                    self.finish("parked" if slept else "spun")
                    return True
                if woken:
                    count("spurious")
                now = now_ns()
                if now >= deadline_ns:
                    count("timed_out")
                    return False
                count("parks")
                slept = True
                if words:
                    woken = _futex.wait(words, min(deadline_ns, now + RECHECK_NS))
                else:
                    time.sleep(seconds(min(sleep_ns, deadline_ns - now, RECHECK_NS)))
                    sleep_ns = min(2 * sleep_ns, limit_ns)

    def plan(self, cpu_per_latency: int, max_spin_ns: int) -> tuple[int, int]:  # noqa: ARG002
        """When to spin: the compiled core knows, for what ``predicts``."""
        raise no_plan()

    def woken(self, due_ns: int) -> bool:
        """The look after a park elsewhere: 0, somebody rang; else the time when a timer was to
        end it."""
        with self.turn:
            count("parks")
            if self.watch.look():
                self.finish("parked")
                return True
            if not due_ns:
                count("spurious")
            return False

    @property
    def value(self) -> Value:
        """What the last successful look of a predicate observed; None for a change."""
        return None if self.turn.released else self.watch.value

    def release(self) -> None:
        """Unpin the buffer. Idempotent. The wait must not be submitted."""
        if not self.turn.released:
            with self.turn:
                self.turn.released = True
                self.watch.release()
