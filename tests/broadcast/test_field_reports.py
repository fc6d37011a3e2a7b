"""What went wrong for others in the field, one test each. The number in a test's name is that of the report.

Some have their test where the subject is:

- vLLM 50398 and 50548, two consumers of one reader: also test_in_place.py, test_second_consumer_in_another_task and
  test_two_consumers_in_threads_never_hang
- vLLM 29813, more spinners than cores: also test_stress.py, test_more_spinning_processes_than_cores
- TensorRT-LLM 12189, a receive that is given up: also test_messages.py, test_cancelled_receive_loses_nothing and
  test_timed_out_receive_loses_nothing
- 27858, weak memory models: tests/native/test_ring_litmus.c, which also runs on emulated machines
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest
from broadcast_support import (
    Child,
    fill,
    make_message,
    number_of,
    numbered,
    pair,
    scaled,
    until_waits,
    waits,
)
from support import COMPILED, PATIENCE, running, until

import aiospin
from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    BusyResourceError,
    EndOfStream,
    WaitPolicy,
    _member,
)

if TYPE_CHECKING:
    from typing_extensions import Self

PARK = WaitPolicy(mode="park", predict=False)
SPIN = WaitPolicy(max_spin=3600, predict=False)


class Mute:
    """Publishes into a broadcast without waking anybody: the stores of a message, and no notification.

    They come from a twin of the broadcast, with the same geometry and the same messages before.
    """

    def __init__(self, writer: BroadcastWriter) -> None:
        self._writer = writer
        self._twin = BroadcastWriter.create(capacity=writer.capacity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._twin.close()

    def send_aloud(self, message: bytes) -> None:
        """As the writer sends it."""
        self._twin.send_nowait(message)
        self._writer.send_nowait(message)

    def send(self, message: bytes) -> None:
        self._twin.send_nowait(message)
        theirs, ours = self._twin._segment.memory, self._writer._segment.memory
        with memoryview(theirs) as view, view.cast("Q") as words:
            line, data = words[5], words[7]  # the writer's line, the records (docs/layout.md)
            head, sequence = words[line // 8], words[line // 8 + 2]
        ours[data:] = theirs[data:]
        with memoryview(ours) as view, view.cast("Q") as words:
            words[line // 8 + 2] = sequence
            words[line // 8] = head


def test_vllm_45224_a_lost_notification(run):
    """A reader that sleeps although a message is there wakes up by itself."""

    async def main():
        writer, _ = pair(readers=0)
        with (
            writer,
            BroadcastReader.attach(writer.handle, policy=PARK) as reader,
            Mute(writer) as mute,
        ):

            async def send(message):
                await until_waits(reader)
                mute.send(message)

            for number in range(2):
                async with anyio.create_task_group() as group:
                    group.start_soon(send, bytes([number]))
                    with anyio.fail_after(PATIENCE / 2):
                        assert await reader.receive() == bytes([number])

    run(main)


@pytest.mark.skipif(not COMPILED, reason="the writer of the stand-in refuses doorbells")
def test_vllm_45224_a_lost_ring(run):
    """The same for one that has heard messages, and sleeps on the doorbell agreed on with the writer."""

    async def main():
        writer, _ = pair(readers=0)
        with (
            writer,
            BroadcastReader.attach(writer.handle, policy=PARK) as reader,
            Mute(writer) as mute,
        ):
            memory = writer._segment.memory  # docs/layout.md
            line = int.from_bytes(memory[48:56], "little")  # of slot 0

            async def until_asleep():
                await anyio.sleep(0.001)
                while reader.lag or not (memory[line + 24] == 3 or memory[line + 28]):  # noqa: ASYNC110
                    await anyio.sleep(0.001)

            async def send():
                while memory[line + 24] != 3:  # parked on the bell, and not on the word
                    mute.send_aloud(b"aloud")
                    await until_asleep()
                for _ in range(3):  # an earlier ring may still end one sleep more
                    await until_asleep()
                    mute.send(b"silent")

            async with anyio.create_task_group() as group:
                group.start_soon(send)
                silent = 0
                with anyio.fail_after(PATIENCE / 2):
                    while silent < 3:
                        silent += await reader.receive() == b"silent"

    run(main)


def test_vllm_45224_a_lost_notification_of_a_blocking_reader():
    writer, _ = pair(readers=0)
    with (
        writer,
        BroadcastReader.attach(writer.handle, policy=PARK) as reader,
        Mute(writer) as mute,
    ):
        for number in range(3):
            parks = aiospin.statistics().parks
            with running(lambda: reader.receive_sync(PATIENCE)) as outcome:
                until(lambda parks=parks: aiospin.statistics().parks > parks)
                mute.send(bytes([number]))
            assert outcome.value == bytes([number])


def test_vllm_45224_an_exception_inside_acquire_read(run):
    """It frees the slot: the writer goes round the ring, and the next message is the next one."""

    async def main():
        writer, [reader] = pair()
        async with writer, reader:

            async def raise_inside(number):
                async with reader.acquire_read() as view:
                    assert int.from_bytes(view, "little") == number
                    raise InterruptedError

            def raise_inside_sync(number):
                with reader.acquire_read() as view:
                    assert int.from_bytes(view, "little") == number
                    raise InterruptedError

            for number in range(200):  # three times as many as there is room for
                await writer.send(number.to_bytes(4, "little"), timeout=PATIENCE)
                if number % 2:
                    with pytest.raises(InterruptedError):
                        await raise_inside(number)
                else:
                    with pytest.raises(InterruptedError):
                        raise_inside_sync(number)

    run(main)


@pytest.mark.parametrize("policy", [PARK, SPIN], ids=["parked", "spinning"])
@pytest.mark.parametrize("form", ["receive_sync", "receive_many_sync", "acquire_read", "loop"])
def test_vllm_50398_and_50548_two_consumers_of_one_reader(run, form, policy):
    """While one waits in a thread, every call of another says so at once; the first gets the message."""

    def consume():
        if form == "acquire_read":
            with reader.acquire_read() as view:
                return bytes(view)
        if form == "loop":
            return anyio.run(reader.receive)
        message = getattr(reader, form)()
        return message if isinstance(message, bytes) else message[0]

    async def main():
        for call in (reader.receive, reader.receive_many, reader.__anext__):
            with pytest.raises(BusyResourceError):
                await call()
        with pytest.raises(BusyResourceError):
            async with reader.acquire_read():
                pass
        for call in (reader.receive_sync, reader.receive_many_sync, reader.receive_nowait):
            with pytest.raises(BusyResourceError):
                call()
        with pytest.raises(BusyResourceError), reader.acquire_read():
            pass

    writer, _ = pair(readers=0)
    with writer, BroadcastReader.attach(writer.handle, policy=policy) as reader:
        for _ in range(2):
            with running(consume) as outcome:
                until(lambda: waits(reader))
                run(main)
                writer.send_nowait(b"for the first")
            assert outcome.value == b"for the first"


@pytest.fixture
def looks(monkeypatch):
    """How often a waiting reader has looked after its writer: not each tenth of a second but each microsecond."""
    count = [0]
    keep_waiting = BroadcastReader._keep_waiting

    def look(reader):
        count[0] += 1
        keep_waiting(reader)

    monkeypatch.setattr(BroadcastReader, "_keep_waiting", look)
    monkeypatch.setattr(_member, "GUARDED_NS", 1000)
    monkeypatch.setattr(_member._MemberTarget, "recheck_ns", 1000)
    return count


TEN_MINUTES = scaled(6000, 600)  # looks


def test_vllm_51921_idle_for_ten_minutes(run, looks):
    """It sleeps through as many looks as ten minutes have, and the next message is received."""

    async def main():
        writer, [reader] = pair()

        async def send_later():
            while looks[0] < TEN_MINUTES:  # noqa: ASYNC110 - counters tell nobody
                await anyio.sleep(0.001)
            writer.send_nowait(b"after a while")

        async with writer, reader, anyio.create_task_group() as group:
            group.start_soon(send_later)
            assert await reader.receive() == b"after a while"

    run(main)


def test_vllm_51921_blocked_for_ten_minutes(looks):
    writer, [reader] = pair()
    with writer, reader, running(reader.receive_sync) as outcome:
        until(lambda: looks[0] >= TEN_MINUTES)
        writer.send_nowait(b"after a while")
        assert outcome.get() == b"after a while"


@pytest.mark.parametrize("line", [128, 256], ids=["readable", "writable"])
def test_vllm_51921_the_wakes_are_more_than_can_be_counted(line):
    """The counter in a park word wraps around under those that sleep on it."""
    writer, _ = pair(readers=0)
    with (
        writer,
        BroadcastReader.attach(writer.handle, policy=PARK) as reader,
    ):
        writer._policy = PARK
        memory = writer._segment.memory
        with memoryview(memory) as view, view.cast("I") as words:
            at = (int.from_bytes(memory[40:48], "little") + line) // 4  # writer_offset, park lines
            words[at] = (1 << 32) - 16  # some wakes before the end, nobody asleep
            for _ in range(10):
                parks = aiospin.statistics().parks
                if line == 128:
                    with running(lambda: reader.receive_sync(PATIENCE)) as outcome:
                        until(lambda parks=parks: aiospin.statistics().parks > parks)
                        writer.send_nowait(b"wake up")
                    assert outcome.value == b"wake up"
                else:
                    fill(writer)
                    with running(lambda: writer.send_sync(b"room", PATIENCE)):
                        until(lambda parks=parks: aiospin.statistics().parks > parks)
                        reader.receive_many_nowait()
                    while reader.lag:
                        reader.receive_many_nowait()
            assert words[at] < 1 << 16


def test_tensorrt_llm_12189_receives_that_are_given_up(run):
    """By a timeout or a cancel, at whatever moment: every message comes, once."""
    count = scaled(2000, 300)

    async def main():
        writer, [reader] = pair()
        choose = random.Random(12189)

        def write():
            with writer:
                for number in range(count):
                    writer.send_sync(make_message(number, choose.randrange(100)))

        received = []
        async with reader:
            with running(write):
                while True:
                    way = choose.randrange(4)
                    patience = choose.random() ** 3 * 1e-3
                    try:
                        if way == 0:
                            with anyio.move_on_after(patience):
                                received.append(number_of(await reader.receive()))
                        elif way == 1:
                            received.append(number_of(await reader.receive(patience)))
                        elif way == 2:
                            received += map(number_of, await reader.receive_many(timeout=patience))
                        else:
                            async with reader.acquire_read(patience) as view:
                                received.append(number_of(view))
                    except TimeoutError:
                        pass
                    except EndOfStream:
                        break
        assert received == list(range(count))

    run(main)


VERIFY = """
from broadcast_support import number_of
received = []
with BroadcastReader.attach(sys.argv[1]) as reader:
    tell("ready")
    try:
        while True:
            if len(received) % 3:
                received.append(number_of(reader.receive_sync()))
            else:
                with reader.acquire_read() as view:
                    received.append(number_of(view))
    except aiospin.EndOfStream:
        tell(received == list(range(int(sys.argv[2]))))
"""


def test_27858_what_is_seen_to_be_there_is_there_whole():
    """Two processes look at each message as soon as they can, in place; none is torn, early or late."""
    count = scaled(20_000, 2_000)
    choose = random.Random(27858)
    bodies = [choose.randbytes(choose.randrange(300)) for _ in range(256)]
    writer, _ = pair(4096, readers=0)
    with Child(VERIFY, writer.name, count) as one, Child(VERIFY, writer.name, count) as other:
        with writer:
            one.expect("ready")
            other.expect("ready")
            for number in range(count):
                writer.send_sync(numbered(number, bodies[number % 256]))
        one.expect("True")
        other.expect("True")
        one.finish()
        other.finish()
