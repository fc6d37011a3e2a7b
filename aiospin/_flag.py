"""Flag: one word of shared memory, with atomic operations and a notify that wakes who waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiospin._core import core
from aiospin._deadline import deadline_of, expired
from aiospin._policy import WaitPolicy, resolve
from aiospin._predicate import check_offset, dtype_of_buffer, parse_dtype
from aiospin._target import make_target
from aiospin._wait import block, pause, spend, suspend

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

    from aiospin._predicate import Predicate
    from aiospin._target import Target


class Flag:
    """One element of a buffer, used as a flag, a counter or a sequence number between processes.

    Reading and writing are atomic, with acquire and release: what the writer stored before
    :meth:`store` is seen by whoever loads that value. The buffer is held, but pinned only during
        each call, so the shared memory of a ``Flag(shm.buf, offset=8)`` can be closed at any time
        (later calls then raise). A slice made for the flag, as in ``Flag(shm.buf[8:])``, is itself
        a hold on the memory for as long as the flag lives.

    :param buf: any contiguous buffer; writable, for anything but :meth:`load`, :meth:`wait` and
        :meth:`notify`.
    :param dtype: a struct code ("I") or NumPy-style name ("uint32") of width 1, 2, 4 or 8; the
        buffer's own when None.
    :param offset: bytes from the start of the buffer.
    :raises ValueError: unknown dtype, too short a buffer, or an unaligned element.
    :raises TypeError: no buffer.
    """

    __slots__ = ("_buf", "_dtype", "_offset", "_word")

    def __init__(self, buf: Buffer, *, dtype: object = None, offset: int = 0) -> None:
        offset = check_offset(offset)
        self._dtype = dtype_of_buffer(buf) if dtype is None else parse_dtype(dtype)
        self._buf = buf
        self._offset = offset
        self._word = core.Word(
            buf, offset, self._dtype.width, self._dtype.kind, self._dtype.swapped
        )

    def load(self) -> Any:
        """The value now."""
        return self._word.load()

    def store(self, v: Any) -> None:
        """Set the value. Waiters that spin see it at once; call :meth:`notify` for those that
        sleep.

        :raises ValueError: ``v`` does not fit the element type.
        """
        self._word.store(v)

    def add(self, n: Any) -> Any:
        """Add, wrapping around as the machine does.

        :return: the value before.
        """
        return self._word.add(n)

    def exchange(self, v: Any) -> Any:
        """Set the value.

        :return: the value before.
        """
        return self._word.exchange(v)

    def compare_exchange(self, expected: Any, desired: Any) -> bool:
        """Set the value to ``desired`` if it is ``expected``, bit for bit.

        :return: whether it was.
        """
        return self._word.compare_exchange(expected, desired)

    def notify(self) -> None:
        """Wake everybody who waits for this word with ``notified=True``, in whatever process.

        To be called after the store: a waiter looks first and sleeps then.
        """
        self._word.notify()

    async def wait(
        self,
        predicate: Predicate | Callable[..., Any],
        timeout: float | None = None,
        *,
        policy: WaitPolicy | None = None,
    ) -> Any:
        """Wait until the predicate holds for this word, whose writers call :meth:`notify`.

        Like :func:`aiospin.wait_for_flag` with ``notified=True`` on a buffer of just this element:
        a predicate without a dtype means the flag's own, and a callable is given a memoryview of
        one element (of its bytes, where the element is byte-swapped or a half float).
        """
        deadline_ns = deadline_of(timeout)
        policy = resolve(policy)
        with self._element() as element:
            target = self._target(element, predicate)
            try:
                if target.look():
                    if spend():
                        await pause()
                elif not await suspend(target, deadline_ns, policy):
                    raise expired(f"{predicate!r} did not become true", timeout)
                return target.result
            finally:
                target.release()

    def wait_sync(
        self,
        predicate: Predicate | Callable[..., Any],
        timeout: float | None = None,
        *,
        policy: WaitPolicy | None = None,
    ) -> Any:
        """The blocking form of :meth:`wait`."""
        deadline_ns = deadline_of(timeout)
        policy = resolve(policy)
        with self._element() as element:
            target = self._target(element, predicate)
            try:
                if not target.look() and not block(
                    target, deadline_ns, policy, "Flag.wait_sync()", "await Flag.wait()"
                ):
                    raise expired(f"{predicate!r} did not become true", timeout)
                return target.result
            finally:
                target.release()

    def _element(self) -> memoryview:
        with memoryview(self._buf) as view, view.cast("B") as flat:
            return flat[self._offset : self._offset + self._dtype.width]

    def _target(self, element: memoryview, predicate: Any) -> Target:
        # A memoryview has no byte-swapped elements, and before Python 3.12 no half floats: bytes then.
        if callable(predicate) and not self._dtype.swapped and self._dtype.code != "e":
            element = element.cast(self._dtype.code)  # type: ignore[call-overload]
        try:
            return make_target(element, predicate, True, self._dtype)
        finally:
            del element  # else the traceback of an error would hold the memory

    def __repr__(self) -> str:
        return f"<aiospin.Flag {self._dtype} at offset {self._offset}>"
