"""The end of a program with waits outstanding: at once, with the right status, and silent."""

from __future__ import annotations

import pytest
from support import clean, interpreter

HEAD = """
    import asyncio, os, sys, threading, time
    import aiospin
    from aiospin import WaitPolicy, eq, wait_for_flag, wait_for_flag_sync

    word = bytearray(64)
    POLICIES = [WaitPolicy(mode=mode, max_spin=3600, predict=False)
                for mode in ("adaptive", "thread", "loop", "park")]
    PREDICATES = [eq(1), eq(1) & eq(2, dtype="I"), lambda: False, lambda buffer: buffer[0] == 1]

    def many():
        for policy in POLICIES:
            for predicate in PREDICATES:
                for notified in (False, True):
                    yield wait_for_flag(word, predicate, notified=notified, policy=policy)

    def waits(count):
        return lambda: aiospin.statistics().waits >= count

    def until(condition):
        while not condition():
            time.sleep(0)
"""

PROGRAMS = {
    "asyncio.run cancels its tasks": """
    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)

    asyncio.run(main())
    word.append(0)
    """,
    "sys.exit in a task": """
    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)
        sys.exit(0)

    asyncio.run(main())
    """,
    "sys.exit in another task": """
    async def leave():
        await wait_for_flag(word, eq(2, offset=1))
        sys.exit(0)

    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)
        word[1] = 2
        await leave()

    asyncio.run(main())
    """,
    "a loop in a daemon thread": """
    async def main():
        await asyncio.gather(*many())

    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    until(waits(32))
    """,
    "trio cancels its tasks": """
    import trio

    async def main():
        async with trio.open_nursery() as nursery:
            for wait in many():
                nursery.start_soon(lambda wait=wait: wait)
            while aiospin.statistics().waits < 32:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()

    trio.run(main)
    word.append(0)
    """,
    "trio in a daemon thread": """
    import trio

    async def main():
        async with trio.open_nursery() as nursery:
            for wait in many():
                nursery.start_soon(lambda wait=wait: wait)

    threading.Thread(target=lambda: trio.run(main), daemon=True).start()
    until(waits(32))
    """,
    "blocking waits in daemon threads": """
    for policy in POLICIES:
        for predicate in PREDICATES:
            threading.Thread(
                target=wait_for_flag_sync, args=(word, predicate), kwargs={"policy": policy}, daemon=True
            ).start()
    until(waits(16))
    """,
    "an open waiter": """
    waiter = aiospin.Waiter()

    async def main():
        task = asyncio.ensure_future(wait_for_flag(word, eq(1), waiter=waiter, policy=POLICIES[3]))
        while not waiter.live:
            await asyncio.sleep(0)

    asyncio.run(main())
    """,
    "a waiter that is collected": """
    async def main():
        waiter = aiospin.Waiter(name="dropped")
        try:
            await wait_for_flag(word, eq(1), 0.001, waiter=waiter, policy=POLICIES[3])
        except TimeoutError:
            pass

    asyncio.run(main())
    """,
    "modules that are torn down": """
    class Late:
        def __del__(self):
            assert wait_for_flag_sync(word, eq(0)) == 0

    keep = Late()
    sys.modules["late"] = keep
    """,
    "nothing but an import": "",
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", ["plain", "dev"])
def test_a_silent_end(program: str, mode: str) -> None:
    if "trio" in program:
        pytest.importorskip("trio")
    assert clean(HEAD + PROGRAMS[program], PYTHONDEVMODE="1" if mode == "dev" else "") == ""


def test_a_loop_that_nobody_closes() -> None:
    """Nor its tasks, which asyncio itself would complain about."""
    program = """
    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        for task in tasks:
            task._log_destroy_pending = False
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)
        return tasks

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(main())
    """
    assert clean(HEAD + program) == ""


def test_an_uncaught_exception_in_a_task() -> None:
    program = """
    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)
        raise LookupError("mine")

    asyncio.run(main())
    """
    done = interpreter(HEAD + program)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.splitlines()[-1] == "LookupError: mine"


def test_the_exit_status_is_kept() -> None:
    program = """
    async def main():
        tasks = [asyncio.ensure_future(wait) for wait in many()]
        while aiospin.statistics().waits < len(tasks):
            await asyncio.sleep(0)
        sys.exit(7)

    asyncio.run(main())
    """
    done = interpreter(HEAD + program)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_no_thread_is_left() -> None:
    """After the default waiter is closed; without that it would retire by itself when idle."""
    program = """
    async def main():
        for policy in POLICIES:
            for predicate in PREDICATES:
                try:
                    await wait_for_flag(word, predicate, 0.001, policy=policy)
                except TimeoutError:
                    pass

    asyncio.run(main())
    from aiospin._waiter import close_default_waiter
    close_default_waiter()
    print([thread.name for thread in threading.enumerate()])
    """
    assert clean(HEAD + program) == "['MainThread']\n"


def test_a_thread_retires_when_there_is_nothing_to_wait_for() -> None:
    program = """
    from aiospin import _waiter
    _waiter._IDLE_NS = 1_000_000

    async def main():
        for _ in range(3):
            try:
                await wait_for_flag(word, eq(1), 0.001, policy=POLICIES[3])
            except TimeoutError:
                pass
            until(lambda: threading.active_count() == 1)

    asyncio.run(main())
    """
    assert clean(HEAD + program) == ""
