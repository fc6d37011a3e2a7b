"""fork and spawn with waits outstanding: the child makes its own, the parent's go on."""

from __future__ import annotations

import pytest
from support import clean

HEAD = """
    import asyncio, mmap, os, sys, threading, time, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads, which is what this is about
    import multiprocessing as mp
    from multiprocessing.shared_memory import SharedMemory
    import aiospin
    from aiospin import Flag, WaitPolicy, eq, ge, wait_for_flag, wait_for_flag_sync

    MODES = [WaitPolicy(mode=mode, max_spin=0.01, predict=False)
             for mode in ("adaptive", "thread", "loop", "park")]

    def fork(child):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                child()
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                os._exit(status)
        return pid

    def joined(pid):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status == 0, status

    async def own_waits():
        word = bytearray(8)
        for policy in MODES:
            try:
                await wait_for_flag(word, eq(1), 0.001, policy=policy)
                raise AssertionError
            except TimeoutError:
                pass
            task = asyncio.ensure_future(wait_for_flag(word, eq(1), 20, policy=policy))
            await asyncio.sleep(0)
            word[0] = 1
            assert await task == 1
            word[0] = 0
        word.append(0)
"""

PROGRAMS = {
    "fork": """
    memory = mmap.mmap(-1, 4096)
    flag = Flag(memory, dtype="I")

    def child():
        assert aiospin.statistics().live_tickets == 0
        asyncio.run(own_waits())
        flag.store(1)
        flag.notify()

    async def main():
        waits = [wait_for_flag(memory, ge(1, dtype="I"), 20, notified=notified, policy=policy)
                 for policy in MODES for notified in (False, True)]
        waits += [wait_for_flag(memory, lambda buffer: buffer[0] == 1, 20)]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        while aiospin.statistics().live_tickets < len(tasks) - 1:
            await asyncio.sleep(0)
        pid = fork(child)
        assert await asyncio.gather(*tasks) == [1] * 8 + [True]
        joined(pid)

    # The child leaves by os._exit, so its copy of this loop never goes on.
    asyncio.run(main())
    """,
    "close in the child": """
    def child(shm):
        assert aiospin.statistics().live_tickets == 0
        assert aiospin.statistics().pinned_buffers == 0
        shm.close()
        asyncio.run(own_waits())

    async def main():
        shm = SharedMemory(create=True, size=64)
        park = WaitPolicy(mode="park")
        tasks = [asyncio.ensure_future(wait_for_flag(shm.buf, eq(1), 20, notified=notified, policy=park))
                 for notified in (False, True)]
        while aiospin.statistics().live_tickets < len(tasks):
            await asyncio.sleep(0)
        joined(fork(lambda: child(shm)))
        Flag(shm.buf, dtype="B").store(1)
        Flag(shm.buf, dtype="B").notify()
        assert await asyncio.gather(*tasks) == [1, 1]
        shm.close()
        shm.unlink()

    asyncio.run(main())
    """,
    "fork again and again": """
    memory = mmap.mmap(-1, 4096)

    def grandchild():
        asyncio.run(own_waits())

    def child():
        asyncio.run(own_waits())
        joined(fork(grandchild))
        asyncio.run(own_waits())

    async def main():
        task = asyncio.ensure_future(wait_for_flag(memory, eq(1), 20))
        for _ in range(5):
            await own_waits()
            joined(fork(child))
        memory[0] = 1
        assert await task == 1

    asyncio.run(main())
    """,
    "fork while threads wait and submit": """
    stop = bytearray(8)

    def busy():
        async def waits():
            while not stop[0]:
                try:
                    await wait_for_flag(bytearray(8), eq(1), 0.0001, policy=MODES[3])
                except TimeoutError:
                    pass
        asyncio.run(waits())

    threads = [threading.Thread(target=busy) for _ in range(3)]
    threads.append(threading.Thread(target=wait_for_flag_sync, args=(stop, eq(1))))
    for thread in threads:
        thread.start()
    for _ in range(20):
        joined(fork(lambda: asyncio.run(own_waits())))
    stop[0] = 1
    for thread in threads:
        thread.join()
    """,
    "fork while waiter threads hold the table": """
    sys.setswitchinterval(1e-5)
    stop = bytearray(8)
    waiter = aiospin.Waiter()

    def busy():
        async def waits():
            word = bytearray(8)
            while not stop[0]:
                try:
                    await wait_for_flag(word, eq(1), 0.0005, policy=MODES[1], waiter=waiter)
                except TimeoutError:
                    pass
        asyncio.run(waits())

    def hog():  # wants the GIL all the time
        while not stop[0]:
            pass

    threads = [threading.Thread(target=body) for body in (busy, busy, hog)]
    for thread in threads:
        thread.start()
    while not waiter.live:
        pass
    for _ in range(30):
        joined(fork(lambda: None))
    stop[0] = 1
    for thread in threads:
        thread.join()
    waiter.close()
    """,
    "a child that ends by itself": """
    memory = mmap.mmap(-1, 4096)

    async def main():
        tasks = [asyncio.ensure_future(wait_for_flag(memory, eq(1), 20, policy=policy)) for policy in MODES]
        while not aiospin.statistics().live_tickets:
            await asyncio.sleep(0)
        if (pid := os.fork()) == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import aiospin"])
        joined(pid)
        memory[0] = 1
        assert await asyncio.gather(*tasks) == [1] * 4

    asyncio.run(main())
    """,
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_fork(program: str) -> None:
    assert clean(HEAD + PROGRAMS[program]) == ""


def test_fork_while_a_thread_asks_the_waiter() -> None:
    """The table is locked by the fork, which waits for the GIL: whoever asks has to let go of that."""
    program = """
    import os, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    inside, asked, done = threading.Event(), threading.Event(), threading.Event()

    def between():  # registered before aiospin's hook, so it is called after that, with the table locked
        inside.set()
        asked.wait(30)
        done.wait(0.05)  # time to ask, and to come to the lock

    os.register_at_fork(before=between)
    import aiospin

    waiter = aiospin.Waiter()

    def ask():
        inside.wait(30)
        asked.set()
        assert waiter.live == 0
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    thread.join()
    waiter.close()
    """
    assert clean(program) == ""


INSIDE = {
    "the child ends its inherited loop": """
    word, inside, go_on = bytearray(8), threading.Event(), threading.Event()

    def predicate():
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            go_on.wait(30)
        return word[0] == 1

    async def main():
        task = asyncio.ensure_future(wait_for_flag(word, predicate, policy=MODES[1]))
        while not inside.is_set(): await asyncio.sleep(0)
        pid = os.fork()
        if pid == 0: sys.exit(7)  # asyncio.run cancels the task on the way out
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        os._exit(0)  # the child has taken the loop's poll apart, which the two share

    asyncio.run(main())
    """,
    "Ctrl-C in the hook before it": """
    waiters = [aiospin.Waiter() for _ in range(3)]
    seen = []
    sys.unraisablehook = lambda raised: seen.append(raised.exc_type)

    class Interrupted:
        def __init__(self, table): self.table = table
        def __getattr__(self, name): return getattr(self.table, name)
        def before_fork(self):
            self.table.before_fork()
            if not seen: raise KeyboardInterrupt

    for waiter in waiters: waiter._table = Interrupted(waiter._table)
    for _ in range(3): joined(fork(lambda: asyncio.run(own_waits())))
    assert seen == [KeyboardInterrupt], seen
    for waiter in waiters: waiter.close()
    asyncio.run(own_waits())
    """,
    "a signal's handler forks while the first waiter is made": """
    from aiospin import _waiter
    make = _waiter.Waiter.__init__

    def fork_inside(waiter, **options):
        make(waiter, **options)
        _waiter.Waiter.__init__ = make
        joined(fork(lambda: asyncio.run(own_waits())))

    _waiter.Waiter.__init__ = fork_inside
    asyncio.run(own_waits())
    """,
    "waiters come and go beside it": """
    seen, over = [], threading.Event()
    sys.unraisablehook = lambda raised: seen.append(raised.exc_value)
    sys.setswitchinterval(1e-5)

    def churn():
        while not over.is_set():
            for waiter in [aiospin.Waiter() for _ in range(20)]: waiter.close()

    thread = threading.Thread(target=churn)
    thread.start()
    for _ in range(100): joined(fork(lambda: None))
    over.set()
    thread.join()
    assert not seen, seen
    """,
}


@pytest.mark.parametrize("program", INSIDE)
def test_fork_in_the_middle(program: str) -> None:
    assert clean(HEAD + INSIDE[program]) == ""


def _answer(name: str) -> None:
    """What a process of multiprocessing runs: waits for 1 in shared memory, answers with 2."""
    import asyncio
    from multiprocessing.shared_memory import SharedMemory

    import aiospin

    shm = SharedMemory(name)
    ping = aiospin.Flag(shm.buf, dtype="I")
    assert asyncio.run(ping.wait(aiospin.eq(1), 30)) == 1
    pong = aiospin.Flag(shm.buf, dtype="I", offset=64)
    pong.store(2)
    pong.notify()
    shm.close()


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing(method: str) -> None:
    program = """
    from test_fork import _answer

    async def main():
        shm = SharedMemory(create=True, size=128)
        context = mp.get_context(sys.argv[1])
        pong = Flag(shm.buf, dtype="I", offset=64)
        task = asyncio.ensure_future(pong.wait(eq(2), 30))
        while not aiospin.statistics().waits:
            await asyncio.sleep(0)
        process = context.Process(target=_answer, args=(shm.name,))
        process.start()
        ping = Flag(shm.buf, dtype="I")
        ping.store(1)
        ping.notify()
        assert await task == 2
        process.join()
        assert process.exitcode == 0, process.exitcode
        shm.close()
        shm.unlink()

    if __name__ == "__main__":
        asyncio.run(main())
    """
    from pathlib import Path

    path = f"{Path(__file__).parent}:{Path(__file__).parent.parent}"
    assert clean(HEAD + program, method, PYTHONPATH=path) == ""
