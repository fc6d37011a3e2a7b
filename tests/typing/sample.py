"""The public surface, as a type checker sees it. Checked by test_typing.py, never run."""

from __future__ import annotations

import mmap
from array import array
from typing import Any

from typing_extensions import assert_type

import aiospin
from aiospin import (
    Capabilities,
    Flag,
    Predicate,
    Statistics,
    Waiter,
    WaitPolicy,
    bits_clear,
    bits_set,
    eq,
    ge,
    gt,
    le,
    lt,
    ne,
    spinloop,
    wait_for_flag,
    wait_for_flag_sync,
)

assert_type(eq(1), Predicate)
assert_type(ne(1.5, dtype="f4"), Predicate)
assert_type(lt(1, offset=8) & le(2, elements="all"), Predicate)
assert_type(gt(1) | ge(1, elements="any"), Predicate)
assert_type(bits_set(1) & bits_clear(2), Predicate)

assert_type(aiospin.capabilities(), Capabilities)
assert_type(aiospin.capabilities().backend, str)
assert_type(aiospin.capabilities().supported, tuple[str, ...])
assert_type(aiospin.capabilities().monitor_line_size, int)
assert_type(aiospin.statistics(), Statistics)
assert_type(aiospin.statistics().live_tickets, int)
assert_type(aiospin.__version__, str)

assert_type(WaitPolicy.latency(), WaitPolicy)
assert_type(WaitPolicy.balanced().max_spin, float)
assert_type(WaitPolicy(mode="park", max_sleep=1, predict=False).hardware, bool)


async def waits(view: memoryview, memory: mmap.mmap, waiter: Waiter) -> None:
    assert_type(await wait_for_flag(view, eq(1)), Any)
    assert_type(await wait_for_flag(memory, eq(1), 0.5, notified=True, policy=WaitPolicy()), Any)
    assert_type(await wait_for_flag(bytearray(8), lambda: True, None, waiter=waiter), Any)
    assert_type(await wait_for_flag(b"", lambda buffer: buffer[0] == 1, timeout=1), Any)
    assert_type(wait_for_flag_sync(array("I", [1]), ge(1), 1.0, notified=False), Any)
    assert_type(spinloop(view, lambda: True, 1.0), bool)
    assert_type(spinloop(buffer=memory, callback=lambda: True, timeout=0.0), bool)


async def flags(memory: mmap.mmap) -> None:
    flag = Flag(memory, dtype="uint32", offset=8)
    assert_type(flag, Flag)
    assert_type(flag.load(), Any)
    assert_type(flag.compare_exchange(1, 2), bool)
    assert_type(await flag.wait(eq(1), 1.0, policy=WaitPolicy.powersave()), Any)
    assert_type(flag.wait_sync(lambda: True), Any)
    flag.store(1)
    flag.add(1)
    flag.exchange(1)
    flag.notify()


def waiters() -> None:
    with Waiter(name="mine") as waiter:
        assert_type(waiter, Waiter)
        assert_type(waiter.live, int)
        assert_type(waiter.closed, bool)
    waiter.close()


# What a type checker has to refuse; an ignore that is not needed is an error as well.
eq("1")  # type: ignore[arg-type]
eq(1, elements="every")  # type: ignore[arg-type]
bits_set(1.5)  # type: ignore[arg-type]
eq(1) & True  # type: ignore[operator]
WaitPolicy(mode="spin")  # type: ignore[arg-type]
WaitPolicy().max_spin = 1.0  # type: ignore[misc]
wait_for_flag_sync(bytearray(1), True)  # type: ignore[arg-type]
wait_for_flag_sync("text", eq(1))  # type: ignore[arg-type]
wait_for_flag_sync(bytearray(1), eq(1), "1")  # type: ignore[arg-type]
Flag(bytearray(4), "I")  # type: ignore[call-arg]
