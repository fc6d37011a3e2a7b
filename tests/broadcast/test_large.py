"""Messages that do not fit into the ring: unseen by the caller, and gone when nobody will read them any more."""

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import struct
import threading
from pathlib import Path
from pickle import PickleBuffer

import anyio
import pytest
from broadcast_support import SHM, Child, make_message, number_of, pair, waits
from support import COMPILED, PATIENCE, running, settled, until

import aiospin
from aiospin import (
    BroadcastReader,
    BroadcastWriter,
    BusyResourceError,
    ClosedResourceError,
    LaggedError,
    LayoutError,
    WouldBlock,
)
from aiospin._large import IncomingFiles
from aiospin._waiter import close_default_waiter

CAPACITY = 8192  # bytes; a message of more than half of it is large
LARGE = 5000
WINDOW = 4 * CAPACITY

MODES = pytest.mark.parametrize("overflow", ["block", "drop_oldest"])


def files(end, kind="message-"):
    """Names of the files beside a segment, without what they have in common."""
    prefix = f"{SHM}{end.name}+"
    folder = Path(SHM).parent
    found = (path for path in folder.iterdir() if str(path).startswith(prefix))
    kinds = sorted(str(path)[len(prefix) + 17 :] for path in found)
    return [found for found in kinds if found.startswith(kind)]


def message_file(end, number=0):
    [path] = Path(SHM).parent.glob(f"aiospin-{end.name}+*.message-{number}")
    return path


def random_bytes(size, seed=0):
    return random.Random(seed).randbytes(size)


# ---- every road ----


@MODES
def test_any_size_by_any_road(run, overflow):
    async def main():
        writer, [reader] = pair(CAPACITY, overflow=overflow)
        async with writer, reader:
            for size in (4096, 4097, LARGE, CAPACITY, CAPACITY + 1, 100_000, 3_000_000):
                message = random_bytes(size)
                assert await roads(writer, reader, message) == [message] * 12, size
            assert files(writer) == []

    async def roads(writer, reader, message):
        got = []
        for send in (writer.send, sync(writer.send_sync), sync(writer.send_nowait), in_place):
            for receive in (reader.receive, sync(reader.receive_nowait), view):
                await (send(writer, message) if send is in_place else send(message))
                got.append(await (receive(reader) if receive is view else receive()))
        return got

    def sync(function):
        async def call(*args):
            return function(*args)

        return call

    async def in_place(writer, message):
        async with writer.acquire_write(len(message)) as slot:
            assert not slot.readonly
            assert len(slot) == len(message)
            slot[:] = message

    async def view(reader):
        async with reader.acquire_read() as view:
            assert view.readonly
            return bytes(view)

    run(main)


@MODES
def test_in_order_among_small_ones(overflow):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        sent = []
        for number in range(60):
            message = make_message(number, 6000 if number % 7 == 3 else number)
            writer.send_nowait(message)
            sent.append(message)
            if number % 5 == 4:
                assert reader.receive_many_nowait(100) == sent
                sent.clear()


def test_other_buffers():
    numpy = pytest.importorskip("numpy")
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        array = numpy.arange(LARGE, dtype=">u4").reshape(50, 100)
        writer.send_nowait(array)
        assert reader.receive_nowait() == array.tobytes()
        with pytest.raises(BufferError, match="contiguous"):
            writer.send_nowait(array[:, ::2])
        with pytest.raises(TypeError, match=r"bytes-like|buffer protocol"):
            writer.send_nowait("x" * LARGE)
        assert files(writer) == []


def test_the_file_is_as_the_layout_says():
    writer, [reader] = pair(CAPACITY, mode=0o640)
    with writer, reader:
        writer.send_nowait(b"small")
        message = random_bytes(LARGE)
        writer.send_nowait(message)
        path, segment = message_file(writer, 1), Path(SHM + writer.name)
        header, content = path.read_bytes()[:32], path.read_bytes()[32:]
        identity = segment.read_bytes()[88:96]
        assert header == identity + struct.pack("=3Q", 1, LARGE, 0)
        assert content == message
        assert path.name == (
            f"aiospin-{writer.name}+{struct.unpack('=Q', identity)[0]:016x}.message-1"
        )
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.stat().st_blocks * 512 >= 32 + LARGE  # reserved
        assert reader.receive_many_nowait() == [b"small", message]
        assert not path.exists()


def test_in_place_means_in_the_file():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with writer.acquire_write(LARGE) as slot:
            slot[:5] = b"first"
            assert message_file(writer).read_bytes()[32:37] == b"first"
        with reader.acquire_read() as view:
            with message_file(writer).open("r+b") as file:
                file.seek(32)
                file.write(b"other")
            assert view[:5] == b"other"


# ---- when it goes ----


@MODES
def test_it_stays_until_the_last_reader_is_past_it(overflow):
    writer, readers = pair(CAPACITY, readers=3, overflow=overflow)
    with writer:
        message = random_bytes(LARGE)
        writer.send_nowait(message)
        for reader in readers:
            assert files(writer) == ["message-0"]
            assert reader.receive_nowait() == message
        assert files(writer) == []
        for reader in readers:
            reader.close()


def test_it_stays_while_a_reader_has_it_in_place():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        writer.send_nowait(bytes(LARGE))
        with reader.acquire_read():
            assert files(writer) == ["message-0"]
        assert files(writer) == []


@MODES
def test_without_readers_nothing_is_kept(overflow):
    with BroadcastWriter.create(capacity=CAPACITY, overflow=overflow) as writer:
        for _ in range(10):
            writer.send_nowait(bytes(3 * WINDOW))
            assert files(writer) == []


@MODES
def test_a_reader_that_leaves_lets_it_go(overflow):
    """Without a further call of the idle writer."""
    writer, [reader, other] = pair(CAPACITY, readers=2, overflow=overflow)
    with writer, other:
        writer.send_nowait(bytes(LARGE))
        writer.send_nowait(bytes(LARGE))
        other.receive_many_nowait()
        assert files(writer) == ["message-0", "message-1"]
        timed_out = aiospin.statistics().timed_out
        reader.close()
        until(lambda: not files(writer))
        until(lambda: not aiospin.statistics().live_tickets)  # nothing is looked after any more
        assert aiospin.statistics().timed_out == timed_out


def test_where_no_thread_can_be_started(monkeypatch):
    """The next large message and the close remove what nobody will read."""

    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    writer, [reader] = pair(CAPACITY)
    with writer:
        writer.send_nowait(bytes(LARGE))
        assert files(writer) == ["message-0"]
        reader.close()
        writer.send_nowait(bytes(LARGE))
        assert files(writer) == []


READER = """
reader = BroadcastReader.attach(sys.argv[1])
tell("attached")
told()
"""


@pytest.mark.parametrize("count", [1, 3])
def test_all_readers_die(count):
    """Killed before they have read it, while the writer does nothing."""
    with BroadcastWriter.create(capacity=CAPACITY) as writer:
        children = [Child(READER, writer.name) for _ in range(count)]
        try:
            for child in children:
                child.expect("attached")
            writer.send_nowait(bytes(LARGE))
            assert files(writer) == ["message-0"]
            for child in children:
                child.kill()
            until(lambda: not files(writer))
        finally:
            for child in children:
                child.__exit__()


def test_a_reader_that_dies_holds_nobody_up():
    """Killed with the window full: the writer that waits goes on, and so do the others."""
    writer, [reader] = pair(CAPACITY)
    with writer, reader, Child(READER, writer.name) as child:
        child.expect("attached")
        for number in range(4):
            writer.send_nowait(make_message(number, CAPACITY - 100))
        for number in range(4):
            assert number_of(reader.receive_nowait()) == number
        with pytest.raises(WouldBlock):
            writer.send_nowait(make_message(4, CAPACITY - 100))
        child.kill()
        writer.send_sync(make_message(4, CAPACITY - 100), timeout=10)
        assert number_of(reader.receive_nowait()) == 4
        assert files(writer) == []


def test_a_long_life_leaves_nothing(run):
    async def main():
        writer, readers = pair(CAPACITY, readers=2)
        sizes = [random.Random(number).choice((10, 3000, 4097, 20_000)) for number in range(200)]

        async def read(reader):
            for number in range(len(sizes)):
                assert number_of(await reader.receive()) == number

        async with writer, anyio.create_task_group() as tasks:
            for reader in readers:
                tasks.start_soon(read, reader)
            for number, size in enumerate(sizes):
                await writer.send(make_message(number, size))
                assert len(files(writer)) <= 1 + WINDOW // 4097
            await settled(lambda: not files(writer))
        for reader in readers:
            reader.close()

    run(main)


# ---- the window ----


def test_the_writer_waits_while_too_much_is_unread(run):
    async def main():
        writer, [reader] = pair(CAPACITY)
        async with writer, reader:
            for _ in range(4):
                writer.send_nowait(bytes(CAPACITY))
            for send in (
                lambda: writer.send_nowait(bytes(LARGE)),
                lambda: writer.acquire_write(LARGE, timeout=0).__enter__(),
            ):
                with pytest.raises((WouldBlock, TimeoutError)):
                    send()
            with pytest.raises(TimeoutError, match=f"pid {os.getpid()}"):
                await writer.send(bytes(LARGE), timeout=0.01)
            writer.send_nowait(b"there is room in the ring")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(writer.send, b"x" * LARGE)
                await settled(lambda: waits(writer))
                assert await reader.receive() == bytes(CAPACITY)
            assert len(files(writer)) == 4
            assert [len(await reader.receive()) for _ in range(5)] == [8192] * 3 + [25, LARGE]

    run(main)


def test_blocking_for_the_window():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for _ in range(4):
            writer.send_nowait(bytes(CAPACITY))
        with pytest.raises(TimeoutError, match=f"pid {os.getpid()}"):
            writer.send_sync(bytes(LARGE), timeout=0.01)
        with running(lambda: writer.send_sync(b"x" * LARGE)):
            until(lambda: waits(writer))
            reader.receive_sync()
        assert len(files(writer)) == 4


def test_one_alone_always_passes():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for _ in range(3):
            writer.send_nowait(b"a" * 3 * WINDOW)
            with pytest.raises(WouldBlock):
                writer.send_nowait(bytes(LARGE))
            assert len(reader.receive_nowait()) == 3 * WINDOW


def test_a_cancelled_send_leaves_nothing(run):
    async def main():
        writer, [reader] = pair(CAPACITY)
        async with writer, reader:
            writer.send_nowait(b"a" * WINDOW)
            with anyio.move_on_after(0.01):
                await writer.send(bytes(LARGE))
            assert files(writer) == ["message-0"]
            assert len(await reader.receive()) == WINDOW
            with pytest.raises(WouldBlock):
                reader.receive_nowait()
            await writer.send(b"next" * LARGE)
            assert await reader.receive() == b"next" * LARGE

    run(main)


def test_drop_oldest_drops_the_oldest():
    writer, [reader] = pair(CAPACITY, overflow="drop_oldest")
    with writer, reader:
        for number in range(20):
            writer.send_nowait(make_message(number, CAPACITY - 100))
            assert len(files(writer)) <= 4
        with pytest.raises(LaggedError) as lagged:
            reader.receive_nowait()
        assert lagged.value.skipped == 16
        assert [number_of(message) for message in reader.receive_many_nowait()] == [16, 17, 18, 19]
        assert files(writer) == []


def test_drop_oldest_drops_what_the_ring_overwrites():
    writer, [reader] = pair(CAPACITY, overflow="drop_oldest")
    with writer, reader:
        writer.send_nowait(bytes(LARGE))
        for _ in range(200):
            writer.send_nowait(b"x" * 64)
        until(lambda: not files(writer))  # by the idle writer
        with pytest.raises(LaggedError):
            reader.receive_nowait()


def test_a_reader_that_stands_still_costs_the_others_nothing():
    writer, [reader, still] = pair(4096, readers=2, overflow="drop_oldest")
    with writer, reader, still:
        for number in range(200):
            writer.send_nowait(make_message(number, 2100))
            assert number_of(reader.receive_nowait()) == number
            assert len(files(writer)) <= 8
        assert len(reader._large._passed) <= 64
        with pytest.raises(LaggedError):
            still.receive_nowait()
        assert number_of(still.receive_nowait()) > 190


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_goes_at_the_last_moment(in_place, monkeypatch):
    """Between the look at the record and the opening of the file the writer has dropped it."""
    writer, [reader] = pair(CAPACITY, overflow="drop_oldest")
    with writer, reader:
        writer.send_nowait(bytes(LARGE))
        opening = os.open

        def dropped(path, *args):
            if str(path).endswith("message-0"):
                monkeypatch.undo()
                for _ in range(200):
                    writer.send_nowait(b"x" * 64)
                writer.send_nowait(bytes(LARGE))  # sweeps
            return opening(path, *args)

        monkeypatch.setattr(os, "open", dropped)
        receive = reader.acquire_read().__enter__ if in_place else reader.receive_nowait
        with pytest.raises(LaggedError) as lagged:
            receive()
        rest = reader.receive_many_nowait()
        assert lagged.value.skipped + len(rest) == 202
        assert rest[-1] == bytes(LARGE)


# ---- the end ----


def test_what_was_sent_before_the_close_can_be_read():
    writer, readers = pair(CAPACITY, readers=2)
    name = writer.name
    writer.send_nowait(b"a" * LARGE)
    writer.send_nowait(b"b" * LARGE)
    assert len(readers[0].receive_nowait()) == LARGE
    writer.close()
    assert files(writer, "") == ["closed", "message-0", "message-1"]
    with pytest.raises(FileNotFoundError):
        BroadcastReader.attach(name)
    with BroadcastWriter.create(name, capacity=CAPACITY) as successor:  # the name is free
        assert successor.name == name
        for reader, left in zip(readers, (1, 2), strict=True):
            assert files(writer, "message-1") == ["message-1"]
            assert len(reader.receive_many_nowait()) == left
            with pytest.raises(aiospin.EndOfStream):
                reader.receive_nowait()
        assert files(writer, "") == ["closed"]
        readers[0].close()
        assert files(writer, "") == ["closed"]
        readers[1].close()
        assert files(writer, "") == []


def test_the_last_reader_removes_what_nobody_has_read():
    writer, readers = pair(CAPACITY, readers=2)
    writer.send_nowait(b"a" * LARGE)
    writer.close()
    for reader in readers:
        assert files(writer, "") == ["closed", "message-0"]
        reader.close()
    assert files(writer, "") == []


@MODES
def test_a_close_after_everything_is_read_leaves_nothing(overflow):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with reader:
        writer.send_nowait(b"a" * LARGE)
        reader.receive_nowait()
        writer.close()
        assert files(writer, "") == []
        assert not os.path.exists(SHM + writer.name)


def test_a_close_whose_readers_are_dead_leaves_nothing():
    with BroadcastWriter.create(capacity=CAPACITY) as writer, Child(READER, writer.name) as child:
        child.expect("attached")
        writer.send_nowait(bytes(LARGE))
        child.kill()
        writer.close()
        assert files(writer, "") == []
        assert not os.path.exists(SHM + writer.name)


def test_readers_die_after_the_close():
    """Killed with a message unread, while the program that was the writer does something else."""
    writer, [reader] = pair(CAPACITY)
    with Child(READER, writer.name) as child:
        child.expect("attached")
        writer.send_nowait(bytes(LARGE))
        writer.close()
        name = writer.name
        del writer
        assert len(reader.receive_nowait()) == LARGE
        reader.close()
        assert files(reader, "") == ["closed", "message-0"]
        child.kill()
        until(lambda: not files(reader, ""))
        assert not os.path.exists(SHM + name)


def test_a_name_comes_without_what_its_dead_readers_left():
    """They were killed with a message unread, after its writer had closed and gone."""
    with BroadcastWriter.create(capacity=CAPACITY) as writer, Child(READER, writer.name) as child:
        child.expect("attached")
        writer.send_nowait(bytes(LARGE))
        writer.close()
        close_default_waiter()  # as if the process had ended: nobody looks any more
        child.kill()
        assert files(writer, "") == ["closed", "message-0"]
    with BroadcastWriter.create(writer.name) as successor:
        assert files(successor, "") == []


def test_the_name_of_a_dead_writer_comes_without_its_files():
    code = f"""
writer = BroadcastWriter.create(sys.argv[1], capacity={CAPACITY})
tell("there")
writer.wait_for_readers_sync(1)
writer.send_sync(bytes({LARGE}))
tell("sent")
told()
"""
    name = f"{os.getpid()}-successor"
    with Child(code, name) as child:
        child.expect("there")
        with BroadcastReader.attach(name) as reader:
            child.expect("sent")
            child.kill()
            assert files(reader) == ["message-0"]
        with BroadcastWriter.create(name) as writer:
            assert files(writer, "") == []


# ---- what goes wrong ----


def test_leaving_by_an_exception_leaves_nothing():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with pytest.raises(LookupError), writer.acquire_write(LARGE):
            raise LookupError(files(writer))
        assert files(writer) == []
        writer.send_nowait(b"as before")
        assert reader.receive_nowait() == b"as before"


def test_one_at_a_time():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with writer.acquire_write(LARGE) as slot:
            slot[:] = bytes(LARGE)
            for send in (
                lambda: writer.send_nowait(b"small"),
                lambda: writer.send_nowait(b"large" * LARGE),
                lambda: writer.acquire_write(1).__enter__(),
                lambda: writer.acquire_write(LARGE).__enter__(),
            ):
                with pytest.raises(BusyResourceError):
                    send()
        with reader.acquire_read() as view:
            assert view == bytes(LARGE)
            for receive in (reader.receive_nowait, reader.receive_many_nowait):
                with pytest.raises(BusyResourceError):
                    receive()


def test_a_close_in_the_middle_leaves_nothing():
    writer, [reader] = pair(CAPACITY)
    with reader:
        with pytest.raises(ClosedResourceError), writer.acquire_write(LARGE):
            writer.close()
        assert files(writer, "") == []
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_nowait()


@pytest.mark.parametrize("who", ["another thread", "a signal's handler"])
@pytest.mark.parametrize("inside", ["open", "posix_fallocate", "pwrite"])
def test_a_close_while_it_is_written_leaves_nothing(monkeypatch, inside, who):
    """The file is gone when close() returns: at the end of a program the thread that sends does not go on."""
    if (inside, who) == ("open", "another thread"):
        pytest.skip("close() waits for that one, which takes no time")
    real, inside_once = getattr(os, inside), []

    def close_inside(*args):
        if not inside_once:
            inside_once.append(True)
            if who == "another thread":
                closer = threading.Thread(target=writer.close)
                closer.start()
                closer.join(PATIENCE)
                assert not closer.is_alive()
            else:
                writer.close()
            assert files(writer, "") == []
        return real(*args)

    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with monkeypatch.context() as patch:
            patch.setattr(os, inside, close_inside)
            with pytest.raises(ClosedResourceError):
                writer.send_nowait(bytes(LARGE))
        assert inside_once
        assert files(writer, "") == []
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_nowait()


def test_another_thread_leaves_its_block_while_the_writer_is_closed():
    """Between the end of the file and that of the claim it published a message of nobody's."""
    writer, [reader] = pair(CAPACITY)
    slot = writer.acquire_write(LARGE)
    slot.__enter__()
    discard, left = writer._large.discard, []

    def leave():
        with pytest.raises(ClosedResourceError):
            slot.__exit__(None, None, None)
        left.append(True)

    def discard_and_leave(draft):
        discard(draft)
        with running(leave):
            pass

    writer._large.discard = discard_and_leave
    with reader:
        writer.close()
        assert left
        assert files(writer, "") == []
        with pytest.raises(aiospin.EndOfStream):
            reader.receive_nowait()


def test_a_signals_handler_closes_while_it_is_published():
    class ClosesFirst:
        def __getattr__(self, name):
            return getattr(ring, name)

        def publish_large(self, *args):
            writer.close()
            ring.publish_large(*args)

    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        ring, writer._large._ring = writer._large._ring, ClosesFirst()
        with pytest.raises(ClosedResourceError):
            writer.send_nowait(bytes(LARGE))
        assert files(writer, "") == []


def test_more_than_there_is():
    """Refused by the kernel before anything is written."""
    room = os.statvfs("/dev/shm")
    too_much = room.f_blocks * room.f_frsize + 1
    if not 1 < too_much < 1 << 46:
        pytest.skip("this machine's shared memory is not limited")
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with pytest.raises(OSError, match=rf"{too_much} bytes needs \d+ .* \d+ are free") as caught:
            writer.acquire_write(too_much).__enter__()
        assert caught.value.errno == errno.ENOSPC
        assert files(writer) == []
        writer.send_nowait(b"as before" * LARGE)
        assert reader.receive_nowait() == b"as before" * LARGE


def test_less_than_is_allowed():
    """The same by a limit of the process, and for a message that is copied."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        message = bytes(2_000_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            for send in (writer.send_nowait, writer.send_sync, writer.send_object_nowait):
                with pytest.raises(OSError, match=r"needs 2000\d+ bytes.* \d+ are free") as caught:
                    send(message)
                assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert files(writer) == []
        with pytest.raises(WouldBlock):
            reader.receive_nowait()
        writer.send_nowait(message)
        assert reader.receive_nowait() == message


def other_sequence(path):
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff")


def link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def fifo(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "missing": Path.unlink,
    "short": lambda path: os.truncate(path, 100),
    "long": lambda path: os.truncate(path, 100_000),
    "empty": lambda path: os.truncate(path, 0),
    "another": other_sequence,
    "link": link,
    "fifo": fifo,
}


@MODES
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused(overflow, damage):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        writer.send_nowait(b"small")
        writer.send_nowait(bytes(LARGE))
        path = message_file(writer, 1)
        DAMAGE[damage](path)
        assert reader.receive_many_nowait() == [b"small"]  # nothing before it is lost
        for _ in range(2):
            for receive in (
                reader.receive_nowait,
                reader.receive_many_nowait,
                lambda: reader.acquire_read().__enter__(),
            ):
                with pytest.raises(LayoutError):
                    receive()
    path.with_suffix(".moved").unlink(missing_ok=True)


@MODES
def test_a_forged_length_is_refused(overflow):
    """Whatever the record says, no more memory is asked for than the file has."""
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        writer.send_nowait(bytes(LARGE))
        with open(SHM + writer.name, "r+b") as segment:
            [data_offset] = struct.unpack_from("=Q", segment.read(96), 56)
            segment.seek(data_offset + 32)
            segment.write(struct.pack("=Q", 1 << 62))
        for receive in (reader.receive_nowait, lambda: reader.acquire_read().__enter__()):
            with pytest.raises(LayoutError, match="should have"):
                receive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_lets_go_of_it():
    """What a forked child closes is not its parent's."""
    code = f"""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
writer = BroadcastWriter.create(capacity={CAPACITY})
reader = BroadcastReader.attach(writer.handle)
writer.send_sync(b"x" * {LARGE})
with writer.acquire_write({LARGE}) as slot:
    pid = os.fork()
    if pid == 0:
        for end in (writer, reader):
            end.close()
        del slot, writer, reader
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    slot[:] = b"y" * {LARGE}
assert reader.receive_many_sync() == [b"x" * {LARGE}, b"y" * {LARGE}]
writer.close()
reader.close()
tell("done")
"""
    with Child(code) as child:
        child.expect("done")


@pytest.mark.skipif(not COMPILED, reason="reads of the stand-in are not what this is about")
def test_another_thread_may_ask_while_one_reads(monkeypatch):
    """A large message takes long; meanwhile the reader answers questions, and can be closed."""
    writer, [reader] = pair(CAPACITY)
    reading = os.pread

    def closing(fd, length, offset):
        if offset:
            assert reader.lag == 1
            with pytest.raises(BusyResourceError):
                reader.receive_nowait()
            reader.close()
        return reading(fd, length, offset)

    with writer:
        writer.send_nowait(bytes(LARGE))
        monkeypatch.setattr(os, "pread", closing)
        with pytest.raises(ClosedResourceError):
            reader.receive_nowait()
        monkeypatch.undo()
        until(lambda: not files(writer))


@pytest.mark.parametrize("who", ["another thread", "a signal's handler"])
@pytest.mark.parametrize("when", ["in a batch", "before the next"])
def test_a_close_while_the_file_is_removed(monkeypatch, when, who):
    """The segment is gone then, and was read on."""
    passed = IncomingFiles.passed

    def close_after(self, oldest):
        passed(self, oldest)
        if who == "another thread":
            with running(reader.close):
                pass
        else:
            reader.close()

    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        if when == "in a batch":
            writer.send_nowait(bytes(LARGE))
        else:
            writer.send_object_nowait(PickleBuffer(bytearray(LARGE)))
        writer.send_many_nowait([b"1", b"2"])
        if when == "in a batch":
            monkeypatch.setattr(IncomingFiles, "passed", close_after)
            assert reader.receive_many_nowait() == [bytes(LARGE)]
        else:
            reader.receive_object_nowait(copy=False)
            monkeypatch.setattr(IncomingFiles, "passed", close_after)
        with pytest.raises(ClosedResourceError):
            reader.receive_nowait()
        assert files(writer) == []


def test_what_removal_raises_loses_no_message(monkeypatch):
    """An interrupt between the taking of a message and its removal comes out of the next receive."""
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for _ in range(2):
            writer.send_nowait(b"a" * LARGE)
            writer.send_nowait(b"b")
            unlink = Path.unlink

            def interrupted(path, unlink=unlink, **options):
                monkeypatch.undo()
                unlink(path, **options)
                raise KeyboardInterrupt

            monkeypatch.setattr(Path, "unlink", interrupted)
            assert reader.receive_many_nowait() == [b"a" * LARGE]
            with pytest.raises(KeyboardInterrupt):
                reader.receive_nowait()
            assert reader.receive_nowait() == b"b"
