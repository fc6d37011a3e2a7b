"""A sandbox that denies what aiospin would like to use: it does without, or says what is missing; nothing hangs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from broadcast_support import Child
from lifecycle.exercise import BACKENDS, POLICIES, SKIPPED
from support import COMPILED, PATIENCE, interpreter, until

from aiospin import BroadcastReader, BroadcastWriter

TESTS = Path(__file__).parent.parent

# Each with what shows that it is denied indeed.
DENIALS = {
    "futex": ("SHARED_FUTEX", "assert not aiospin.capabilities().futex"),
    "futex_waitv": ("Rule('futex_waitv')", "assert not aiospin.capabilities().futex_waitv"),
    "both": (
        "replace(SHARED_FUTEX, error=errno.ENOSYS), Rule('futex_waitv', errno.ENOSYS)",
        "assert not aiospin.capabilities().futex",
    ),
    "FIFO": (
        "Rule('mknodat'), Rule('mknod')",
        "fails(PermissionError, lambda: os.mkfifo('/dev/shm/never'))",
    ),
    "timer": ("Rule('timerfd_create')", "fails(OSError, core.timer_open)"),
}
SOFTENED = "Rule('sched_yield'), Rule('prctl', argument=0, mask=0xffffffff, value=SET_TIMERSLACK)"
DENIALS["everything"] = (
    ", ".join([SOFTENED, *(DENIALS[kind][0] for kind in ("both", "FIFO", "timer"))]),
    "fails(PermissionError, os.sched_yield)",
)

HEAD = """
import errno, os, sys
from dataclasses import replace
from lifecycle.seccomp import *

def fails(error, call):
    try: call()
    except error: return
    raise AssertionError("it is not denied")

def denied(*rules):
    try: deny(*rules)
    except UnsupportedError as why:
        print(why)
        sys.exit(77)
"""


def sandboxed(source: str, **extra: str) -> str:
    """What a program printed in its own sandbox."""
    done = interpreter(HEAD + source, PYTHONPATH=str(TESTS), **extra)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0, ""), (
        f"{done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout


@pytest.mark.parametrize("denial", DENIALS)
def test_it_does_without(denial: str) -> None:
    """Every kind of wait, from the first on."""
    rules, proof = DENIALS[denial]
    sandboxed(f"""
denied({rules})
import aiospin
from aiospin._core import core
{proof}
from lifecycle import exercise
exercise.everything()
""")


@pytest.mark.skipif(not COMPILED, reason="the stand-in asks once, at import")
@pytest.mark.parametrize("denial", ["both", "FIFO", "timer"])
def test_a_program_that_locks_itself_in_later(denial: str) -> None:
    """Denied after aiospin has found it allowed, and has used it."""
    rules, _ = DENIALS[denial]
    sandboxed(
        "import aiospin, anyio\n"
        "from lifecycle import exercise\n"
        "from aiospin._waiter import close_default_waiter\n"
        "anyio.run(exercise.broadcast, exercise.POLICIES['park'])\n"
        "assert aiospin.capabilities().futex\n"
        "close_default_waiter()  # its thread could not be woken any more\n"
        f"denied({rules})\nexercise.everything()\n"
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_denied_futex_costs_no_core(when: str) -> None:
    """It looks every millisecond instead of asking the kernel again and again."""
    if when == "after" and not COMPILED:
        pytest.skip("the stand-in asks once, at import")
    sandboxed(f"""
rules = SHARED_FUTEX, Rule('futex_waitv', errno.ENOSYS)
if {when == "before"}: denied(*rules)
import anyio, aiospin
from lifecycle import exercise
from aiospin import wait_for_flag, wait_for_flag_sync, eq
aiospin.capabilities()
if {when == "after"}: denied(*rules)

def parks(wait):
    before = aiospin.statistics().parks
    exercise.expires(wait)
    return aiospin.statistics().parks - before

word, options = bytearray(8), dict(notified=True, policy=exercise.POLICIES["park"])
blocking = parks(lambda: wait_for_flag_sync(word, eq(1), 0.1, **options))
threaded = parks(lambda: anyio.run(lambda: wait_for_flag(word, eq(1), 0.1, **options)))
assert 1 <= blocking <= 110 and 1 <= threaded <= 110, (blocking, threaded)
""")


# A Child has imported aiospin before it comes to its code.
AFRESH = "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_a_peer_outside_of_the_sandbox(backend: str | None) -> None:
    """Neither end sleeps through what the other, which can wake nobody, has published."""
    rules, _ = DENIALS["everything"]
    there, back = f"{os.getpid()}-there-{backend}", f"{os.getpid()}-back-{backend}"
    policy = POLICIES["park"]
    call = f"exercise.echo({there!r}, {back!r}, {backend!r}, exercise.POLICIES['park'])"
    code = f"{HEAD}\ndenied({rules})\nfrom lifecycle import exercise\n{call}\n"
    with (
        BroadcastWriter.create(there, policy=policy) as writer,
        Child(AFRESH, code) as child,
    ):
        said = child.hear()
        if said != "there":
            pytest.skip(said)
        with BroadcastReader.attach(back, policy=policy) as reader:
            writer.wait_for_readers_sync(1, PATIENCE)
            for number in range(5):
                writer.send_sync(bytes([number]))
                assert reader.receive_sync(PATIENCE) == bytes([number])
            writer.close()
            child.finish()


# ---- what there is no way around ----


NEEDED = {
    "locks": ("Rule('fcntl', argument=1, mask=0xffffffff, value=OFD_SETLK)", errno.EPERM),
    "reserved memory": ("Rule('fallocate')", errno.EPERM),
    "another name for a file": ("Rule('linkat'), Rule('link')", errno.EPERM),
    "a file's mode": ("Rule('fchmod')", errno.EPERM),
}


@pytest.mark.parametrize("what", NEEDED)
def test_a_broadcast_says_what_it_is_denied(what: str) -> None:
    """At its creation, which leaves nothing behind; waits for words need none of it."""
    rules, error = NEEDED[what]
    sandboxed(f"""
import aiospin
from lifecycle import exercise
denied({rules})
try: aiospin.BroadcastWriter.create(capacity=4096)
except OSError as error: assert error.errno == {error}, error
else: raise AssertionError("it was created")
assert exercise.files() == set()
assert aiospin.statistics().pinned_buffers == 0
for policy in exercise.POLICIES.values(): exercise.blocking_words(policy)
""")


def test_a_reader_says_that_it_is_denied_locks() -> None:
    """Nobody could tell whether it lives. The writer and its other readers go on."""
    rules, _ = NEEDED["locks"]
    with (
        BroadcastWriter.create(capacity=4096) as writer,
        BroadcastReader.attach(writer.handle) as reader,
    ):
        sandboxed(f"""
import aiospin
denied({rules})
fails(PermissionError, lambda: aiospin.BroadcastReader.attach({writer.name!r}))
assert aiospin.statistics().pinned_buffers == 0
""")
        writer.send_nowait(b"on")
        assert reader.receive_nowait() == b"on"
        until(lambda: len(writer.statistics().readers) == 1)
