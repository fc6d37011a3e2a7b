"""await wait_for_flag and Flag.wait, on every loop: results, wakes, timeouts, fairness, numbers."""

from __future__ import annotations

import dataclasses
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.lowlevel import checkpoint
from support import Peer, mark, settled, shared, suspended

import aiospin
from aiospin import Flag, WaitPolicy, bits_set, eq, ge, gt, ne, wait_for_flag, wait_for_flag_sync

POLICIES = {
    "adaptive": WaitPolicy(mode="adaptive", max_spin=1e-3, predict=False),
    "thread": WaitPolicy(mode="thread", max_spin=1e-3, predict=False),
    "loop": WaitPolicy(mode="loop", max_spin=3600, predict=False),
    "park": WaitPolicy(mode="park"),
    "latency": WaitPolicy.latency(),
    "balanced": WaitPolicy.balanced(),
    "powersave": WaitPolicy.powersave(),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> WaitPolicy:
    return POLICIES[request.param]


@pytest.fixture(params=[False, True], ids=["plain", "notified"])
def notified(request: pytest.FixtureRequest) -> bool:
    flag: bool = request.param
    return flag


# ---- ready ----


def test_ready_returns_without_suspending() -> None:
    """Driven by hand: the first step already brings the result, with no loop anywhere."""
    word = bytearray(b"\5\0\0\0")
    flag = Flag(word, dtype="I")
    before = aiospin.statistics()
    for _ in range(300):  # more than the budget of a task
        for coroutine, expected in (
            (wait_for_flag(word, eq(5)), 5),
            (wait_for_flag(word, lambda: "yes"), "yes"),
            (wait_for_flag(word, lambda buffer: buffer[0], 0, notified=True), 5),
            (flag.wait(ge(5)), 5),
        ):
            with pytest.raises(StopIteration) as stopped:
                coroutine.send(None)
            assert stopped.value.value == expected
    after = aiospin.statistics()
    assert after.waits - before.waits == after.ready - before.ready == 1200
    assert (after.parks, after.spin_ns) == (before.parks, before.spin_ns)


def test_ready_starts_no_thread(run: Any) -> None:
    async def main() -> None:
        threads = threading.enumerate()
        for _ in range(300):
            assert await wait_for_flag(b"\5", eq(5)) == 5
        assert threading.enumerate() == threads

    run(main)


def test_a_loop_over_ready_waits_lets_others_run(run: Any) -> None:
    async def main() -> None:
        word, rounds, turns = b"\5", 10_000, 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            for _ in range(rounds):
                await wait_for_flag(word, eq(5))
            group.cancel_scope.cancel()
        assert turns >= rounds // 128 // 2

    run(main)


def test_a_wait_outside_of_any_loop() -> None:
    coroutine = wait_for_flag(bytearray(1), eq(1))
    with pytest.raises(RuntimeError, match=r"no running event loop.*_sync"):
        coroutine.send(None)
    assert aiospin.statistics().pinned_buffers == 0


# ---- woken ----


def test_woken_by_a_thread(run: Any, policy: WaitPolicy, notified: bool) -> None:
    async def main() -> None:
        word = bytearray(64)
        flag = Flag(word, dtype="I", offset=8)
        for step in range(1, 4):
            mark()

            async def wait(step: int = step) -> None:
                predicate = ge(step, dtype="I", offset=8)
                result = await wait_for_flag(word, predicate, notified=notified, policy=policy)
                assert result == step

            def store(step: int = step) -> None:
                flag.store(step)
                if notified:
                    flag.notify()

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await suspended()
                thread = threading.Thread(target=store)
                thread.start()
            thread.join()
        word.clear()

    run(main)


def test_woken_by_a_process(
    run: Any, policy: WaitPolicy, notified: bool, peer: Peer, tmp_path: Path
) -> None:
    async def main() -> None:
        with shared(tmp_path / "memory") as memory:
            mark()

            async def wait() -> None:
                predicate = eq(5, dtype="I", offset=64)
                assert await wait_for_flag(memory, predicate, notified=notified, policy=policy) == 5

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await suspended()
                peer.ask(tmp_path / "memory", 5, offset=64, notify=notified)
            peer.done()

    run(main)


def test_woken_by_the_same_thread(run: Any, policy: WaitPolicy) -> None:
    async def main() -> None:
        word = bytearray(8)
        mark()

        async def wait() -> None:
            assert await wait_for_flag(word, eq(1), policy=policy) == 1

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            word[0] = 1

    run(main)


def test_flag_wait(run: Any, policy: WaitPolicy) -> None:
    async def main() -> None:
        flag = Flag(bytearray(16), dtype=">h", offset=4)
        mark()

        async def wait() -> None:
            assert await flag.wait(eq(-300), policy=policy) == -300
            assert await flag.wait(lambda element: bytes(element) == b"\xfe\xd4") is True

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            flag.store(-300)
            flag.notify()

    run(main)


def test_elements_of_several_dtypes(run: Any, policy: WaitPolicy) -> None:
    async def main() -> None:
        data = bytearray(struct.pack("<4H d q", 0, 0, 0, 0, 0.0, 0))
        small = memoryview(data)[:8]
        anywhere = eq(7, dtype="H", elements="any")
        everything = ge(1, dtype="u8", offset=0, elements="all")
        mixed = (gt(0.5, dtype="d", offset=8) & bits_set(6, dtype="q", offset=16)) | eq(
            9, dtype="H"
        )
        seen: list[Any] = []
        mark()

        async def wait(buffer: Any, predicate: aiospin.Predicate) -> None:
            seen.append(await wait_for_flag(buffer, predicate, policy=policy))

        async with anyio.create_task_group() as group:
            group.start_soon(wait, small, anywhere)
            await suspended(1)
            struct.pack_into("<H", data, 6, 7)
        async with anyio.create_task_group() as group:
            group.start_soon(wait, data, mixed)
            await suspended(2)
            struct.pack_into("<d", data, 8, 0.75)
            struct.pack_into("<q", data, 16, 6)
        async with anyio.create_task_group() as group:
            struct.pack_into("<q", data, 16, 0)
            group.start_soon(wait, data, everything)
            await suspended(3)
            struct.pack_into("<q", data, 16, 2)
        assert seen == [7, 0.75, struct.unpack_from("<Q", data)[0]]
        small.release()

    run(main)


# ---- timeouts ----


def test_timeout(run: Any, policy: WaitPolicy, notified: bool) -> None:
    async def main() -> None:
        word, turns = bytearray(8), 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            begin = time.monotonic()
            with pytest.raises(TimeoutError, match=r"eq\(1\)> did not become true within 0\.01 s"):
                await wait_for_flag(word, eq(1), 0.01, notified=notified, policy=policy)
            assert time.monotonic() - begin >= 0.01
            group.cancel_scope.cancel()
        assert turns, "others run meanwhile"
        word.clear()

    run(main)


def test_a_timeout_of_nothing_looks_once(run: Any) -> None:
    async def main() -> None:
        before = aiospin.statistics()
        with pytest.raises(TimeoutError, match="just now"):
            await wait_for_flag(bytearray(1), eq(1), 0)
        after = aiospin.statistics()
        assert (after.waits, after.parks) == (before.waits + 1, before.parks)
        assert after.spin_ns == before.spin_ns

    run(main)


@pytest.mark.parametrize("of_flag", [False, True], ids=["wait_for_flag", "Flag.wait"])
def test_a_loop_over_looks_lets_others_run_and_can_be_cancelled(run: Any, of_flag: bool) -> None:
    async def main() -> None:
        word, looks, turns = bytearray(8), 0, 0
        flag = Flag(word, dtype="B")

        async def other() -> None:
            nonlocal turns
            while turns < 3:
                turns += 1
                await checkpoint()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            while looks < 10_000:
                looks += 1
                with pytest.raises(TimeoutError, match="just now"):
                    await (flag.wait(eq(1), 0) if of_flag else wait_for_flag(word, eq(1), 0))
        assert turns == 3
        assert looks < 10_000, "it was cancelled"
        word.append(0)

    run(main)


def test_a_timeout_beyond_all_floats_is_for_ever(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        assert await wait_for_flag(word, eq(0), 10**400) == 0
        assert wait_for_flag_sync(word, eq(0), 10**400) == 0
        mark()

        async def wait() -> None:
            assert await wait_for_flag(word, eq(1), 10**400) == 1

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            word[0] = 1
        with pytest.raises(ValueError, match="at least 0 seconds"):
            await wait_for_flag(word, eq(1), -(10**400))

    run(main)


def test_a_numpy_string_is_no_timeout(run: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="number of seconds"):
            await wait_for_flag(bytearray(8), eq(0), np.str_("1"))  # type: ignore[arg-type]

    run(main)


# ---- where it runs ----


def test_a_spin_on_the_loop_lets_others_run(run_asyncio: Any) -> None:
    async def main() -> None:
        word, live = bytearray(8), aiospin.statistics().live_tickets
        policy = WaitPolicy(mode="loop", max_spin=3600, predict=False)
        mark()

        async def wait() -> None:
            assert await wait_for_flag(word, eq(1), policy=policy) == 1

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            spun = aiospin.statistics().spin_ns
            for _ in range(100):
                await checkpoint()
            assert aiospin.statistics().spin_ns > spun
            assert aiospin.statistics().live_tickets == live, "no waiter thread takes part"
            word[0] = 1

    run_asyncio(main)


def test_a_busy_loop_hands_its_spins_to_the_waiter_thread(run_asyncio: Any) -> None:
    async def main() -> None:
        word, live = bytearray(8), aiospin.statistics().live_tickets
        policy = WaitPolicy(mode="adaptive", max_spin=3600, predict=False)
        mark()

        async def wait() -> None:
            assert await wait_for_flag(word, eq(1), policy=policy) == 1

        def busy() -> bool:
            end = time.perf_counter() + 1e-3  # other work, many times a slice
            while time.perf_counter() < end:
                pass
            return aiospin.statistics().live_tickets > live

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await suspended()
            await settled(busy)
            word[0] = 1

    run_asyncio(main)


# ---- numbers ----


def test_a_thousand_waits_on_one_thread(run: Any, notified: bool) -> None:
    async def main() -> None:
        count = 1000
        data = bytearray(8 * count)
        flags = [Flag(data, dtype="Q", offset=8 * index) for index in range(count)]
        threads, live = threading.active_count(), aiospin.statistics().live_tickets
        policy, results = WaitPolicy(mode="park"), {}

        async def wait(index: int) -> None:
            predicate = ne(0, dtype="Q", offset=8 * index)
            results[index] = await wait_for_flag(data, predicate, notified=notified, policy=policy)

        async with anyio.create_task_group() as group:
            for index in range(count):
                group.start_soon(wait, index)
            await settled(lambda: aiospin.statistics().live_tickets == live + count)
            assert threading.active_count() == threads + 1
            for index, flag in enumerate(flags):
                flag.store(index + 1)
                if notified:
                    flag.notify()
        assert results == {index: index + 1 for index in range(count)}
        data.clear()

    run(main)


def test_two_loops_in_two_threads(run: Any) -> None:
    """They play ping-pong over two words, each on a loop of its own."""
    rounds = 50
    data = bytearray(128)
    ping, pong = Flag(data, dtype="I"), Flag(data, dtype="I", offset=64)
    errors: list[BaseException] = []

    async def play(mine: Flag, yours: Flag, serve: bool) -> None:
        for step in range(1, rounds + 1):
            if serve:
                yours.store(step)
                yours.notify()
            assert await mine.wait(ge(step), 30) == step
            if not serve:
                yours.store(step)
                yours.notify()

    def player() -> None:
        try:
            run(play, ping, pong, False)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=player)
    thread.start()
    run(play, pong, ping, True)
    thread.join()
    assert not errors


# ---- statistics ----


def test_statistics(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        park = WaitPolicy(mode="park")
        before = aiospin.statistics()
        mark()

        async def wait() -> None:
            await wait_for_flag(word, eq(1), policy=park)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settled(lambda: aiospin.statistics().parks > before.parks)
            now = aiospin.statistics()
            assert (now.live_tickets, now.pinned_buffers) == (
                before.live_tickets + 1,
                before.pinned_buffers + 1,
            )
            word[0] = 1
        now = aiospin.statistics()
        assert now.waits == before.waits + 1
        assert now.parked == before.parked + 1
        assert (now.spun, now.ready) == (before.spun, before.ready)
        assert (now.timed_out, now.cancelled) == (before.timed_out, before.cancelled)
        assert (now.live_tickets, now.pinned_buffers) == (
            before.live_tickets,
            before.pinned_buffers,
        )

        with pytest.raises(TimeoutError):
            await wait_for_flag(word, eq(0), 1e-3, policy=park)
        assert aiospin.statistics().timed_out == before.timed_out + 1

        word[0] = 0
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await settled(lambda: aiospin.statistics().live_tickets > before.live_tickets)
            group.cancel_scope.cancel()
        assert aiospin.statistics().cancelled == before.cancelled + 1
        assert aiospin.statistics().waits == before.waits + 3

    run(main)


@contextmanager
def _ends(**expected: int) -> Iterator[None]:
    """Each wait of the block is counted once, and so is its end."""
    before = dataclasses.asdict(aiospin.statistics())
    yield
    after = dataclasses.asdict(aiospin.statistics())
    ways = ("ready", "spun", "parked", "timed_out", "cancelled")
    ends = {way: after[way] - before[way] for way in ways}
    assert after["waits"] - before["waits"] == sum(ends.values()), ends
    for way, count in expected.items():
        assert ends[way] == count, ends


SLICES = WaitPolicy(mode="loop", max_spin=3600, predict=False)
WAITER = WaitPolicy(mode="thread", max_spin=3600, predict=False)
PARK = WaitPolicy(mode="park")


def test_every_end_is_counted_once(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        with _ends(ready=3):
            await wait_for_flag(word, eq(0))
            await wait_for_flag(word, lambda: True)
            wait_for_flag_sync(word, eq(0))
        with _ends(timed_out=2):
            with pytest.raises(TimeoutError):
                await wait_for_flag(word, eq(1), 0)
            with pytest.raises(TimeoutError):
                await wait_for_flag(word, lambda: False, 0)
        for policy in (SLICES, WAITER, PARK):
            with _ends(timed_out=2):
                with pytest.raises(TimeoutError):
                    await wait_for_flag(word, eq(1), 1e-3, policy=policy)
                with pytest.raises(TimeoutError):
                    await wait_for_flag(word, lambda: False, 1e-3, policy=policy)

        async def wait(policy: WaitPolicy) -> None:
            await wait_for_flag(word, eq(1), policy=policy)

        for policy in (SLICES, WAITER, PARK):
            way = "parked" if policy is PARK else "spun"
            with _ends(**{way: 1}):
                mark()
                async with anyio.create_task_group() as group:
                    parks = aiospin.statistics().parks
                    group.start_soon(wait, policy)
                    await suspended()
                    if policy is PARK:
                        await settled(lambda parks=parks: aiospin.statistics().parks > parks)
                    word[0] = 1
                word[0] = 0
            with _ends(cancelled=1):
                mark()
                async with anyio.create_task_group() as group:
                    group.start_soon(wait, policy)
                    await suspended()
                    group.cancel_scope.cancel()

    run(main)


@pytest.mark.parametrize("policy", [WAITER, PARK], ids=["spins", "parks"])
def test_the_changes_and_rechecks_of_a_callable_are_counted_once(
    run: Any, policy: WaitPolicy
) -> None:
    async def main() -> None:
        word, calls = bytearray(8), 0

        def predicate(buffer: memoryview) -> bool:
            nonlocal calls
            calls += 1
            return buffer[0] == 3

        async def wait() -> None:
            assert await wait_for_flag(word, predicate, policy=policy)

        with _ends(ready=0, timed_out=0, cancelled=0):
            mark()
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await suspended()
                for step in (1, 2, 3):
                    seen = calls
                    word[0] = step
                    await settled(lambda seen=seen: calls > seen)
        with (
            _ends(ready=0, spun=0, parked=0, timed_out=1, cancelled=0),
            pytest.raises(TimeoutError),
        ):
            await wait_for_flag(word, lambda: False, 0.12, policy=policy)

    run(main)


@pytest.mark.parametrize("policy", [WAITER, PARK], ids=["spins", "parks"])
def test_the_same_in_a_blocking_wait(policy: WaitPolicy) -> None:
    word, calls = bytearray(8), 0

    def predicate() -> bool:
        nonlocal calls
        calls += 1
        if calls > 1:  # after 50 ms
            word[0] += 1  # which is a change, so that it is called again at once
        return calls == 5

    with _ends(timed_out=0, cancelled=0):
        assert wait_for_flag_sync(word, predicate, 30, policy=policy)
    with _ends(ready=0, spun=0, parked=0, timed_out=1), pytest.raises(TimeoutError):
        wait_for_flag_sync(word, lambda: False, 0.12, policy=policy)


def test_a_change_during_the_first_call_is_counted_once() -> None:
    word, calls = bytearray(8), 0

    def predicate() -> bool:
        nonlocal calls
        calls += 1
        word[0] += 1
        return calls == 3

    with _ends():
        assert wait_for_flag_sync(word, predicate, 30)


def test_the_questions_of_a_broadcast_are_counted_once(run: Any) -> None:
    """Every 100 ms it asks whether the writer lives, which ends no wait."""

    async def main() -> None:
        with (
            aiospin.BroadcastWriter.create(capacity=4096) as writer,
            aiospin.BroadcastReader.attach(writer.handle) as reader,
            _ends(timed_out=1),
            pytest.raises(TimeoutError),
        ):
            await reader.receive(0.25)

    run(main)
