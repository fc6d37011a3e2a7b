"""Nothing leaks: reference counts, objects and memory stay what they were over thousands of calls."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

import aiospin
from aiospin import Flag, WaitPolicy, eq, ge, wait_for_flag, wait_for_flag_sync

CALLS = 20_000
PARK = WaitPolicy(mode="park")


def _refused(error: type[BaseException], use: Callable[[], Any]) -> None:
    try:
        use()
    except error:
        return
    raise AssertionError


def _flag() -> Callable[[], Any]:
    flag = Flag(bytearray(64), dtype="q", offset=8)

    def use() -> None:
        flag.store(5)
        flag.add(1)
        flag.exchange(2)
        flag.compare_exchange(2, 3)
        flag.compare_exchange(2, 3)
        flag.load()
        flag.notify()

    return use


def _flag_errors() -> Callable[[], Any]:
    flag, constant = Flag(bytearray(64), dtype="B"), Flag(bytes(8), dtype="?")

    def use() -> None:
        _refused(ValueError, lambda: flag.store(256))
        _refused(TypeError, lambda: flag.store(None))
        _refused(TypeError, lambda: constant.store(True))
        constant.load()

    return use


def _sync() -> Callable[[], Any]:
    word = bytearray(b"\5\0\0\0")
    native, own, lists = ge(5) & eq(5, dtype="I"), lambda view: view[0], [1]

    def use() -> None:
        wait_for_flag_sync(word, native)
        wait_for_flag_sync(word, own)
        wait_for_flag_sync(word, lambda: lists)
        _refused(TimeoutError, lambda: wait_for_flag_sync(word, eq(6), 0))
        _refused(ValueError, lambda: wait_for_flag_sync(word, eq(1, dtype="Q")))

    return use


def _sync_waits() -> Callable[[], Any]:
    word = bytearray(8)
    spin = WaitPolicy(max_spin=1e-6)

    def use() -> None:
        _refused(TimeoutError, lambda: wait_for_flag_sync(word, eq(1), 1e-6, policy=spin))

    return use


def _predicates() -> Callable[[], Any]:
    return lambda: wait_for_flag_sync(b"\1\0", (eq(1) | eq(2, dtype=">H")) & ge(0, elements="all"))


def _capabilities() -> Callable[[], Any]:
    def use() -> None:
        aiospin.capabilities()
        aiospin.statistics()

    return use


USES = {
    "flag": (_flag, CALLS),
    "flag errors": (_flag_errors, CALLS),
    "ready": (_sync, CALLS // 4),
    "timeouts": (_sync_waits, CALLS // 10),
    "predicates": (_predicates, CALLS // 4),
    "capabilities": (_capabilities, CALLS),
}


def _counts() -> dict[str, int]:
    """Reference counts of what is handed out most.

    Not from Python 3.12 on, where these objects are immortal: an extension for the stable ABI of 3.11 still counts
    them, the interpreter does not, so that the number drifts, without meaning (PEP 683 provides for it).
    """
    if sys.version_info >= (3, 12):
        return {}
    return {repr(thing): sys.getrefcount(thing) for thing in (None, True, False, 0, 5)}


def _steady(use: Callable[[], Any], calls: int) -> None:
    """Call it, and compare: a leak per call would show as at least so many."""
    for _ in range(100):  # caches fill
        use()
    gc.collect()
    before, objects, blocks = _counts(), len(gc.get_objects()), sys.getallocatedblocks()
    for _ in range(calls):
        use()
    gc.collect()
    slack = calls // 10
    assert sys.getallocatedblocks() - blocks < slack
    assert len(gc.get_objects()) - objects < slack
    for name, count in _counts().items():
        assert abs(count - before[name]) < slack, f"references to {name}"


@pytest.mark.parametrize("name", USES)
def test_steady(name: str) -> None:
    make, calls = USES[name]
    _steady(make(), calls)


def test_steady_awaits(run_asyncio: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        policies = [
            WaitPolicy(mode="park"),
            WaitPolicy(mode="loop", max_spin=1e-5),
            WaitPolicy(mode="thread", max_spin=1e-5),
        ]

        async def waits(count: int) -> None:
            for turn in range(count):
                policy = policies[turn % 3]
                task = asyncio.ensure_future(wait_for_flag(word, eq(1), policy=policy))
                await asyncio.sleep(0)
                if turn % 2:
                    task.cancel()
                else:
                    word[0] = 1
                await asyncio.wait([task])
                word[0] = 0
                try:
                    await wait_for_flag(word, lambda turn=turn: turn % 5, 0)
                except TimeoutError:
                    pass

        await waits(300)
        gc.collect()
        before, objects, blocks = _counts(), len(gc.get_objects()), sys.getallocatedblocks()
        await waits(1500)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 150
        assert len(gc.get_objects()) - objects < 150
        for name, count in _counts().items():
            assert abs(count - before[name]) < 150, f"references to {name}"

    run_asyncio(main)


def test_memory_is_steady() -> None:
    word = bytearray(4096)
    use = lambda: wait_for_flag_sync(word, lambda view: True)  # noqa: E731
    for _ in range(100):
        use()
    tracemalloc.start()
    try:
        begin = tracemalloc.get_traced_memory()[0]
        for _ in range(5000):
            use()
        grown = tracemalloc.get_traced_memory()[0] - begin
    finally:
        tracemalloc.stop()
    assert grown < 100_000  # bytes; a leaked snapshot a call would be 20 MB
