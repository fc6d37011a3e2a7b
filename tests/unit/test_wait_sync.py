"""wait_for_flag_sync: results, wakes, signals, the GIL, and the warning on an event loop's thread."""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import COMPILED, Peer, clean, running, shared, until, waiting

import aiospin
from aiospin import WaitPolicy, eq, ge, ne, wait_for_flag_sync

POLICIES = {
    "latency": WaitPolicy.latency(),
    "balanced": WaitPolicy.balanced(),
    "powersave": WaitPolicy.powersave(),
    "spin": WaitPolicy(max_spin=3600, predict=False),
    "no hardware": WaitPolicy(max_spin=3600, predict=False, hardware=False),
}


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> WaitPolicy:
    return POLICIES[request.param]


@pytest.fixture(params=[False, True], ids=["plain", "notified"])
def notified(request: pytest.FixtureRequest) -> bool:
    flag: bool = request.param
    return flag


def test_ready() -> None:
    before = aiospin.statistics()
    assert wait_for_flag_sync(bytearray(b"\7"), eq(7)) == 7
    assert wait_for_flag_sync(bytearray(b"\7"), lambda: "truthy") == "truthy"
    assert wait_for_flag_sync(bytearray(b"\7"), bytes) == b"\7"
    after = aiospin.statistics()
    assert after.parks == before.parks
    assert after.spin_ns == before.spin_ns


def test_woken_by_a_thread(policy: WaitPolicy, notified: bool) -> None:
    word = bytearray(64)
    flag = aiospin.Flag(word, dtype="I", offset=8)
    predicate = eq(5, dtype="I", offset=8)
    with waiting(
        lambda: wait_for_flag_sync(word, predicate, notified=notified, policy=policy)
    ) as outcome:
        flag.store(5)
        if notified:
            flag.notify()
    assert outcome.value == 5


def test_woken_by_a_process(policy: WaitPolicy, notified: bool, peer: Peer, tmp_path: Path) -> None:
    with shared(tmp_path / "memory") as memory:
        predicate = ge(5, dtype="I", offset=8) & ne(0, dtype="B", offset=8)
        with waiting(
            lambda: wait_for_flag_sync(memory, predicate, notified=notified, policy=policy)
        ) as outcome:
            peer.ask(tmp_path / "memory", 5, offset=8, notify=notified)
            peer.done()
        assert outcome.value == 5


def test_a_callable_is_called_where_the_bytes_change(policy: WaitPolicy) -> None:
    word = bytearray(8)
    with waiting(
        lambda: wait_for_flag_sync(word, lambda buffer: buffer[3] and "seen", policy=policy)
    ) as outcome:
        word[3] = 1
    assert outcome.value == "seen"


def test_a_wait_has_the_buffer_pinned_and_lets_go() -> None:
    word = bytearray(8)
    pinned = aiospin.statistics().pinned_buffers
    with waiting(lambda: wait_for_flag_sync(word, eq(1))):
        assert aiospin.statistics().pinned_buffers == pinned + 1
        with pytest.raises(BufferError):
            word.clear()
        word[0] = 1
    word.clear()


def test_it_closes_in_the_except_block() -> None:
    """The traceback of the error refers to the frames of the wait: they have let go of the buffer."""
    from multiprocessing.shared_memory import SharedMemory

    for predicate in (eq(1), lambda: False, lambda buffer: False):
        shm = SharedMemory(create=True, size=64)
        try:
            wait_for_flag_sync(shm.buf[8:16], predicate, 0.001)
        except TimeoutError:
            shm.close()
            shm.unlink()


# ---- signals ----

INTERRUPTED = """
    import os, signal, sys, threading, time
    import aiospin

    word = bytearray(8)
    predicate, notified, policy = eval(sys.argv[1], vars(aiospin))
    killed = []

    def interrupt():
        while not aiospin.statistics().waits:
            time.sleep(0)
        killed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        aiospin.wait_for_flag_sync(word, predicate, notified=notified, policy=policy)
    except KeyboardInterrupt:
        took = time.monotonic() - killed[0]
        print("interrupted" if took < 5 else f"only after {took} s")
    word.clear()
"""


@pytest.mark.parametrize(
    "how",
    [
        "eq(1), False, None",
        "eq(1), True, WaitPolicy.powersave()",
        "eq(1), False, WaitPolicy(max_spin=3600, predict=False)",
        "(lambda: False), False, None",
        "(lambda: False), True, WaitPolicy.powersave()",
    ],
)
def test_ctrl_c(how: str) -> None:
    assert clean(INTERRUPTED, how) == "interrupted\n"


def test_a_signal_handler_that_returns() -> None:
    """It runs during the wait, and the wait goes on."""
    source = """
        import os, signal, threading, time
        import aiospin

        word = bytearray(8)
        handled = []
        signal.signal(signal.SIGUSR1, lambda *_: handled.append(aiospin.statistics().ready))

        def interrupt():
            while not aiospin.statistics().waits:
                time.sleep(0)
            for _ in range(3):
                count = len(handled)
                os.kill(os.getpid(), signal.SIGUSR1)
                while len(handled) == count:
                    time.sleep(0)
            word[0] = 1

        threading.Thread(target=interrupt).start()
        print(aiospin.wait_for_flag_sync(word, aiospin.eq(1)), handled)
    """
    assert clean(source) == "1 [0, 0, 0]\n"


# ---- the GIL ----


@pytest.fixture
def _no_forced_switch() -> Iterator[None]:
    """Nobody is made to give the GIL up: who has it keeps it until it blocks."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this Python has no GIL to take")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # seconds; the test would time out first
    yield
    sys.setswitchinterval(interval)


def _seen_in(statistics: aiospin.Statistics) -> int:
    return statistics.spun + statistics.parked


@pytest.mark.usefixtures("_no_forced_switch")
@pytest.mark.skipif(not COMPILED, reason="the stand-in looks in Python, so it needs the GIL")
def test_a_native_wait_takes_no_gil(policy: WaitPolicy) -> None:
    """This thread keeps the GIL from the store until the waiting thread is seen to have seen it."""
    word = bytearray(64)
    statistics = aiospin.statistics
    with waiting(lambda: wait_for_flag_sync(word, eq(1), policy=policy)) as outcome:
        before = _seen_in(statistics())
        word[0] = 1
        while _seen_in(statistics()) == before:  # nothing in here gives the GIL up
            pass
        assert not outcome.value, "it could not come back yet"
    assert outcome.value == 1


@pytest.mark.usefixtures("_no_forced_switch")
@pytest.mark.skipif(not COMPILED, reason="the stand-in looks in Python, so it needs the GIL")
@pytest.mark.parametrize("mode", ["thread", "park"])
def test_the_waiter_thread_takes_no_gil(mode: Any) -> None:
    word = bytearray(64)
    statistics = aiospin.statistics
    before = statistics()
    policy = WaitPolicy(mode=mode, max_spin=3600, predict=False)

    def wait() -> Any:
        return asyncio.run(aiospin.wait_for_flag(word, eq(1), policy=policy))

    def waits() -> bool:  # and has come to its native loop: a thread that only starts needs the GIL
        now = statistics()
        return now.spin_ns > before.spin_ns or now.parks > before.parks

    with running(wait) as outcome:
        until(waits)
        word[0] = 1
        while statistics().live_tickets > before.live_tickets:
            pass
    assert outcome.value == 1


@pytest.mark.usefixtures("_no_forced_switch")
def test_others_run_during_a_wait(policy: WaitPolicy) -> None:
    word = bytearray(64)
    with waiting(lambda: wait_for_flag_sync(word, eq(1), policy=policy)) as outcome:
        for count in range(100_000):
            word[1] = count & 0xFF
        assert outcome.thread.is_alive()
        word[0] = 1
    assert outcome.value == 1


# ---- on the thread of an event loop ----


def test_a_blocking_wait_on_the_loops_thread_warns(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        with (
            pytest.warns(RuntimeWarning, match=r"use await wait_for_flag\(\)") as caught,
            pytest.raises(TimeoutError),
        ):
            wait_for_flag_sync(word, eq(1), 0.001)
        assert [warning.filename for warning in caught] == [__file__], "it points at the caller"
        flag = aiospin.Flag(word, dtype="B")
        with (
            pytest.warns(RuntimeWarning, match=r"use await Flag\.wait\(\)") as caught,
            pytest.raises(TimeoutError),
        ):
            flag.wait_sync(eq(1), 0.001)
        assert [warning.filename for warning in caught] == [__file__]
        # What does not block is fine: pytest turns warnings into errors.
        wait_for_flag_sync(word, eq(0))
        flag.wait_sync(eq(0))
        with pytest.raises(TimeoutError):
            wait_for_flag_sync(word, eq(1), 0)

    run(main)


def test_a_thread_beside_a_loop_may_block(run: Any) -> None:
    async def main() -> None:
        word = bytearray(8)
        with waiting(lambda: wait_for_flag_sync(word, eq(1))):
            word[0] = 1

    run(main)
