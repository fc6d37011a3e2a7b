"""send_object and receive_object: pickled, their buffers beside the pickle; or through a codec."""

from __future__ import annotations

import array
import datetime
import json
import pickle
import struct

import anyio
import pytest
from broadcast_support import SHM, pair, until_waits
from support import COMPILED

import aiospin
from aiospin import AiospinError, BroadcastReader, BroadcastWriter, LayoutError, WouldBlock

np = pytest.importorskip("numpy")

CAPACITY = 1 << 16
MODES = pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
COPY = pytest.mark.parametrize("copy", [True, False])


class Json:
    """A codec."""

    @staticmethod
    def encode(obj):
        return json.dumps(obj).encode()

    @staticmethod
    def decode(buffer):
        return json.loads(bytes(buffer))


class Point:
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)

    __hash__ = None


class Held:
    """Offers its memory out of band, as an array does."""

    def __init__(self, memory):
        self.memory = memory

    def __reduce_ex__(self, protocol):
        return Held, (pickle.PickleBuffer(self.memory),)


def same(first, second):
    if isinstance(first, np.ndarray):
        return (
            isinstance(second, np.ndarray)
            and first.dtype == second.dtype
            and first.shape == second.shape
            and bool((first == second).all())
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return first == second


OBJECTS = {
    "none": None,
    "number": 17,
    "text": "grüß Gott",
    "bytes": b"raw" * 10,
    "nested": {"a": [1, 2.5, (None, True)], "b": {"c": {"d"}}},
    "time": datetime.datetime(2024, 2, 29, 12, 30),
    "instance": Point(1, [2, 3]),
    "long text": "x" * 200_000,
    "array": np.arange(1000, dtype="float32"),
    "large array": np.arange(100_000, dtype="int64").reshape(100, 10, 100),
    "no elements": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "zero dimensions": np.array(7, dtype="int16"),
    "Fortran order": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(100)[::3],
    "a view of columns": np.arange(100).reshape(10, 10)[:, 2:5],
    "negative stride": np.arange(10)[::-1],
    "big-endian": np.arange(10, dtype=">u4"),
    "structured": np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects in an array": np.array([1, "two", None], dtype=object),
    "booleans": np.array([True, False]),
    "many arrays": [np.full(size, size, dtype="uint8") for size in range(200)],
    "arrays of all kinds of lengths": {str(i): np.arange(i * 1000) for i in range(8)},
    "array.array": array.array("d", [1.0, 2.0]),
    "bytearray": bytearray(b"changeable"),
}


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
@COPY
@pytest.mark.parametrize("kind", OBJECTS)
def test_all_kinds(overflow, copy, kind):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        for _ in range(3):
            writer.send_object_nowait(OBJECTS[kind])
            writer.send_nowait(b"behind it")
            got = reader.receive_object_nowait(copy=copy)
            assert type(got) is type(OBJECTS[kind])
            assert same(OBJECTS[kind], got)
            del got
            assert reader.receive_nowait() == b"behind it"


def test_every_form(run):
    async def main():
        writer, [reader] = pair(CAPACITY)
        obj = {"step": 1, "tokens": np.arange(10)}
        async with writer, reader:
            await writer.send_object(obj)
            writer.send_object_sync(obj)
            writer.send_object_nowait(obj)
            assert same(await reader.receive_object(), obj)
            assert same(reader.receive_object_sync(), obj)
            assert same(reader.receive_object_nowait(), obj)
            with pytest.raises(WouldBlock):
                reader.receive_object_nowait()
            with pytest.raises(TimeoutError):
                reader.receive_object_sync(timeout=0)
            with pytest.raises(TimeoutError):
                await reader.receive_object(timeout=0.001)
            async with anyio.create_task_group() as tasks:

                @tasks.start_soon
                async def receive():
                    assert same(await reader.receive_object(), obj)

                await until_waits(reader)
                await writer.send_object(obj)
            writer.close()
            with pytest.raises(aiospin.EndOfStream):
                await reader.receive_object()

    run(main)


def test_without_room(run):
    async def main():
        writer, [reader] = pair(4096)
        objects = [np.full(1000, number, dtype="uint8") for number in range(20)]

        async def send():
            for obj in objects:
                await writer.send_object(obj)

        async with writer, reader:
            for obj in objects[:3]:
                writer.send_object_nowait(obj)
            with pytest.raises(WouldBlock):
                writer.send_object_nowait(objects[0])
            with pytest.raises(TimeoutError):
                writer.send_object_sync(objects[0], timeout=0)
            with pytest.raises(TimeoutError):
                await writer.send_object(objects[0], timeout=0.001)
            for obj in objects[:3]:
                assert same(await reader.receive_object(), obj)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                for obj in objects:
                    assert same(await reader.receive_object(), obj)

    run(main)


# ---- buffers ----


@pytest.mark.parametrize("size", [100, 1000, 100_000])
@MODES
def test_copies_have_memory_of_their_own(overflow, size):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        first, second = np.arange(size), np.arange(size)
        second.flags.writeable = False
        writer.send_object_nowait([first, second])
        got = reader.receive_object_nowait()
        assert [each.flags.writeable for each in got] == [True, False]
        for _ in range(20):
            writer.send_nowait(bytes(20_000))
            reader.receive_nowait()
        got[0][0] = 5
        assert (got[0][1:] == first[1:]).all()
        assert (got[1] == second).all()


@pytest.mark.parametrize("size", [100, 1000, 100_000])
def test_views_lie_aligned_where_the_message_is(size):
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for filler in range(1, 130, 7):
            sent = [np.arange(size, dtype="uint8"), "x" * filler, np.arange(size // 3)]
            writer.send_object_nowait(sent)
            got = reader.receive_object_nowait(copy=False)
            assert same(sent, got)
            assert [each.flags.writeable for each in (got[0], got[2])] == [False, False]
            assert [each.ctypes.data % 64 for each in (got[0], got[2])] == [0, 0]
            assert reader.lag == 1, "the writer keeps it"
            with pytest.raises(WouldBlock):
                reader.receive_object_nowait()
            assert reader.lag == 0


def test_a_view_sees_the_ring_itself():
    """Nothing was copied on the way: what is stored to the segment is seen in the array."""
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        writer.send_object_nowait(np.full(64, 7, dtype="uint8"))
        got = reader.receive_object_nowait(copy=False)
        with open(SHM + writer.name, "r+b") as segment:
            at = segment.read().index(bytes([7] * 64))
            segment.seek(at)
            segment.write(b"\x09")
        assert got[0] == 9
        assert got[1] == 7


@pytest.mark.parametrize(
    "next_call",
    [
        lambda reader: reader.receive_nowait(),
        lambda reader: reader.receive_many_nowait(),
        lambda reader: reader.receive_object_nowait(),
        lambda reader: reader.receive_object_nowait(copy=False),
        lambda reader: reader.acquire_read(timeout=0).__enter__(),
        lambda reader: reader.receive_sync(timeout=0),
    ],
)
@pytest.mark.parametrize("size", [1000, 100_000])
@MODES
def test_views_are_valid_until_the_next_call(overflow, size, next_call):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        writer.send_object_nowait(np.arange(size))
        got = reader.receive_object_nowait(copy=False)
        assert (got == np.arange(size)).all()
        with pytest.raises((WouldBlock, TimeoutError)):
            next_call(reader)
        assert reader.lag == 0
        writer.send_nowait(b"more")
        assert reader.receive_nowait() == b"more"


def test_views_until_the_close():
    writer, [reader] = pair(CAPACITY)
    with writer:
        for size in (1000, 100_000):
            with BroadcastReader.attach(writer.handle) as other:
                writer.send_object_nowait(np.arange(size))
                got = other.receive_object_nowait(copy=False)
            assert (got == np.arange(size)).all()  # the mapping stays as long as the array
        reader.close()


def test_no_buffer_is_in_the_pickle():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        content = np.arange(300, dtype="uint8") % 251
        writer.send_object_nowait([content, content, content.copy()])
        message = reader.receive_nowait()
        count, pickle_length, *lengths = struct.unpack_from("=4Q", message)
        assert count == 2, "one that occurs twice is sent once"
        assert lengths == [300, 300]
        assert message.count(content.tobytes()) == 2
        assert pickle_length < 300
        end = 32 + pickle_length
        for _ in lengths:  # each at the next offset of that form
            begin = next(at for at in range(end, end + 64) if at % 64 == 32)
            end = begin + 300
            assert message[begin:end] == content.tobytes()
        assert len(message) == end


def test_the_bytes_of_an_object_can_be_received():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for obj in ({"a": 1}, "x" * 200_000):
            writer.send_object_nowait(obj)
            assert pickle.loads(reader.receive_nowait()) == obj


def test_a_buffer_with_gaps_is_refused():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with pytest.raises(pickle.PicklingError, match="non-contiguous"):
            writer.send_object_nowait(Held(np.arange(100)[::2]))
        writer.send_object_nowait(Held(b"as before"))
        got = reader.receive_object_nowait()
        assert got.memory == b"as before"


def test_what_cannot_be_pickled_sends_nothing():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            writer.send_object_nowait(lambda: 0)
        with pytest.raises(WouldBlock):
            reader.receive_nowait()
        writer.send_object_nowait(1)
        assert reader.receive_object_nowait() == 1


# ---- what is no object ----


@MODES
@pytest.mark.parametrize("size", [10, 100_000])
def test_raw_bytes_are_no_object(overflow, size):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    raw = pickle.dumps("x" * size)
    with writer, reader:
        writer.send_nowait(raw)
        for _ in range(2):
            with pytest.raises(AiospinError, match=r"raw bytes.*receive\(\)"):
                reader.receive_object_nowait()
        with pytest.raises(AiospinError, match="raw bytes"):
            reader.receive_object_nowait(codec=Json)
        assert reader.receive_nowait() == raw


UNPICKLED = []


def explode():
    UNPICKLED.append("unpickled")


class Bomb:
    def __reduce__(self):
        return explode, ()


def test_raw_receives_never_unpickle():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        for _ in range(4):
            writer.send_object_nowait([Bomb(), np.arange(10)])
        reader.receive_nowait()
        with reader.acquire_read() as view:
            bytes(view)
        assert len(reader.receive_many_nowait()) == 2
        assert UNPICKLED == []
        writer.send_object_nowait(Bomb())
        with pytest.raises(AiospinError, match=r"pickled.*without a codec"):
            reader.receive_object_nowait(codec=Json)
        assert UNPICKLED == [], "a reader with a codec never unpickles"
        reader.receive_object_nowait()
        assert UNPICKLED == ["unpickled"]
        UNPICKLED.clear()


class Stubborn:
    def __reduce__(self):
        return int, ("no number",)


@MODES
@COPY
def test_an_object_that_cannot_be_decoded_is_passed(overflow, copy):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        for obj in (Stubborn(), [Stubborn(), np.arange(10)]):
            writer.send_object_nowait(obj)
            writer.send_object_nowait("the next one")
            with pytest.raises(ValueError, match="no number"):
                reader.receive_object_nowait(copy=copy)
            assert reader.receive_object_nowait(copy=copy) == "the next one"


def frame(count, pickle_length, lengths, rest):
    return struct.pack(f"=2Q{len(lengths)}Q", count, pickle_length, *lengths) + rest


PICKLED = pickle.dumps(1)
BROKEN = {
    "empty": b"",
    "short": bytes(15),
    "count": frame(1 << 60, len(PICKLED), [], PICKLED),
    "count by one": frame(3, len(PICKLED), [1], PICKLED + bytes(100)),
    "pickle length": frame(0, 1 << 63, [], PICKLED),
    "pickle length by one": frame(0, len(PICKLED) + 1, [], PICKLED),
    "buffer length": frame(1, len(PICKLED), [(1 << 63) - 1], PICKLED + bytes(100)),
    "a buffer missing": frame(1, len(PICKLED), [8], PICKLED),
    "left over": frame(0, len(PICKLED), [], PICKLED + b"x"),
}


@MODES
@COPY
@pytest.mark.parametrize("broken", BROKEN)
def test_corrupt_frames(overflow, copy, broken):
    writer, [reader] = pair(CAPACITY, overflow=overflow)
    with writer, reader:
        assert writer._ring.send_as(BROKEN[broken], 2)
        with pytest.raises(LayoutError, match="no pickle with buffers"):
            reader.receive_object_nowait(copy=copy)
        writer.send_object_nowait("the next one")
        assert reader.receive_object_nowait(copy=copy) == "the next one"


# ---- codecs ----


def test_a_codec(run):
    async def main():
        writer = BroadcastWriter.create(capacity=CAPACITY, codec=Json)
        async with writer, BroadcastReader.attach(writer.handle, codec=Json) as reader:
            for obj in ({"a": [1, None]}, "x" * 200_000):
                await writer.send_object(obj)
                assert await reader.receive_object() == obj
                writer.send_object_sync(obj)
                assert reader.receive_object_sync() == obj
                writer.send_object_nowait(obj)
                assert reader.receive_object_nowait() == obj
            await writer.send_object(1)
            assert await reader.receive() == b"1"

    run(main)


def test_a_codec_for_one_call():
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        writer.send_object_nowait([1], codec=Json)
        with pytest.raises(AiospinError, match=r"codec.*receive.*or give"):
            reader.receive_object_nowait()
        assert reader.receive_object_nowait(codec=Json) == [1]
        writer.send_object_nowait([1])
        assert reader.receive_object_nowait() == [1]


def test_halves_of_a_codec():
    class Encoder:
        def encode(self, obj):
            return bytearray(Json.encode(obj))

    class Decoder:
        def decode(self, buffer):
            return Json.decode(buffer)

    writer = BroadcastWriter.create(capacity=CAPACITY, codec=Encoder())
    with writer, BroadcastReader.attach(writer.handle, codec=Decoder()) as reader:
        writer.send_object_nowait([1])
        assert reader.receive_object_nowait() == [1]
        with pytest.raises(TypeError, match="encode"):
            writer.send_object_nowait(1, codec=Decoder())
        with pytest.raises(TypeError, match="decode"):
            reader.receive_object_nowait(codec=Encoder())


def test_msgspec():
    msgpack = pytest.importorskip("msgspec.msgpack")
    writer = BroadcastWriter.create(capacity=CAPACITY, codec=msgpack)
    with writer, BroadcastReader.attach(writer.handle, codec=msgpack) as reader:
        writer.send_object_nowait({"a": [1, 2.5, b"bytes"]})
        assert reader.receive_object_nowait() == {"a": [1, 2.5, b"bytes"]}


def test_bad_codecs():
    with pytest.raises(TypeError, match=r"codec.*encode"):
        BroadcastWriter.create(codec=object())
    with BroadcastWriter.create() as writer, pytest.raises(TypeError, match=r"codec.*decode"):
        BroadcastReader.attach(writer.handle, codec="json")


@pytest.mark.skipif(not COMPILED, reason="the counts are those of the compiled core")
def test_a_small_object_is_one_native_call_each_way():
    """Neither claimed and filled in, nor looked for twice."""
    writer, [reader] = pair(CAPACITY)
    with writer, reader:
        before = aiospin.statistics()
        for _ in range(10):
            writer.send_object_nowait({"step": 1})
            assert reader.receive_object_nowait() == {"step": 1}
        after = aiospin.statistics()
        notified = after.elided + after.notifies - before.elided - before.notifies
        assert notified == 20, "one for each publish, one for each release"
