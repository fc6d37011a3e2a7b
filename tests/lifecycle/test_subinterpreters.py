"""Interpreters inside of an interpreter, each with what it waits for: they work, or say why not, and end.

In one with a GIL of its own (3.12) there are no daemon threads, and so perhaps no waiter thread; before 3.13 the
stand-in cannot even be imported there, as ctypes cannot.
"""

from __future__ import annotations

import sys

import pytest
from support import COMPILED, clean

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12"
)

HEAD = r"""
import asyncio, os, sys, textwrap, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
try:
    import _interpreters as interpreters
    create = lambda own: interpreters.create("isolated" if own else "legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    create = lambda own: interpreters.create(isolated=own)
import aiospin

OWN = sys.argv[1] == "own GIL"

def run(interpreter, program):
    source = "try:\n" + textwrap.indent(INSIDE + textwrap.dedent(program), "    ") + r'''
    said = "works"
except (ImportError, RuntimeError) as error:
    said = f"refused: {error}"
import os
os.write(1, (said + "\n").encode())
'''
    error = interpreters.run_string(interpreter, source)
    assert error is None, error

def files():  # of this process, and of one that had its pid before
    return {name for name in os.listdir("/dev/shm") if name.startswith(f"aiospin-{os.getpid()}-")}

before = files()

def alive():
    word = bytearray(8)
    async def main():
        asyncio.get_running_loop().call_soon(word.__setitem__, 0, 1)
        await aiospin.wait_for_flag(word, aiospin.eq(1), 30, policy=aiospin.WaitPolicy("park"))
    asyncio.run(main())
    aiospin._waiter.close_default_waiter()
    now = aiospin.statistics()  # of the process, as long as the compiled core counts
    assert (now.live_tickets, now.pinned_buffers) == (0, 0), now
    assert files() <= before, files() - before

def leave():
    # CPython 3.12 frees at its end what is not its own after an asyncio.run() in an interpreter with its own
    # GIL, without any aiospin.
    sys.stdout.flush()
    if OWN and sys.version_info < (3, 13):
        os._exit(0)

INSIDE = '''
import asyncio, threading, time
import aiospin
from aiospin import BroadcastReader, BroadcastWriter, Flag, WaitPolicy, eq, wait_for_flag, wait_for_flag_sync

POLICIES = [WaitPolicy(mode, max_spin=1e-3) for mode in ("adaptive", "loop", "thread", "park")]
PREDICATES = [eq(1), lambda view: view[0] == 1]
word = bytearray(8)
flag = Flag(word, dtype="B")
refused = []

def until(condition):
    while not condition(): time.sleep(0)
'''
"""

BLOCKING = {
    "words": """
        for policy in POLICIES:
            for predicate in PREDICATES:
                flag.store(0)
                try: wait_for_flag_sync(word, predicate, 0.001, policy=policy)
                except TimeoutError: pass
                else: raise AssertionError
                before = aiospin.statistics().waits
                def store():
                    until(lambda: aiospin.statistics().waits > before)
                    flag.store(1)
                    flag.notify()
                thread = threading.Thread(target=store)
                thread.start()
                assert wait_for_flag_sync(word, predicate, 30, notified=True, policy=policy) == 1
                thread.join()
    """,
    "broadcasts": """
        for policy in POLICIES:
            with (
                BroadcastWriter.create(capacity=4096, policy=policy) as writer,
                BroadcastReader.attach(writer.handle, policy=policy) as reader,
            ):
                thread = threading.Thread(target=lambda: received.append(reader.receive_sync(30)))
                received = []
                thread.start()
                writer.send_sync(bytes(9000))  # in a file of its own, which somebody has to look after
                thread.join()
                assert received == [bytes(9000)]
                writer.send_object_sync({"a": 1})
                assert reader.receive_object_sync(30) == {"a": 1}
    """,
    "a broadcast that nobody closes": """
        writer = BroadcastWriter.create(capacity=4096)
        reader = BroadcastReader.attach(writer.handle)
        writer.send_sync(b"unread")
        writer.send_sync(bytes(9000))
    """,
    "a waiter that nobody closes": "waiter = aiospin.Waiter()",
}

ASYNC = {
    "words": """
        async def main():
            for policy in POLICIES:
                for predicate in PREDICATES:
                    flag.store(0)
                    waits = [asyncio.ensure_future(wait_for_flag(word, predicate, 30, notified=notified, policy=policy))
                             for notified in (False, True)]
                    await asyncio.sleep(0.002)
                    flag.store(1)
                    flag.notify()
                    assert await asyncio.gather(*waits) == [1, 1]
        asyncio.run(main())
    """,
    "broadcasts": """
        async def main():
            for policy in POLICIES:
                async with (
                    BroadcastWriter.create(capacity=4096, policy=policy) as writer,
                    BroadcastReader.attach(writer.handle, policy=policy) as reader,
                ):
                    for message in (b"a", b"b", b"c", bytes(9000)):
                        receiving = asyncio.ensure_future(reader.receive(30))
                        await asyncio.sleep(0.002)
                        await writer.send(message)
                        assert await receiving == message
        asyncio.run(main())
    """,
    "tasks that are cancelled": """
        async def main():
            waits = [asyncio.ensure_future(wait_for_flag(word, predicate, policy=policy))
                     for policy in POLICIES for predicate in PREDICATES]
            await asyncio.sleep(0.002)
            for wait in waits:
                if wait.done(): refused.append(wait.exception())
            if refused: raise refused[0]
        asyncio.run(main())
        word.append(0)  # nothing holds it
    """,
    "a loop that nobody closes": """
        async def main():
            waits = [asyncio.ensure_future(wait_for_flag(word, predicate, policy=policy))
                     for policy in POLICIES for predicate in PREDICATES]
            for wait in waits: wait._log_destroy_pending = False
            await asyncio.sleep(0.002)
            for wait in waits:
                if wait.done(): refused.append(wait.exception())
            if refused: raise refused[0]
            return waits
        loop = asyncio.new_event_loop()
        waits = loop.run_until_complete(main())
    """,
    "a reader that nobody closes": """
        writer = BroadcastWriter.create(capacity=4096)
        reader = BroadcastReader.attach(writer.handle, policy=POLICIES[3])
        async def main():
            for message in (b"a", b"b", b"c"):
                receiving = asyncio.ensure_future(reader.receive(30))
                await asyncio.sleep(0.002)
                await writer.send(message)
                await receiving
            receiving = asyncio.ensure_future(reader.receive())
            receiving._log_destroy_pending = False
            await asyncio.sleep(0.002)
            return receiving
        loop = asyncio.new_event_loop()
        receiving = loop.run_until_complete(main())
    """,
}

REFUSALS = ("daemon threads", "does not support loading in subinterpreters")


def each(kind: str, programs: dict[str, str]) -> dict[str, str]:
    """How each program went, in an interpreter of its own; in between the outer one goes on."""
    source = (
        f"{HEAD}\nPROGRAMS = {programs!r}\n"
        """
for program in PROGRAMS.values():
    interpreter = create(OWN)
    run(interpreter, program)
    interpreters.destroy(interpreter)
    alive()
leave()
"""
    )
    said = dict(zip(programs, clean(source, kind).splitlines(), strict=True))
    if kind == "own GIL":
        return {
            program: "refused" if any(why in line for why in REFUSALS) else line
            for program, line in said.items()
        }
    return said


@pytest.mark.parametrize("kind", ["shared GIL", "own GIL"])
def test_blocking(kind: str) -> None:
    said = each(kind, BLOCKING)
    allowed = {"works"} if COMPILED or kind == "shared GIL" else {"works", "refused"}
    assert set(said.values()) <= allowed, said


@pytest.mark.parametrize("kind", ["shared GIL", "own GIL"])
def test_on_a_loop(kind: str) -> None:
    said = each(kind, ASYNC)
    allowed = {"works"} if kind == "shared GIL" else {"works", "refused"}
    assert set(said.values()) <= allowed, said


@pytest.mark.skipif(not COMPILED, reason="the stand-in cannot be imported there")
def test_two_at_once() -> None:
    """Each with its own GIL and thread, and this one beside them: they play ping-pong on two broadcasts."""
    source = (
        f"{HEAD}\nPLAYER = '''"
        """
mine, theirs, first = PARAMETERS
with BroadcastWriter.create(mine, capacity=4096) as writer:
    while True:
        try: reader = BroadcastReader.attach(theirs)
        except FileNotFoundError: time.sleep(0)
        else: break
    with reader:
        writer.wait_for_readers_sync(1, 30)
        for number in range(200):
            if first: writer.send_sync(bytes([number]))
            assert reader.receive_sync(30) == bytes([number])
            if not first: writer.send_sync(bytes([number]))
        writer.close()
        assert list(reader.iter_sync()) == []
'''
names = [f"{os.getpid()}-player-{number}" for number in range(2)]

def play(*parameters):
    interpreter = create(OWN)
    run(interpreter, f"PARAMETERS = {parameters!r}" + PLAYER)
    # Here, where it was run: CPython 3.12 waits for ever in another thread, for the one that imported threading.
    interpreters.destroy(interpreter)

players = [threading.Thread(target=play, args=(*names, True)),
           threading.Thread(target=play, args=(*reversed(names), False))]
for player in players: player.start()
word = bytearray(8)
while any(player.is_alive() for player in players):
    try: aiospin.wait_for_flag_sync(word, aiospin.eq(1), 0.001)
    except TimeoutError: pass
for player in players: player.join()
alive()
leave()
"""
    )
    assert clean(source, "own GIL") == "works\nworks\n"
