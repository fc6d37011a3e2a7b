"""wait_for_flag, its blocking form, and the call of the vLLM extension."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

from aiospin._core import core
from aiospin._deadline import deadline_of, expired
from aiospin._loops import current_loop, on_loop_thread
from aiospin._pace import Pace
from aiospin._policy import WaitPolicy, resolve
from aiospin._target import CallableTarget, Target, make_target
from aiospin._waiter import Waiter, default_waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from typing_extensions import Buffer

    from aiospin._predicate import Predicate

# Ready operations of one task before it lets others run, the number that tokio gives a task.
BUDGET: Final = 128


class _Budget:
    """Cooperation: a task that never has to wait must not keep the others from running.

    One for the process and unlocked: a lost count moves a pause by one operation, no more."""

    __slots__ = ("left", "task")

    def __init__(self) -> None:
        self.left = BUDGET
        self.task: int | None = None


_budget = _Budget()


def spend() -> bool:
    """Count one ready operation; True: it is time for pause()."""
    _budget.left -= 1
    return _budget.left <= 0


async def pause() -> None:
    """Let other tasks run, if it was one task that spent the budget."""
    _budget.left = BUDGET
    try:
        loop = current_loop()
    except RuntimeError:  # a coroutine that is driven by hand
        return
    task = id(loop.task())
    if task == _budget.task:
        await loop.checkpoint()
    _budget.task = task


def suspend(
    target: Target,
    deadline_ns: int,
    policy: WaitPolicy,
    waiter: Waiter | None = None,
    rehearsed: bool = False,
) -> Awaitable[bool | None]:
    """Await a target that is not ready, as Loop.suspend does."""
    # A plain function, as each frame between a task and its wait has to be run through by every message.
    if not deadline_ns:
        return _too_late()
    return current_loop().suspend(
        target,
        deadline_ns,
        Pace(target, policy, rehearsed),
        policy,
        default_waiter() if waiter is None else waiter,
    )


async def _too_late() -> bool:
    core.count("timed_out", 1)
    if spend():  # a loop over such looks shall not starve the others either
        await pause()
    return False


def block(
    target: Target,
    deadline_ns: int,
    policy: WaitPolicy,
    function: str,
    instead: str,
    depth: int = 0,
    rehearsed: bool = False,
) -> bool | None:
    """The blocking form of suspend().

    :param function: the public function, for the warning on a loop's thread.
    :param instead: what to call there.
    :param depth: calls between the public function and the caller of this one.
    """
    if not deadline_ns:
        core.count("timed_out", 1)
        return False
    if not rehearsed:  # then it was said
        warn_if_on_loop(function, instead, depth + 1)
    return target.run(deadline_ns, Pace(target, policy).rest(), policy)


def warn_if_on_loop(function: str, instead: str, depth: int = 0) -> None:
    """A blocking wait that has to wait holds up every task of the loop that runs in this thread.

    :param depth: calls between the public function and the caller of this one.
    """
    if on_loop_thread():
        warnings.warn(
            f"{function} blocks the event loop that runs in this thread: use {instead}",
            RuntimeWarning,
            stacklevel=3 + depth,
        )


async def wait_for_flag(
    buf: Buffer,
    predicate: Predicate | Callable[..., Any],
    timeout: float | None = None,
    *,
    notified: bool = False,
    policy: WaitPolicy | None = None,
    waiter: Waiter | None = None,
) -> Any:
    """Wait until a word of memory says so, without holding up the event loop.

    Works in asyncio, on any of its loops, and in trio. A predicate that is true already returns at
    once, without suspending; still, every so often a loop over ready waits lets other tasks run.

    When the await ends, by whatever cause, nothing refers to ``buf`` any more: closing its shared
    memory on the next line works.

    :param buf: any contiguous buffer: ``SharedMemory.buf`` or a slice of it, ``mmap``,
        ``bytearray``, a NumPy or ctypes array; may be read-only.
    :param predicate: a native one (:func:`eq`, :func:`ge`, :func:`bits_set` …, combined with ``&``
        and ``|``), for which no Python runs while it waits; or a callable that takes the buffer, as
        a memoryview, or nothing. It is called at the start, then in the waiter thread whenever the
        buffer's bytes have changed, and every 50 ms. To see a change every byte is compared, so pass
        a slice of just what the callable looks at.
    :param timeout: seconds; None waits for ever, 0 looks once.
    :param notified: the writer calls :meth:`Flag.notify` after each store, so a cold wait may sleep
        without limit; otherwise it looks again every ``policy.max_sleep``. So it does, too, for what
        lies on more than 32 words of 4 bytes, and for waits beyond the 127 words that the kernel
        lets one thread sleep on.
    :param policy: how to spend the time; the process's default when None.
    :param waiter: the thread that waits; the process's own when None.
    :return: the value that a native predicate observed (of several, that of the leftmost that was
        true), or the callable's true result.
    :raises TimeoutError: the timeout passed.
    :raises ValueError: a bad timeout, or a predicate that does not fit the buffer.
    :raises TypeError: no buffer, no predicate, or a callable whose result is neither true nor
        false.
    """
    target = None
    try:
        deadline_ns = deadline_of(timeout)
        policy = resolve(policy)
        if waiter is not None and not isinstance(waiter, Waiter):
            raise TypeError(f"waiter must be an aiospin.Waiter, not {waiter!r}")
        target = make_target(buf, predicate, notified)
        if target.look():
            if spend():
                await pause()
        elif not await suspend(target, deadline_ns, policy, waiter):
            raise expired(f"{predicate!r} did not become true", timeout)
        return target.result
    finally:
        if target is not None:
            target.release()
        del buf  # else the traceback of an error would keep a slice made for this call alive


def wait_for_flag_sync(
    buf: Buffer,
    predicate: Predicate | Callable[..., Any],
    timeout: float | None = None,
    *,
    notified: bool = False,
    policy: WaitPolicy | None = None,
) -> Any:
    """Wait until a word of memory says so, in the calling thread, which holds no GIL meanwhile.

    The blocking form of :func:`wait_for_flag`, with the same arguments, results and errors. Signal
    handlers run while it waits, so Ctrl-C ends it. On the thread of a running event loop it warns,
    since it stops the loop.
    """
    target = None
    try:
        deadline_ns = deadline_of(timeout)
        policy = resolve(policy)
        target = make_target(buf, predicate, notified)
        if not target.look() and not block(
            target, deadline_ns, policy, "wait_for_flag_sync()", "await wait_for_flag()"
        ):
            raise expired(f"{predicate!r} did not become true", timeout)
        return target.result
    finally:
        if target is not None:
            target.release()
        del buf  # else the traceback of an error would keep a slice made for this call alive


def spinloop(buffer: Buffer, callback: Callable[[], Any], timeout: float = 0.0) -> bool:
    """The call of vLLM's ``spinloop`` extension, and a stand-in for it.

    :param buffer: the memory whose change is the news.
    :param callback: called without arguments, at the start, after each change of the buffer's bytes
        and every 50 ms.
    :param timeout: seconds; 0 or less is none.
    :return: True when the callback returned a true result, False when the timeout passed.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    if timeout is None:
        raise TypeError("timeout must be a number of seconds; 0 is none")
    try:
        unlimited = timeout <= 0
    except TypeError:
        unlimited = False  # no number: deadline_of says so
    deadline_ns = deadline_of(None if unlimited else timeout)
    policy = resolve(None)
    target = CallableTarget(buffer, callback, takes_buffer=False)
    try:
        return target.look() or bool(
            block(target, deadline_ns, policy, "spinloop()", "await wait_for_flag()")
        )
    finally:
        target.release()
        del buffer
