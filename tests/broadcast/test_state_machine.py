"""Random programs against a plain list: whatever is sent, received, attached, abandoned, cancelled, killed and closed,
in whatever order, each reader gets what was published after it attached, in order, or hears just how much it lost."""

from __future__ import annotations

import os
import signal
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    precondition,
    rule,
)
from support import COMPILED, until

import aiospin
from aiospin import BroadcastReader, BroadcastWriter, EndOfStream, LaggedError, WouldBlock

CAPACITY = 4096
MAX_READERS = 4

# small ones, those about half the capacity, where the ring ends and files begin, and large ones
sizes = st.one_of(
    st.integers(0, 200),
    st.integers(CAPACITY // 2 - 70, CAPACITY // 2 + 70),
    st.integers(CAPACITY, 3 * CAPACITY),
)


async def cancelled(call: Any, passes: int) -> Any:
    """What a call came to that is cancelled after so many passes of the loop; None: to nothing."""
    outcome = None

    async def run() -> None:
        nonlocal outcome
        try:
            outcome = await call()
        except (EndOfStream, LaggedError) as end:
            outcome = end

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        for _ in range(passes):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return outcome


class Machine(RuleBasedStateMachine):
    readers = Bundle("readers")

    @initialize(overflow=st.sampled_from(["block", "drop_oldest"]))
    def create(self, overflow: Any) -> None:
        self.writer = BroadcastWriter.create(
            capacity=CAPACITY, max_readers=MAX_READERS, overflow=overflow
        )
        self.lossy = overflow == "drop_oldest"
        self.published: list[bytes] = []
        self.next: dict[BroadcastReader, int] = {}  # the index of what each gets next
        self.closed = False
        # An abandoned write may have dropped messages, and nothing that could be counted came after it.
        self.dropped = False
        self.killed = False  # a reader was, and the writer may not have noticed yet

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            for reader in list(self.next):
                reader.close()
            self.writer.close()

    def message(self, size: int) -> bytes:
        number = len(self.published)
        return (number.to_bytes(4, "little") * (size // 4 + 1))[:size]

    # ---- the writer ----

    def may_be_full(self) -> bool:
        """In "block" mode a reader that has something to read may be in the way, or a dead one for a while; nobody
        else ever is."""
        behind = any(at < len(self.published) for at in self.next.values())
        return not self.lossy and (behind or self.killed)

    def publish(self, send: Any, messages: list[bytes]) -> None:
        try:
            sent = send()
        except WouldBlock:
            assert self.may_be_full()
        else:
            count = len(messages) if sent is None else sent
            self.published += messages[:count]
            self.dropped = self.dropped and not count
            assert count == len(messages) or self.may_be_full()

    @precondition(lambda self: not self.closed)
    @rule(size=sizes)
    def send(self, size: int) -> None:
        message = self.message(size)
        self.publish(lambda: self.writer.send_nowait(message), [message])

    @precondition(lambda self: not self.closed)
    @rule(several=st.lists(sizes, min_size=1, max_size=5))
    def send_many(self, several: list[int]) -> None:
        messages = [bytes([number]) * size for number, size in enumerate(several)]
        self.publish(lambda: self.writer.send_many_nowait(messages), messages)

    @precondition(lambda self: not self.closed)
    @rule(size=sizes, gives_up=st.booleans())
    def write_in_place(self, size: int, gives_up: bool) -> None:
        message = self.message(size)

        def write() -> int:
            try:
                with self.writer.acquire_write(size, timeout=0) as view:
                    view[:] = message
                    if gives_up:
                        raise KeyError
            except KeyError:
                return 0
            except TimeoutError:
                raise WouldBlock from None
            return 1

        if gives_up:
            before = self.writer.statistics().messages
            self.dropped = self.lossy
            try:
                assert write() == 0
            except WouldBlock:
                assert self.may_be_full()
            assert self.writer.statistics().messages == before
        else:
            self.publish(write, [message])

    @precondition(lambda self: not self.closed)
    @rule(size=sizes, passes=st.integers(0, 2))
    def cancel_a_send(self, size: int, passes: int) -> None:
        """It was sent, or nothing was."""
        message = self.message(size)
        before = self.writer.statistics().messages
        anyio.run(cancelled, lambda: self.writer.send(message), passes)
        count = self.writer.statistics().messages - before
        assert 0 <= count <= 1
        self.published += [message][:count]
        self.dropped = self.lossy and not count

    @rule()
    def close_the_writer(self) -> None:
        self.writer.close()
        self.closed = True

    # ---- the readers ----

    @precondition(lambda self: not self.closed and len(self.next) < MAX_READERS)
    @rule(target=readers)
    def attach(self) -> BroadcastReader:
        reader = BroadcastReader.attach(self.writer.handle)
        self.next[reader] = len(self.published)
        return reader

    @rule(reader=consumes(readers))
    def detach(self, reader: BroadcastReader) -> None:
        reader.close()
        del self.next[reader]

    def take(self, reader: BroadcastReader, receive: Any) -> None:
        at = self.next[reader]
        try:
            messages = receive()
        except WouldBlock:
            assert at == len(self.published) or self.dropped
            assert not self.closed
        except EndOfStream:
            assert at == len(self.published)
            assert self.closed
        except LaggedError as lag:
            self.lost(reader, lag.skipped)
        else:
            assert messages == self.published[at : at + len(messages)]
            self.next[reader] = at + len(messages)

    def lost(self, reader: BroadcastReader, skipped: int) -> None:
        at = self.next[reader]
        assert self.lossy
        assert 0 < skipped <= len(self.published) - at
        self.next[reader] = at + skipped

    @rule(reader=readers)
    def receive(self, reader: BroadcastReader) -> None:
        self.take(reader, lambda: [reader.receive_nowait()])

    @rule(reader=readers, most=st.integers(1, 10))
    def receive_many(self, reader: BroadcastReader, most: int) -> None:
        self.take(reader, lambda: reader.receive_many_nowait(most))

    @rule(reader=readers, fails=st.booleans())
    def read_in_place(self, reader: BroadcastReader, fails: bool) -> None:
        def read() -> list[bytes]:
            got = []
            try:
                with reader.acquire_read(timeout=0) as view:
                    got.append(bytes(view))
                    if fails:
                        raise KeyError
            except KeyError:
                pass
            except TimeoutError:
                raise WouldBlock from None
            return got

        self.take(reader, read)

    @rule(reader=readers, passes=st.integers(0, 2))
    def cancel_a_receive(self, reader: BroadcastReader, passes: int) -> None:
        """It has got the next message, or that is still there."""
        outcome = anyio.run(cancelled, reader.receive, passes)

        def receive() -> list[bytes]:
            if isinstance(outcome, Exception):
                raise outcome
            return [outcome]

        if outcome is not None:
            self.take(reader, receive)

    @precondition(lambda self: not self.closed and len(self.next) < MAX_READERS)
    @rule()
    def kill_a_reader(self) -> None:
        """In another process, right after it attached: it never reads anything, and leaves its slot as it is."""
        handle = self.writer.handle
        pid = os.fork()
        if pid == 0:
            try:
                reader = BroadcastReader.attach(handle)
                assert not reader.closed
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        self.killed = True

    @rule(reader=readers)
    def look(self, reader: BroadcastReader) -> None:
        assert reader.lag == len(self.published) - self.next[reader]


@pytest.mark.slow
def test_random_programs() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Machine,
        settings=settings(
            max_examples=100 if COMPILED else 25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,  # the same programs in every run; more of them by hand
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # What looks after large messages, in the waiter thread, finds out within LIVENESS_NS that none is left.
    until(lambda: not aiospin.statistics().pinned_buffers)
