"""Python predicates: when they are called, where, with what, and what their mistakes lead to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest
from support import COMPILED, mark, settled, suspended

import aiospin
from aiospin import Flag, WaitPolicy, wait_for_flag, wait_for_flag_sync
from aiospin._target import CallableTarget


class Counted:
    """A predicate that counts its calls and remembers who called."""

    def __init__(self, answer: Callable[[memoryview], Any]) -> None:
        self.answer = answer
        self.calls = 0
        self.threads: set[str] = set()

    def __call__(self, buffer: memoryview) -> Any:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        return self.answer(buffer)


# ---- when ----


def test_it_is_called_at_the_start_and_every_50_ms(run: Any) -> None:
    async def main() -> None:
        predicate = Counted(lambda _: False)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            await wait_for_flag(bytearray(8), predicate, 0.12)
        elapsed = time.monotonic() - begin
        # Once at the start, once at the end, and not more often than every 50 ms in between.
        assert 2 <= predicate.calls <= 2 + elapsed / 0.05

    run(main)


def test_the_same_in_a_blocking_wait() -> None:
    for policy in (WaitPolicy.latency(), WaitPolicy.powersave()):
        predicate = Counted(lambda _: False)
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            wait_for_flag_sync(bytearray(8), predicate, 0.12, policy=policy)
        assert 2 <= predicate.calls <= 2 + (time.monotonic() - begin) / 0.05
        assert predicate.threads == {threading.current_thread().name}


@pytest.mark.parametrize("blocking", [True, False])
def test_a_call_in_vain_does_not_end_the_spin(
    run: Any, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its policy says how long it spins, however often the predicate is called meanwhile."""
    monkeypatch.setattr(CallableTarget, "recheck_ns", 1_000_000)
    policy = WaitPolicy(mode="thread", max_spin=3600)
    calls = 50  # a wait that sleeps does so at least once between two
    predicate = Counted(lambda _: predicate.calls == calls)
    before = aiospin.statistics().parks
    if blocking:
        wait_for_flag_sync(bytearray(8), predicate, policy=policy)
    else:
        run(partial(wait_for_flag, bytearray(8), predicate, policy=policy))
    assert predicate.calls == calls
    assert aiospin.statistics().parks - before < calls / 2  # the waiter thread before and after it


def test_it_is_called_when_a_byte_changes(run: Any) -> None:
    async def main() -> None:
        word = bytearray(4096)
        predicate = Counted(lambda buffer: buffer[4095] == 5)
        begin = time.monotonic()
        mark()

        async def wait() -> None:
            assert await wait_for_flag(word, predicate) is True

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            for step in range(1, 6):
                calls = predicate.calls
                word[4095] = step
                await settled(lambda calls=calls: predicate.calls > calls)
        assert predicate.calls <= 6 + (time.monotonic() - begin) / 0.05
        assert predicate.threads == {threading.current_thread().name, "aiospin-waiter"}

    run(main)


def test_one_that_looks_elsewhere(run: Any) -> None:
    async def main() -> None:
        elsewhere: list[str] = []
        mark()

        async def wait() -> None:
            assert await wait_for_flag(bytearray(8), lambda: elsewhere) == ["news"]

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            elsewhere.append("news")

    run(main)


def test_a_change_during_the_first_call_is_not_missed(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)

        def predicate(buffer: memoryview) -> bool:
            seen = buffer[0] == 1
            word[0] = 1
            return seen

        predicate = Counted(predicate)
        begin = time.monotonic()
        assert await wait_for_flag(word, predicate) is True
        assert predicate.calls == 2, "at once, not by the 50 ms"
        assert time.monotonic() - begin < 30

    run(main)


def test_the_sleep_grows_with_the_buffer() -> None:
    """A look compares every byte, so a large buffer is looked at less often."""
    sleeps = []
    for nbytes in (1 << 10, 1 << 20, 1 << 24):
        target = CallableTarget(bytearray(nbytes), lambda: False)
        sleeps.append(target.least_sleep_ns)
        target.release()
    assert sleeps[1:] == [sleeps[0] << 10, sleeps[0] << 14]
    assert sleeps[2] >= 50_000_000, "a look at 16 MiB takes milliseconds"


def test_a_large_buffer_is_not_spun_on(run: Any) -> None:
    async def main() -> None:
        data = bytearray(16 << 20)
        spin = WaitPolicy(mode="thread", max_spin=3600, predict=False)
        before = aiospin.statistics().spin_ns
        with pytest.raises(TimeoutError):
            await wait_for_flag(data, lambda: False, 0.02, policy=spin)
        assert aiospin.statistics().spin_ns == before

    run(main)


@pytest.mark.skipif(not COMPILED, reason="the stand-in counts its looks as spinning")
def test_a_large_buffer_is_not_spun_on_in_a_blocking_wait() -> None:
    data = bytearray(16 << 20)
    before = aiospin.statistics().spin_ns
    for policy in (WaitPolicy.latency(), WaitPolicy(max_spin=3600, predict=False)):
        with pytest.raises(TimeoutError):
            wait_for_flag_sync(data, lambda: False, 0.02, policy=policy)
    assert aiospin.statistics().spin_ns == before


# ---- with what ----


class Methods:
    def none(self) -> str:
        return "none"

    def one(self, buffer: memoryview) -> bytes:
        return bytes(buffer)


@pytest.mark.parametrize(
    ("predicate", "result"),
    [
        (lambda: 1, 1),
        (lambda *arguments: len(arguments), 1),
        (lambda buffer=None: buffer is None and "default", "default"),
        (lambda buffer, unit=3: bytes(buffer) * unit, b"ababab"),
        (lambda *, key=1: key, 1),
        (Methods().none, "none"),
        (Methods().one, b"ab"),
        (partial(lambda wanted, buffer: buffer[0] == wanted, ord("a")), True),
        (bytes, b"ab"),
        (len, 2),
        (any, True),
    ],
)
def test_what_it_may_take(run: Any, predicate: Callable[..., Any], result: Any) -> None:
    async def main() -> None:
        assert await wait_for_flag(b"ab", predicate) == result
        assert wait_for_flag_sync(b"ab", predicate) == result

    run(main)


@pytest.mark.parametrize(
    ("predicate", "count"),
    [(lambda a, b: True, 2), (lambda a, *, key: True, 2), (lambda *, key: True, 1)],
)
def test_what_it_may_not_take(predicate: Callable[..., Any], count: int) -> None:
    text = f"takes {count} arguments; it may take the buffer, or nothing"
    with pytest.raises(TypeError, match=text):
        wait_for_flag_sync(b"ab", predicate)


def test_it_is_given_the_buffer_as_it_is(run: Any) -> None:
    async def main() -> None:
        data = np.arange(6, dtype="u4").reshape(2, 3)
        assert await wait_for_flag(data, lambda view: (view.shape, view.format)) == ((2, 3), "I")
        assert await wait_for_flag(data, lambda view: np.asarray(view)[1, 2] == 5)

    run(main)


def test_a_kept_view_does_not_outlive_the_wait(run: Any) -> None:
    async def main() -> None:
        kept: list[memoryview] = []
        word = bytearray(8)
        await wait_for_flag(word, lambda view: kept.append(view) or True)
        with pytest.raises(ValueError, match="released"):
            kept[0][0]
        word.append(0)

    run(main)


# ---- mistakes ----


async def _later(predicate_from_now: Callable[[], Any]) -> None:
    """Wait with a predicate that answers so only once it runs in the waiter thread."""
    word = bytearray(8)
    mark()

    async def wait() -> None:
        try:
            await wait_for_flag(word, lambda view: predicate_from_now() if view[0] else False)
        finally:
            word.append(0)  # nothing holds the buffer

    async def change() -> None:
        await suspended()
        word[0] = 1

    async with anyio.create_task_group() as group:
        group.start_soon(change)
        try:
            await wait()
        finally:
            group.cancel_scope.cancel()


def _unwrap(error: BaseException) -> BaseException:
    """anyio's task groups wrap what comes out of their block."""
    while hasattr(error, "exceptions"):
        (error,) = error.exceptions
    return error


async def _coroutine() -> bool:
    return True


def _forgets_to_await() -> Any:
    return _coroutine()


class NoBool:
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


def _raises() -> bool:
    raise LookupError("mine")


def _exits() -> bool:
    raise SystemExit(3)


MISTAKES: list[tuple[Callable[[], Any], type[BaseException], str]] = [
    (_raises, LookupError, "mine"),
    (_exits, SystemExit, "3"),
    (_forgets_to_await, TypeError, "returned an awaitable; it must be a plain function"),
    (lambda: np.array([1, 2]) == 1, TypeError, "which is neither true nor false.*any.. or a.all"),
    (NoBool, TypeError, "which is neither true nor false"),
    (lambda: aiospin.eq(1), TypeError, "which is neither true nor false.*combine predicates"),
]


@pytest.mark.parametrize(("mistake", "error", "text"), MISTAKES)
def test_a_mistake_in_the_first_call(
    run: Any, mistake: Callable[[], Any], error: type[BaseException], text: str
) -> None:
    async def main() -> None:
        word = bytearray(8)
        for function in (mistake, lambda buffer: mistake()):
            with pytest.raises(error, match=text):
                await wait_for_flag(word, function)
            with pytest.raises(error, match=text):
                await Flag(word, dtype="B").wait(function)
            with pytest.raises(error, match=text):
                wait_for_flag_sync(word, function)
        word.append(0)

    run(main)


@pytest.mark.parametrize(("mistake", "error", "text"), MISTAKES)
def test_a_mistake_in_the_waiter_thread(
    run: Any, mistake: Callable[[], Any], error: type[BaseException], text: str
) -> None:
    async def main() -> None:
        try:
            await _later(mistake)
        except BaseException as caught:
            found = _unwrap(caught)
        with pytest.raises(error, match=text):
            raise found

    run(main)


def test_an_async_function(run: Any) -> None:
    async def predicate(buffer: memoryview) -> bool:
        return True

    async def main() -> None:
        for function in (predicate, _coroutine):
            with pytest.raises(TypeError, match="is an async function; it must be a plain one"):
                await wait_for_flag(bytearray(8), function)

    run(main)


@pytest.mark.parametrize("wrong", [None, 1, True, "x"])
def test_no_predicate(run: Any, wrong: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="the predicate must be a native one, such as"):
            await wait_for_flag(bytearray(8), wrong)

    run(main)


def test_the_waiter_lives_on_after_a_mistake(run: Any) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(BaseException) as caught:  # noqa: PT011
                await _later(_raises)
            assert isinstance(_unwrap(caught.value), LookupError)
        assert sum(t.name == "aiospin-waiter" for t in threading.enumerate()) == 1

    run(main)
