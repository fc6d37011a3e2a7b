"""A writer that waits for room in an event loop: the loop hears of a reader that dies, and nobody asks by the clock."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bell_support import Full, running
from broadcast_support import Child, fill, pair
from support import COMPILED, of_a_child
from support import settled as until

import aiospin
from aiospin import BroadcastWriter, _closes, _member
from aiospin._closes import Closes
from aiospin._core import core
from aiospin._target import Target

NEVER_NS = 3600 * 10**9

heard_of = pytest.mark.skipif(not COMPILED, reason="the stand-in asks by itself")

READER = """
with BroadcastReader.attach(sys.argv[1]):
    tell("attached")
    told()
"""


async def killed_in_the_way_of(writer: BroadcastWriter) -> None:
    """A reader that the writer waits for dies, and the writer goes on."""
    with Child(READER, writer.name) as reader:
        reader.expect("attached")
        fill(writer)
        async with running(lambda: writer.send(b"on")) as sent:
            await until(lambda: aiospin.statistics().live_tickets == 1)
            reader.kill()
            await sent.result()


class Questions:
    """How often a writer asks after its readers, and nobody does by the clock."""

    def __init__(self, patch: pytest.MonkeyPatch, writer: BroadcastWriter) -> None:
        self.count = 0
        self.deaf_to = 0
        """So many of them are too early."""
        check = writer._check_peer

        def asked() -> None:
            self.count += 1
            if self.count > self.deaf_to:
                check()

        patch.setattr(writer, "_check_peer", asked)
        patch.setattr(_member, "GUARDED_NS", NEVER_NS)


@heard_of
@pytest.mark.parametrize("mode", ["adaptive", "thread", "park"])
def test_a_death_is_heard_of(run: Any, monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    async def main() -> None:
        policy = aiospin.WaitPolicy(mode=mode)
        async with BroadcastWriter.create(capacity=4096, policy=policy) as writer:
            for _ in range(2):  # in the second round it is followed already
                questions = Questions(monkeypatch, writer)
                await killed_in_the_way_of(writer)
                assert questions.count > 0
                monkeypatch.undo()

    run(main)


@heard_of
def test_the_lock_goes_after_the_close(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks at once may be too early, so it is asked again."""

    async def main() -> None:
        async with BroadcastWriter.create(capacity=4096) as writer:
            with Child(READER, writer.name) as reader:
                reader.expect("attached")
                fill(writer)
                questions = Questions(monkeypatch, writer)
                monkeypatch.setattr(_closes, "PAUSES", (1e-3, 5e-3))
                async with running(lambda: writer.send(b"on")) as sent:
                    await until(lambda: questions.count == 3)  # the loop has begun to listen
                    questions.count, questions.deaf_to = 0, 2
                    reader.kill()
                    await sent.result()
                assert questions.count >= 3

    run(main)


@heard_of
def test_one_that_died_before(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the loop begins to listen, or while nobody waits: then nobody asks until somebody does, as another thread
    may be sending."""

    async def main() -> None:
        async with BroadcastWriter.create(capacity=4096) as writer:
            questions = Questions(monkeypatch, writer)
            monkeypatch.setattr(_closes, "PAUSES", ())
            for turn in range(2):
                with Child(READER, writer.name) as reader:
                    reader.expect("attached")
                    fill(writer)
                    before = questions.count
                    reader.kill()
                if turn:
                    await until(lambda: writer._target.unasked)
                    assert questions.count == before
                await writer.send(b"on")
                assert writer._target._ticket is None, "which would keep the loop alive"

    run(main)


@heard_of
def test_nobody_asks_by_the_clock(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the waiter thread either, which is woken once a second and no more."""

    async def main() -> None:
        writer, [reader] = pair()
        async with writer, reader:
            fill(writer)
            questions = Questions(monkeypatch, writer)
            monkeypatch.setattr(_closes, "PAUSES", (1e-3,))
            async with running(lambda: writer.send(b"on")) as sent:
                await until(lambda: questions.count == 2)
                parks = aiospin.statistics().parks
                with pytest.raises(TimeoutError):
                    await aiospin.wait_for_flag(
                        bytearray(8), aiospin.ne(0, dtype="u8"), 0.5, notified=True
                    )
                # The beginning and the end of that one wake the thread.
                assert aiospin.statistics().parks - parks <= 3
                assert questions.count == 2
                reader.receive_many_nowait()
                await sent.result()

    run(main)


@heard_of
@pytest.mark.parametrize("why", ["none left", "no more files", "never tells"])
def test_where_nothing_is_told_somebody_asks(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, why: str
) -> None:
    watch = core.closes_watch

    def refuse(*_: object) -> Any:
        raise OSError(errno.EMFILE, "no more of them")

    async def main() -> None:
        monkeypatch.setattr(_member, "GUARDED_NS", NEVER_NS)
        if why == "none left":
            monkeypatch.setattr(core, "closes_open", refuse)
        elif why == "no more files":
            monkeypatch.setattr(core, "closes_watch", refuse)
        elif why == "never tells":
            monkeypatch.setattr(
                core, "closes_watch", lambda closes, _: watch(closes, other.fileno())
            )
        async with BroadcastWriter.create(capacity=4096) as writer:
            for _ in range(2):
                await killed_in_the_way_of(writer)

    with (tmp_path / "other").open("wb") as other:
        run(main)


async def twice_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice; the second time nobody in Python asks by the clock."""
    async with BroadcastWriter.create(capacity=4096) as writer:
        for turn in range(2):
            if turn:
                monkeypatch.setattr(_member, "GUARDED_NS", NEVER_NS)
            await killed_in_the_way_of(writer)


@heard_of
def test_a_loop_that_cannot_poll_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Full("_hear")
    try:
        loop.run_until_complete(twice_killed(monkeypatch))
    finally:
        loop.close()
    assert loop.refused == 1, "it is not tried again"


@heard_of
def test_trio_cannot_poll_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And finds that out when a wait relies on it already, which asks once a second besides."""
    trio = pytest.importorskip("trio")
    polled = 0

    async def refuse(_: object) -> None:
        nonlocal polled
        polled += 1
        raise OSError(errno.ENOSPC, "no room for another descriptor")

    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse)
    trio.run(twice_killed, monkeypatch)
    assert polled == 1


@heard_of
def test_a_run_of_trio_that_is_ending() -> None:
    """It takes no more system tasks when it finalises asynchronous generators."""
    trio = pytest.importorskip("trio")
    done, kept = [], []

    async def sends(writer: BroadcastWriter) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            with trio.CancelScope(shield=True), pytest.raises(TimeoutError):
                await writer.send(b"on", 0.01)
            done.append(True)

    async def main(writer: BroadcastWriter) -> None:
        kept.append(sends(writer))  # until the run ends
        await kept[0].__anext__()

    writer, [reader] = pair()
    with writer, reader:
        fill(writer)
        trio.run(main, writer)
    assert done


def inotifies() -> int:
    """Descriptors of this process that are some."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found += "inotify" in os.readlink(f"/proc/self/fd/{descriptor}")
    return found


@heard_of
def test_a_loop_needs_one_and_leaves_none(run: Any) -> None:
    async def main() -> None:
        for _ in range(2):
            writer, [reader] = pair()
            async with writer, reader:
                fill(writer)
                async with running(lambda writer=writer: writer.send(b"on")) as sent:
                    await until(lambda: aiospin.statistics().live_tickets == 1)
                    assert inotifies() == before + 1
                    reader.receive_many_nowait()
                    await sent.result()

    before = inotifies()
    run(main)
    assert inotifies() == before


# ---- one set of closes ----


class Listener(Target):
    """A target that counts."""

    __slots__ = ("__weakref__", "asked", "path")

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.asked = 0

    def ask_after_peers(self) -> None:
        self.asked += 1

    def close_once(self) -> None:
        self.path.open("rb").close()


def follow(closes: Closes, listener: Listener) -> bool:
    with listener.path.open("rb") as file:
        return closes.follow(listener, file.fileno())


@heard_of
def test_each_hears_of_its_own_file(tmp_path: Path) -> None:
    closes = Closes()
    one, two = (Listener(tmp_path / name) for name in ("one", "two"))
    assert one not in closes
    for listener in (one, two):
        assert follow(closes, listener)
        assert listener in closes
    assert closes.hear() == {one, two}, "what closed before it was followed is not told"
    assert closes.hear() == set()
    one.close_once()
    assert closes.hear() == {one}
    third = Listener(tmp_path / "one")
    two.close_once()
    assert follow(closes, third), "the same file"
    assert closes.hear() == {one, two, third}, "what came meanwhile is kept"
    del one
    third.close_once()
    assert closes.hear() == {third}, "nobody is kept alive by it"
    third.path.unlink()
    closes.hear()
    assert [set(targets) for targets in closes._targets.values()] == [{two}], "the file is gone"


@heard_of
def test_where_it_is_closed_the_core_asks_again() -> None:
    """In the middle of a wait, too, when that is submitted again."""

    class Table:
        told: ClassVar[list[bool]] = []

        def _submit(self, *_: object, counted: bool, told: bool) -> None:
            assert counted
            self.told.append(told)

    table: Any = Table()
    ticket: Any = object()
    closes = Closes()
    writer, [reader] = pair()
    with writer, reader:
        fill(writer)
        target = writer._target
        assert target.follow_peers(closes)
        target.submit(table, ticket, core.FOREVER, 0, aiospin.WaitPolicy(), closes=closes)
        assert target.complete(table, ticket, core.TIMED_OUT) is None
        closes.close()
        assert target.complete(table, ticket, core.TIMED_OUT) is None
        assert table.told == [True, True, False]


def test_a_question_raises_nothing(tmp_path: Path) -> None:
    """A loop's callback asks, and that of trio would take the program down."""

    class Raises(Listener):
        __slots__ = ("error",)

        def ask_after_peers(self) -> None:
            super().ask_after_peers()
            raise self.error

    asked = []
    for error in (aiospin.BusyResourceError("sending"), OSError(), TypeError()):
        target = Raises(tmp_path / "file")
        target.error = error
        asked.append(target)
    _closes.ask(asked)
    assert [target.asked for target in asked] == [1] * 3


@heard_of
def test_many_closes_ask_no_more_often_than_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_closes, "PAUSES", (1.0, 2.0))
    closes = Closes()
    one, two = (Listener(tmp_path / name) for name in ("one", "two"))
    first, second, third = (closes.questions({target}) for target in (one, two, two))
    assert next(first) == next(second) == next(third) == 1.0
    assert (one.asked, two.asked) == (1, 2)
    assert next(first, None) is next(second, None) is None, "the last round goes on for them"
    assert next(third) == 2.0
    assert (one.asked, two.asked) == (2, 3)
    assert next(third, None) is None
    assert (one.asked, two.asked) == (3, 4)
    assert next(closes.questions({two})) == 1.0
    assert (one.asked, two.asked) == (3, 5), "that was over"


@heard_of
def test_closes_without_end_keep_nobody_from_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them begins a round, before the first pause of the one before is over."""

    class Clock:
        ms = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def now_ns(self) -> int:
            return self.ms * 1_000_000

    clock = Clock()
    monkeypatch.setattr(_closes, "core", clock)
    closes = Closes()
    one, two = (Listener(tmp_path / name) for name in ("one", "two"))
    next(closes.questions({one}))
    asked = []
    for clock.ms in range(300):
        next(closes.questions({two}))
        asked.append(one.asked)
    assert [asked.index(count) for count in (2, 3, 4)] == [91, 182, 273]


@heard_of
def test_more_is_told_than_the_kernel_keeps(tmp_path: Path) -> None:
    closes = Closes()
    one, two, late = (Listener(tmp_path / name) for name in ("one", "two", "late"))
    for listener in (one, two, late):
        assert follow(closes, listener)
    closes.hear()
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
        one.close_once()  # in turn, as the kernel keeps one of several equal ones in a row
        two.close_once()
    late.close_once()
    heard = set()
    while more := closes.hear():
        heard |= more
    assert heard == {one, two, late}


@heard_of
def test_the_child_of_a_fork_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    closes = Closes()
    listener = Listener(tmp_path / "file")
    assert follow(closes, listener)
    closes.hear()
    listener.close_once()
    assert of_a_child(
        lambda: closes.fd == -1 and not closes.hear() and not follow(closes, listener)
    )
    assert closes.hear() == {listener}


def test_without_it_says_so() -> None:
    """The core that has none."""
    if COMPILED:
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)), open(__file__) as file:
            core.closes_watch(file.fileno(), file.fileno())
        return
    with pytest.raises(OSError, match="compiled core"):
        core.closes_open()
    with pytest.raises(OSError, match="compiled core"):
        core.closes_watch(0, 0)
