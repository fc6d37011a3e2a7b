"""Something that is looked after every so often while nobody waits: in the waiter thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from aiospin._core import core
from aiospin._errors import ClosedResourceError
from aiospin._predicate import ne
from aiospin._waiter import default_waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiospin._waiter import Port, Waiter


class Lookout:
    """Calls a function in the waiter thread after each period, as long as it returns True.

    It costs nothing before begin() and after the function returned False.
    """

    def __init__(self, look: Callable[[], bool], period_ns: int) -> None:
        self._look = look
        self._period_ns = period_ns
        self._lock = threading.RLock()  # a look may drop the last reference to what it looks after
        self._wait: core.Wait | None = (
            None  # on a word that never changes: only its deadline counts
        )
        self._waiter: Waiter | None = None  # has the ticket, or runs the look
        # Asked to look since the look that is running began? Then its answer may be out of date.
        self._asked = False

    @property
    def port(self) -> Port:
        raise NotImplementedError("complete() hands nothing over to a loop")

    def begin(self) -> None:
        """Look from now on. Does nothing while it does, nor where no thread can be started: isolated
        subinterpreters forbid those that do not hold the exit up."""
        with self._lock:
            self._asked = True
            if self._waiter is None:
                if self._wait is None:
                    word = bytearray(4)
                    self._wait = core.Wait(word, ne(0, dtype="uint32").program_for(word), True)
                try:
                    self._submit(default_waiter())
                except RuntimeError:
                    pass

    def _submit(self, waiter: Waiter) -> None:
        assert self._wait is not None
        deadline_ns = core.now_ns() + self._period_ns
        # Before, and taken back by whatever goes wrong, a signal handler that raises too: end() cancels then.
        self._waiter = waiter
        try:
            # Nobody waits, so it counts as no wait.
            waiter._submit(
                self._wait, self, deadline_ns, 0, self._period_ns, hardware=False, counted=False
            )
        except BaseException:
            waiter._cancel(self._wait)
            self._waiter = None
            raise

    def complete(self, status: int) -> bool:
        goes_on = False
        try:
            if status != core.STOPPED:
                self._asked = False
                goes_on = self._look()
        finally:
            with self._lock:
                waiter, self._waiter = self._waiter, None
                if status != core.STOPPED and (goes_on or self._asked) and waiter is not None:
                    try:
                        self._submit(waiter)
                    except ClosedResourceError:
                        pass  # that waiter is being closed: the next begin() takes another
                if self._waiter is None:
                    self._release()
        return False

    def replace(self, look: Callable[[], bool]) -> None:
        """Call another function from now on, if it looks: until that returns False, whoever is closed meanwhile."""
        with self._lock:
            self._look, self._asked = look, True

    def end(self) -> None:
        """Look no more."""
        with self._lock:
            waiter, self._waiter = self._waiter, None
            if self._wait is not None:
                if waiter is not None:
                    waiter._cancel(self._wait)
                self._release()

    def _release(self) -> None:
        if self._wait is not None:
            self._wait.release()
            self._wait = None

    def forget(self) -> None:
        """end(), in the child of a fork: no ticket was inherited, but the lock may be held."""
        self._lock = threading.RLock()
        self.end()
