"""Whoever dies, is stopped or raises, at whatever step: the others go on, soon, and lose nothing.

Every instruction of the ring's operations is in tests/native/test_ring_kill.c, every system call and the steps that a
program can see are here, and who is killed at random in tests/soak/soak.py.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from broadcast_support import Child, fill, waits
from kill_support import CAPACITY, LARGE, MAX_READERS, Victim, nursery
from support import COMPILED, PATIENCE, running, until, waiting

from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    BrokenResourceError,
    EndOfStream,
    WaitPolicy,
    WouldBlock,
    _garbage,
    _member,
    _writer,
)

pytestmark = pytest.mark.slow

SOON = 5.0  # seconds; a tenth of one is promised, on a machine that has nothing else to do
SHM = Path("/dev/shm")
LAPS = 100  # messages, more than the ring has room for


@pytest.fixture
def victims() -> Iterator[Child]:
    with nursery() as child:
        yield child


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask after the peer every millisecond, or a sweep would take a tenth of a second for each death."""
    monkeypatch.setattr(_member, "LIVENESS_NS", 1_000_000)
    monkeypatch.setattr(_member, "GUARDED_NS", 1_000_000)
    monkeypatch.setattr(_member._MemberTarget, "recheck_ns", 1_000_000)


def name_of(operation: str, stops: int) -> str:
    return f"{os.getpid()}-{operation.replace(' ', '-')}-{stops}"


def tidy(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is left can be told from what lives, and removed."""
    with monkeypatch.context() as patch:
        patch.setattr(
            _garbage, "UNLOCKED_NS", 0
        )  # an unfinished segment is not spared for its youth
        list(_garbage.sweep(SHM, {name}))
        assert [path.name for path in SHM.iterdir() if name in path.name] == []


def exchange(writer: BroadcastWriter, *readers: BroadcastReader) -> None:
    """More messages than the ring has room for."""
    for number in range(LAPS):
        writer.send_sync(number.to_bytes(8, "little"), timeout=PATIENCE)
        for reader in readers:
            assert reader.receive_sync(PATIENCE) == number.to_bytes(8, "little")


def drain(reader: BroadcastReader) -> tuple[list[bytes], type[Exception]]:
    """All that comes, and how it ended."""
    messages = []
    while True:
        try:
            messages.append(reader.receive_sync(PATIENCE))
        except (BrokenResourceError, EndOfStream) as end:
            return messages, type(end)


async def drain_async(reader: BroadcastReader) -> tuple[list[bytes], type[Exception]]:
    messages = []
    while True:
        try:
            messages.append(await reader.receive(PATIENCE))
        except (BrokenResourceError, EndOfStream) as end:
            return messages, type(end)


# ---- at every system call ----


def test_create_is_killed_at_every_system_call(victims, impatient, monkeypatch):
    """The name can be taken at once, whatever is left there; one that lives keeps it."""
    stops, created = 0, 0
    while True:
        name = name_of("create", stops)
        victim = Victim(victims, "create", name)
        halted = victim.halt(stops)
        try:
            other = BroadcastWriter.create(name)
        except FileExistsError:
            created += 1
        else:
            other.close()
        victim.kill()
        with (
            BroadcastWriter.create(name, capacity=CAPACITY, max_readers=MAX_READERS) as writer,
            BroadcastReader.attach(name) as reader,
        ):
            exchange(writer, reader)
        tidy(monkeypatch, name)
        if not halted:
            break
        stops += 1
    assert stops > 20
    assert 1 < created < stops


def test_create_goes_on_beside_another(victims, monkeypatch):
    """Of two that create the same name one gets it, wherever they meet."""
    stops = 0
    while True:
        name = name_of("meet", stops)
        victim = Victim(victims, "create", name)
        halted = victim.halt(stops)
        try:
            other = BroadcastWriter.create(name)
        except FileExistsError:
            other = None
        victim.go_on()
        if other:
            with other, BroadcastReader.attach(name) as reader:
                exchange(other, reader)
        else:
            BroadcastWriter.create(name).close()  # after the victim's
        tidy(monkeypatch, name)
        if not halted:
            break
        stops += 1
    assert stops > 20


WRITING = ["send", "send in place", "send large", "send on a loop", "close"]


@pytest.mark.parametrize("operation", WRITING)
def test_a_writer_is_killed_at_every_system_call(victims, impatient, monkeypatch, operation):
    """All readers get the same, whole or not at all, and are told; the next writer takes over."""
    whole = b"l" * LARGE if operation == "send large" else b"later"
    seen = set()
    stops = 0
    while True:
        name = name_of(operation, stops)
        victim = Victim(victims, operation, name)
        with (
            BroadcastReader.attach(name) as parked,
            BroadcastReader.attach(name) as awaits,
            BroadcastReader.attach(name) as looks,
        ):
            with (
                waiting(lambda reader=parked: drain(reader)) as outcome,
                running(lambda reader=awaits: anyio.run(drain_async, reader)) as awaited,
            ):
                until(lambda reader=awaits: waits(reader))
                halted = victim.halt(stops)
                victim.kill()
            ends = drain(looks)
            assert outcome.get() == awaited.get() == ends
            assert ends in [
                ([], BrokenResourceError),
                ([whole], BrokenResourceError),
                ([], EndOfStream),
            ]
            seen.add(str(ends))
            with BroadcastWriter.create(name) as writer, BroadcastReader.attach(name) as reader:
                exchange(writer, reader)
        tidy(monkeypatch, name)
        if not halted:
            break
        stops += 1
    assert stops > 1
    assert len(seen) == 2, seen


READING = [
    "attach",
    "receive",
    "receive many",
    "receive in place",
    "receive on a loop",
    "wait",
    "leave",
]


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("operation", READING)
def test_a_reader_is_killed_at_every_system_call(victims, impatient, monkeypatch, operation, large):
    """The writer goes on without it, another reader loses nothing, its slot is free again."""
    stops = 0
    while True:
        name = name_of(operation, stops)
        with (
            BroadcastWriter.create(name, capacity=CAPACITY, max_readers=2) as writer,
            BroadcastReader.attach(name) as witness,
        ):
            victim = Victim(victims, operation, name)
            if operation not in ("attach", "wait"):
                first = bytes(LARGE) if large else b"first"
                writer.send_nowait(first)
                assert witness.receive_nowait() == first
            halted = victim.halt(stops)
            while True:  # as far as the halted one lets it
                try:
                    writer.send_nowait(b"meanwhile")
                except WouldBlock:
                    break
                assert witness.receive_nowait() == b"meanwhile"
                if witness.statistics().sequence > LAPS:
                    break
            victim.kill()
            exchange(writer, witness)
            with BroadcastReader.attach(name) as successor:
                exchange(writer, witness, successor)
        tidy(monkeypatch, name)
        if not halted:
            break
        stops += 1
    assert stops > (1 if operation in ("attach", "leave", "wait") else 0)


@pytest.mark.skipif(not COMPILED, reason="the writer of the stand-in refuses doorbells")
def test_a_writer_is_killed_at_every_system_call_of_a_ring(victims, monkeypatch):
    """Before and after the write to the doorbell on which a reader's loop sleeps, without any look of its own."""
    park = WaitPolicy("park")
    seen = set()
    stops = 0
    while True:
        name = name_of("ring", stops)
        victim = Victim(victims, "ring", name)
        with BroadcastReader.attach(name, policy=park) as reader:
            with running(lambda reader=reader: anyio.run(drain_async, reader)) as outcome:
                until(lambda reader=reader: waits(reader))
                halted = victim.halt(stops)
                victim.kill()
            messages, end = outcome.get()
            later = [message for message in messages if message != b"first"]
            assert later in ([], [b"later"])
            assert end is BrokenResourceError
            seen.add(len(later))
        tidy(monkeypatch, name)
        if not halted:
            break
        stops += 1
    assert seen == {0, 1}
    assert stops >= 2  # the write, before and after


# ---- at every step that a program can see ----

SPIN = "policy=aiospin.WaitPolicy(mode='{mode}', max_spin=3600, predict=False)"
HOW = {
    "spinning": SPIN.format(mode="adaptive"),
    "spinning in the waiter thread": SPIN.format(mode="thread"),
    "parked": "policy=aiospin.WaitPolicy(mode='park')",
}

WRITER = """
writer = BroadcastWriter.create(capacity=4096, {how})
tell(writer.name)
told()
for number in range(3):
    writer.send_sync(bytes([number]))
def fill():
    try:
        while True: writer.send_nowait(b"fill")
    except anyio.WouldBlock:
        tell("there")
{step}
tell("there")
told()
"""

WRITER_STEPS = {
    "it published": "",
    "it claimed": "writer.acquire_write(100).__enter__()",
    "it filled in": "writer.acquire_write(100).__enter__()[:] = b'x' * 100",
    "it abandoned": """
try:
    with writer.acquire_write(100): raise KeyError
except KeyError: pass
""",
    "it fills in a large one": f"writer.acquire_write({LARGE}).__enter__()[:5] = b'xxxxx'",
    "it waits for room": "fill(); writer.send_sync(b'')",
    "it waits for a claim": "fill(); writer.acquire_write(9).__enter__()",
    "it awaits room": "fill(); anyio.run(writer.send, b'')",
}


def ways(steps: dict[str, str]) -> list[tuple[str, str]]:
    """A step that does not wait needs to be done in one way only."""
    return [(step, how) for step in steps for how in HOW if "wait" in step or how == "parked"]


@pytest.mark.parametrize(("step", "how"), ways(WRITER_STEPS))
def test_a_writer_is_killed_when(monkeypatch, step, how):
    """What it published is read, what it did not is not, and then its death is told to all."""
    with Child(WRITER.format(how=HOW[how], step=WRITER_STEPS[step])) as child:
        name = child.hear()
        with BroadcastReader.attach(name) as one, BroadcastReader.attach(name) as other:
            child.tell()
            child.expect("there")
            child.kill()
            with waiting(lambda: drain(other)) as outcome:
                messages, end = drain(one)
            assert outcome.get() == (messages, end)
        assert messages[:3] == [b"\0", b"\1", b"\2"]
        assert set(messages[3:]) <= {b"fill"}
        assert end is BrokenResourceError
    tidy(monkeypatch, name)


READER = """
reader = BroadcastReader.attach(sys.argv[1], {how})
{step}
tell("there")
told()
"""

READER_STEPS = {
    "it has read nothing": "",
    "it holds a message": "tell('there'); told(); reader.acquire_read().__enter__()",
    "it has let go of one": """
tell('there'); told()
try:
    with reader.acquire_read(): raise KeyError
except KeyError: pass
""",
    "it waits": "tell('there'); reader.receive_sync(); reader.receive_sync()",
    "it awaits": "tell('there'); anyio.run(reader.receive)",
    "it waits for one in place": "tell('there'); reader.acquire_read().__enter__()",
    "it left": "reader.close()",
}


@pytest.mark.parametrize(("step", "how"), ways(READER_STEPS))
def test_a_reader_is_killed_when(monkeypatch, step, how):
    """The writer that waits for it goes on, and another reader loses nothing."""
    with (
        BroadcastWriter.create(capacity=CAPACITY, max_readers=2) as writer,
        BroadcastReader.attach(writer.handle) as witness,
    ):
        with Child(READER.format(how=HOW[how], step=READER_STEPS[step]), writer.name) as child:
            child.expect("there")
            if "tell('there'); told()" in READER_STEPS[step].replace("\n", " "):
                writer.send_nowait(b"first")
                assert witness.receive_nowait() == b"first"
                child.tell()
                child.expect("there")
            child.kill()
        exchange(writer, witness)
        with BroadcastReader.attach(writer.handle) as successor:
            exchange(writer, witness, successor)
    tidy(monkeypatch, writer.name)


ATTACH = "reader = BroadcastReader.attach(sys.argv[1]); tell(reader.statistics().slot); told()"


def test_survivors_go_on_soon():
    """How long it takes, from when the death could be known; a tenth of a second is promised on an idle machine."""
    told, freed = [], []
    for _ in range(5):
        with (
            Child(WRITER.format(how="", step="")) as child,
            BroadcastReader.attach(child.hear()) as reader,
        ):
            child.tell()
            child.expect("there")
            reader.receive_many_sync()
            with waiting(lambda reader=reader: drain(reader)) as outcome:
                child.kill()
                died = time.monotonic()
                assert outcome.get() == ([], BrokenResourceError)
                told.append(time.monotonic() - died)
        with (
            BroadcastWriter.create(capacity=CAPACITY) as writer,
            Child(ATTACH, writer.name) as child,
        ):
            child.hear()
            fill(writer)
            with waiting(lambda writer=writer: writer.send_sync(b"on", PATIENCE)) as outcome:
                child.kill()
                died = time.monotonic()
                outcome.get()
                freed.append(time.monotonic() - died)
    print(f"told of a dead writer within {max(told):.3f} s, of a dead reader {max(freed):.3f} s")
    assert max(told) < SOON
    assert max(freed) < SOON


@pytest.mark.skipif(not COMPILED, reason="the stand-in has Python ask")
@pytest.mark.parametrize("how", ["blocking", "spinning", "in the waiter thread"])
def test_the_core_asks_by_itself(monkeypatch, how):
    """No Python runs until somebody has died."""
    monkeypatch.setattr(_member, "GUARDED_NS", 3600 * 10**9)
    policy = {
        "blocking": WaitPolicy(mode="park"),
        "spinning": WaitPolicy(max_spin=3600, predict=False),
        "in the waiter thread": WaitPolicy(mode="thread"),
    }[how]
    asleep = how == "in the waiter thread"
    with (
        Child(WRITER.format(how="", step="")) as child,
        BroadcastReader.attach(child.hear(), policy=policy) as reader,
    ):
        child.tell()
        child.expect("there")
        reader.receive_many_sync()
        body = partial(anyio.run, drain_async) if asleep else drain
        with waiting(lambda: body(reader)) as outcome:
            child.kill()
            assert outcome.get() == ([], BrokenResourceError)
    with (
        BroadcastWriter.create(capacity=CAPACITY, policy=policy) as writer,
        BroadcastReader.attach(writer.handle) as witness,
        Child(ATTACH, writer.name) as child,
    ):
        child.hear()
        count = fill(writer)
        assert len(witness.receive_many_nowait()) == count
        send = partial(anyio.run, writer.send) if asleep else writer.send_sync
        with waiting(lambda: send(b"on")) as outcome:
            child.kill()
            outcome.get()
        assert witness.receive_nowait() == b"on"


# ---- stopped, not dead ----


def test_a_stopped_reader_is_named_once(caplog, monkeypatch):
    """The writer waits for it, says for whom, and goes on when it does."""
    monkeypatch.setattr(_writer, "PATIENCE_NS", 1_000_000)
    code = ATTACH.replace("told()", "tell(len(list(reader.iter_sync())))")
    with (
        BroadcastWriter.create(capacity=CAPACITY) as writer,
        BroadcastReader.attach(writer.handle) as witness,
        Child(code, writer.name) as child,
    ):
        assert child.hear() == "1"
        child.stop()
        count = fill(writer)
        assert len(witness.receive_many_nowait()) == count
        with waiting(lambda: writer.send_sync(b"on", PATIENCE)) as outcome:
            until(lambda: caplog.messages)
            asked = time.monotonic() + 3 * _member.LIVENESS_NS / 1e9
            until(lambda: time.monotonic() > asked)  # three more looks after the peer
            [said] = caplog.messages
            assert f"the reader in slot 1, with pid {child.pid}, is {CAPACITY} bytes behind" in said
            assert outcome.thread.is_alive()
            child.signal(signal.SIGCONT)
            outcome.get()
        assert witness.receive_sync(PATIENCE) == b"on"
        writer.close()
        assert child.hear() == str(count + 1)
        child.finish()


def test_a_stopped_writer_is_not_dead():
    """Its readers wait for it, its name stays its own, and it goes on."""
    code = "writer = BroadcastWriter.create(); tell(writer.name); told(); writer.send_sync(b'on'); told()"
    with Child(code) as child:
        name = child.hear()
        with BroadcastReader.attach(name) as reader:
            child.stop()
            with pytest.raises(TimeoutError):
                reader.receive_sync(0.25)  # it was asked after more than once
            with pytest.raises(FileExistsError):
                BroadcastWriter.create(name)
            assert list(_garbage.sweep(SHM, {name})) == []
            with BroadcastReader.attach(name):  # it can still be joined
                pass
            child.signal(signal.SIGCONT)
            child.tell()
            assert reader.receive_sync(PATIENCE) == b"on"
            with pytest.raises(FileExistsError):
                BroadcastWriter.create(name)
            child.tell()
            with pytest.raises(EndOfStream):
                reader.receive_sync(PATIENCE)
        child.finish()


# ---- the next writer ----


def test_a_new_writer_takes_over_from_a_dead_one(monkeypatch):
    """While readers of the dead one still read; each gets what its own writer published."""
    with Child(WRITER.format(how="", step="")) as child:
        name = child.hear()
        with BroadcastReader.attach(name) as old:
            child.tell()
            child.expect("there")
            child.kill()
            for number in range(3):
                with BroadcastWriter.create(name) as writer, BroadcastReader.attach(name) as new:
                    writer.send_nowait(bytes([number]))
                    assert new.receive_nowait() == bytes([number])
            assert drain(old) == ([b"\0", b"\1", b"\2"], BrokenResourceError)
    tidy(monkeypatch, name)


def test_of_many_that_take_over_one_gets_the_name(monkeypatch):
    """And the name is never without its segment from then on."""
    code = """
name = sys.argv[1]
tell("ready"); told()
try:
    writer = BroadcastWriter.create(name)
except FileExistsError:
    tell("taken"); told()
else:
    BroadcastReader.attach(name).close()
    tell("mine"); told()
"""
    with Child(WRITER.format(how="", step="")) as dead:
        name = dead.hear()
        dead.kill()
        children = [Child(code, name) for _ in range(4)]
        with children[0], children[1], children[2], children[3]:
            for child in children:
                child.expect("ready")
            for child in children:
                child.tell()
            assert sorted(child.hear() for child in children) == ["mine", "taken", "taken", "taken"]
            with BroadcastReader.attach(name):
                pass
            for child in children:
                child.tell()
                child.finish()
    tidy(monkeypatch, name)


# ---- an exception out of a signal handler ----


class AlarmError(Exception):
    """What the handler raises."""


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("operation", ["receive", "in place", "batch", "send", "claim"])
def test_a_signal_handler_raises_into_a_wait(operation, how):
    """The wait ends with what it raised; nothing is lost, and the next operation finds all as it was."""
    policy = {
        "spinning": WaitPolicy(max_spin=3600, predict=False),
        "spinning in the waiter thread": WaitPolicy("thread", max_spin=3600, predict=False),
        "parked": WaitPolicy("park"),
    }[how]

    def ring(*_: object) -> None:
        raise AlarmError

    def strike() -> None:
        until(lambda: waits(member))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    with (
        BroadcastWriter.create(capacity=CAPACITY, policy=policy) as writer,
        BroadcastReader.attach(writer.handle, policy=policy) as reader,
    ):
        calls = {
            "receive": reader.receive_sync,
            "in place": lambda: reader.acquire_read().__enter__(),
            "batch": reader.receive_many_sync,
            "send": lambda: writer.send_sync(b"later"),
            "claim": lambda: writer.acquire_write(5).__enter__(),
        }
        count = fill(writer) if operation in ("send", "claim") else 0
        before = signal.signal(signal.SIGUSR1, ring)
        try:
            member = writer if count else reader
            for _ in range(3):
                with running(strike), pytest.raises(AlarmError):
                    calls[operation]()
        finally:
            signal.signal(signal.SIGUSR1, before)
        if count:
            assert len(reader.receive_many_nowait()) == count
        exchange(writer, reader)
