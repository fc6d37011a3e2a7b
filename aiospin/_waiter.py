"""The waiter thread: one thread that serves any number of waits.

It is created by Python and runs the core's loop without the GIL; it takes the GIL only to hand a
batch of completions over, or to call a Python predicate. It starts on first use, retires after
``IDLE`` seconds with nothing to wait for (the thread cache of trio does the same), ends with the
interpreter, and is not inherited by fork: the child starts its own.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiospin._core import core
from aiospin._errors import ClosedResourceError
from aiospin._exit import exiting

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

    from typing_extensions import Self


IDLE: Final = 10.0  # seconds, as trio keeps its worker threads
_IDLE_NS: Final = int(IDLE * 1e9)
_EXIT_JOIN: Final = (
    5.0  # seconds; at exit a Python predicate may hang in the thread, which is a daemon
)


class Port(Protocol):
    """The side of an event loop on which completions arrive."""

    def post(self, tickets: list[Ticket]) -> None:
        """Take completions over from the waiter thread; one wake of the loop for all of them."""


class Ticket(Protocol):
    """One wait that was submitted to a waiter."""

    @property
    def port(self) -> Port: ...

    def complete(self, status: int) -> bool:
        """Called in the waiter thread with READY or TIMED_OUT, or by close() with STOPPED. False:
        not over, it was submitted again."""


class Waiter:
    """One dedicated waiter thread. The process has a default one, which is enough for nearly
    everybody.

    A waiter of one's own keeps waits with slow Python predicates from delaying others, or gives one
    latency-critical wait the hardware monitor for itself.

    Close it with :meth:`close` or as a context manager; the thread is a daemon and ends with the
    interpreter at the latest.

    :param name: name of the thread, for debuggers and ``top -H``.
    """

    def __init__(self, *, name: str = "aiospin-waiter") -> None:
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        self._name = name
        self._table = core.Waiter()
        self._lock = (
            threading.RLock()
        )  # of _thread and _closed; a signal handler may come in between
        self._thread: threading.Thread | None = None
        self._closed = False
        with _registry_lock:
            _waiters.add(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def live(self) -> int:
        """How many waits it serves now."""
        return self._table.live

    def _submit(
        self,
        wait: core.Wait,
        ticket: Ticket,
        deadline_ns: int,
        spin_ns: int | None,
        sleep_ns: int,
        hardware: bool,
        counted: bool = True,
        told: bool = False,
    ) -> None:
        """Serve a wait; ``ticket.complete`` is called in the thread when it is over."""
        # The lock decides against a thread that retires at this moment: it either sees this ticket,
        # or has cleared _thread before.
        with self._lock:
            if exiting.is_set() and threading.current_thread().daemon:
                return  # it ends with the process, in the middle of this wait
            if self._closed:
                raise ClosedResourceError(f"the waiter {self._name!r} is closed")
            try:
                self._table.submit(
                    wait, ticket, deadline_ns, spin_ns, sleep_ns, hardware, counted, told
                )
                if self._thread is None:
                    self._start_thread()
            except BaseException:
                self._table.cancel(wait)
                raise

    def _start_thread(self) -> None:
        thread = _daemon(self._main, self._name)
        # Before: a signal handler that raises in start() finds a thread that runs, and the next wait must not
        # start another one.
        self._thread = thread
        try:
            thread.start()
        except Exception:  # no more threads to be had
            self._thread = None
            raise

    def _cancel(self, wait: core.Wait) -> bool:
        """Stop serving a wait. On return nothing looks at its buffer any more.

        :return: True when the cancel won, False when the wait had completed or was not submitted.
        """
        return self._table.cancel(wait)

    def close(self) -> None:
        """End the thread. Waits that it still serves raise ClosedResourceError. Idempotent."""
        self._end(tell=True)

    def _end(self, tell: bool) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
        tickets = self._table.stop()
        if tell:
            _hand_over([(ticket, core.STOPPED) for ticket in tickets])
        if thread is not None and thread is not threading.current_thread():
            thread.join(_EXIT_JOIN)
        with _registry_lock:
            _waiters.discard(self)

    def __enter__(self) -> Self:
        if self._closed:
            raise ClosedResourceError(f"the waiter {self._name!r} is closed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "running" if self._thread else "idle"
        return f"<aiospin.Waiter {self._name!r} {state}>"

    def _main(self) -> None:
        run = self._table.run
        while (batch := run(_IDLE_NS)) is not None:
            if batch:
                _hand_over(batch)
                del batch
                continue
            with self._lock:
                if self._table.live == 0:
                    self._thread = None
                    return
        with self._lock:
            self._thread = None

    def _after_fork_in_child(self) -> None:
        self._table.after_fork_in_child()
        self._lock = threading.RLock()
        self._thread = None


def _daemon(body: Callable[[], None], name: str) -> threading.Thread:
    """A thread that does not hold the exit up."""
    try:
        return threading.Thread(target=body, name=name, daemon=True)
    except RuntimeError:
        # An isolated subinterpreter has no daemons: threads are joined at its end. So they are told to end
        # just before, as those of concurrent.futures are.
        if not _joined:
            _joined.append(True)
            threading._register_atexit(_close_before_join)  # type: ignore[attr-defined]
        return threading.Thread(target=body, name=name, daemon=False)


_joined: list[bool] = []


def _close_before_join() -> None:
    """Threads with loops may go on beside: their waits are told."""
    for waiter in _all():
        waiter._end(tell=True)


def _hand_over(batch: list[tuple[Any, int]]) -> None:
    """Group completions by loop, so that each loop is woken once."""
    ports: dict[Port, list[Ticket]] = {}
    for ticket, status in batch:
        try:
            if ticket.complete(status):
                ports.setdefault(ticket.port, []).append(ticket)
        except BaseException:  # the thread serves others too and must live on
            sys.excepthook(*sys.exc_info())
    for port, tickets in ports.items():
        try:
            port.post(tickets)
        except BaseException:
            sys.excepthook(*sys.exc_info())


_waiters: weakref.WeakSet[Waiter] = weakref.WeakSet()
_default: list[Waiter] = []  # at most one
_registry_lock = threading.RLock()  # of the two; a signal handler may come in between


def default_waiter() -> Waiter:
    """The process's own waiter, made on first use."""
    for waiter in _default:
        if not waiter._closed:
            return waiter
    with _registry_lock:
        if not _default or _default[0]._closed:
            made = Waiter()
            if not _default or _default[0]._closed:  # a signal handler may have waited meanwhile
                _default[:] = [made]
        return _default[0]


def close_default_waiter() -> None:
    """End the default waiter's thread now instead of after its idle time; the next wait starts another."""
    for waiter in _default:
        waiter.close()


def _all() -> list[Waiter]:
    with _registry_lock:
        return list(_waiters)


# From before a fork to after it no table is half changed, and no waiter comes or goes. Nested generators hold the
# locks, since ``with`` and ``try`` take and give back all or nothing when Ctrl-C comes in between.


def _hold(waiters: list[Waiter]) -> Generator[None, None, None]:
    if not waiters:
        yield
        return
    with waiters[0]._lock:
        try:
            waiters[0]._table.before_fork()
            yield from _hold(waiters[1:])
        finally:
            if not _in_child:
                waiters[0]._table.after_fork_in_parent()


def _hold_all() -> Generator[None, None, None]:
    with _registry_lock:
        yield from _hold(_all())


_held: list[Generator[None, None, None]] = []  # at most one
_in_child: list[bool] = []  # says so by not being empty


def _before_fork() -> None:
    _held[:] = [_hold_all()]
    next(_held[0])


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().close()


def _after_fork_in_child() -> None:
    for waiter in list(_waiters):  # one that was not held, too, made by another's hook
        waiter._after_fork_in_child()
    _in_child.append(True)
    _after_fork_in_parent()  # this thread has the registry's lock, in the child too
    _in_child.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


@atexit.register
def _close_all() -> None:
    # Loops that still run now do so in daemon threads: they end with the process, and not with an error.
    exiting.set()
    for waiter in _all():
        waiter._end(tell=False)
