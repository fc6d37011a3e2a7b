"""Flag: atomic operations on one element, its errors, and the notify that wakes sleepers."""

from __future__ import annotations

import array
import asyncio
import ctypes
import mmap
import struct
import threading
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Peer, running, shared, waiting

import aiospin
from aiospin import Flag

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
PARK = aiospin.WaitPolicy.powersave()
CHANGERS: list[Callable[[Flag], Any]] = [
    lambda flag: flag.store(1),
    lambda flag: flag.add(1),
    lambda flag: flag.exchange(1),
    lambda flag: flag.compare_exchange(0, 1),
]


# ---- operations ----


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_operations(dtype: str, order: str) -> None:
    kind = np.dtype(dtype).newbyteorder(order)
    data = np.zeros(4, dtype=kind)
    flag = Flag(data.view("u1"), dtype=kind, offset=kind.itemsize)
    exact = float if dtype.startswith("float") else int
    flag.store(5)
    assert flag.load() == 5
    assert type(flag.load()) is exact
    assert data.tolist() == [0, 5, 0, 0]
    assert flag.add(3) == 5, "the value before"
    assert flag.exchange(100) == 8
    assert flag.compare_exchange(8, 1) is False
    assert flag.load() == 100
    assert flag.compare_exchange(100, 1) is True
    assert data.tolist() == [0, 1, 0, 0]
    if not dtype.startswith("u"):
        flag.store(-2)
        assert flag.add(-3) == -2
        assert data.tolist() == [0, -5, 0, 0]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_add_wraps_around(dtype: str) -> None:
    limits = np.iinfo(dtype)
    flag = Flag(np.array([limits.max], dtype=dtype))
    assert flag.add(1) == limits.max
    assert flag.load() == limits.min
    assert flag.add(-1) == limits.min
    assert flag.load() == limits.max


def test_a_bool() -> None:
    flag = Flag(bytearray(2), dtype="?", offset=1)
    assert flag.load() is False
    flag.store(True)
    assert flag.exchange(False) is True
    assert flag.compare_exchange(False, True) is True
    assert flag.load() is True
    with pytest.raises(TypeError, match="bool"):
        flag.add(1)


def test_floats() -> None:
    flag = Flag(array.array("d", [0.25]))
    assert flag.add(0.5) == 0.25
    assert flag.load() == 0.75
    flag.store(float("inf"))
    assert flag.load() == float("inf")
    flag.store(float("nan"))
    assert flag.load() != flag.load()
    assert flag.compare_exchange(float("nan"), 0.0) is True, "bit for bit"
    assert flag.compare_exchange(-0.0, 1.0) is False, "bit for bit"


@pytest.mark.parametrize(
    "buffer",
    [
        array.array("i", [7]),
        np.array([7], dtype=">i4"),
        (ctypes.c_int32 * 1)(7),
        memoryview(bytearray(np.int32(7).tobytes())).cast("i"),
    ],
    ids=["array", "numpy big-endian", "ctypes", "memoryview"],
)
def test_the_buffers_own_dtype(buffer: Any) -> None:
    flag = Flag(buffer)
    assert flag.load() == 7
    flag.store(-1)
    assert flag.load() == -1


def test_repr() -> None:
    assert repr(Flag(bytearray(8), dtype="I", offset=4)) == "<aiospin.Flag uint32 at offset 4>"
    assert "byte-swapped int16" in repr(
        Flag(bytearray(8), dtype=">h" if np.little_endian else "<h")
    )


def test_add_is_atomic_between_threads() -> None:
    flag = Flag(bytearray(8), dtype="Q")

    def add() -> None:
        for _ in range(2000):
            flag.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flag.load() == 8000


# ---- errors ----


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [("B", 256), ("B", -1), ("b", 128), ("Q", 1 << 64), ("q", 1 << 63), ("?", 2), ("e", 1e6), ("f", 1e39),
     ("e", 10**400), ("f", 10**400), ("d", 10**400), ("d", -(10**400)), ("I", 10**400)],
)  # fmt: skip
def test_a_value_that_does_not_fit(dtype: str, wrong: float) -> None:
    flag = Flag(bytearray(8), dtype=dtype)
    for use in (
        lambda: flag.store(wrong),
        lambda: flag.exchange(wrong),
        lambda: flag.compare_exchange(wrong, 0),
        lambda: flag.compare_exchange(0, wrong),
    ):
        with pytest.raises(ValueError, match="does not fit"):
            use()
    assert flag.load() == 0


@pytest.mark.parametrize("wrong", ["1", b"1", None, 1.5, [1]])
def test_a_value_of_the_wrong_type(wrong: Any) -> None:
    flag = Flag(bytearray(8), dtype="I")
    for use in (flag.store, flag.add, flag.exchange, lambda v: flag.compare_exchange(0, v)):
        with pytest.raises(TypeError):
            use(wrong)
    if not isinstance(wrong, float):
        with pytest.raises(TypeError):
            Flag(bytearray(8), dtype="d").store(wrong)
    assert flag.load() == 0


def test_a_read_only_buffer() -> None:
    flag = Flag(bytes(8), dtype="I")
    assert flag.load() == 0
    flag.notify()
    assert flag.wait_sync(aiospin.eq(0)) == 0
    for change in CHANGERS:
        with pytest.raises(TypeError, match="read-only"):
            change(flag)


def test_construction() -> None:
    for wrong in (None, 5, "text"):
        with pytest.raises(TypeError):
            Flag(wrong, dtype="I")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="buffer"):
            Flag(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown dtype 'uint33'"):
        Flag(bytearray(8), dtype="uint33")
    with pytest.raises(ValueError, match="say which word is meant with dtype="):
        Flag(np.zeros(2, dtype="c16"))
    for nbytes, offset in ((3, 0), (4, 4), (0, 0), (4, 1 << 40)):
        with pytest.raises(ValueError, match="too short"):
            Flag(bytearray(nbytes), dtype="I", offset=offset)
    with pytest.raises(ValueError, match="offset 2 is unaligned"):
        Flag(bytearray(8), dtype="I", offset=2)
    with pytest.raises(ValueError, match="offset must be at least 0"):
        Flag(bytearray(8), dtype="I", offset=-4)
    for offset in (-8, -(1 << 64)):
        with pytest.raises(ValueError, match="offset must be at least 0"):
            Flag(bytearray(8), dtype="u4", offset=offset)
    for offset in (1 << 62, 1 << 63, 1 << 64, 1 << 70):
        with pytest.raises(ValueError, match=r"too short|less than 2\*\*63"):
            Flag(bytearray(8), dtype="u4", offset=offset)
    assert Flag(bytearray(8), dtype="I", offset=np.int64(4)).load() == 0
    for not_whole in ("0", 1.0, None, True):
        with pytest.raises(TypeError, match="offset must be a whole number of bytes"):
            Flag(bytearray(8), dtype="I", offset=not_whole)  # type: ignore[arg-type]
    with pytest.raises(BufferError, match="contiguous"):
        Flag(np.zeros(8, dtype="u4")[::2])


def test_it_pins_the_buffer_only_during_a_call() -> None:
    shm = SharedMemory(create=True, size=64)
    try:
        flag = Flag(shm.buf, dtype="I")
        flag.store(1)
        assert flag.wait_sync(aiospin.eq(1)) == 1
    finally:
        shm.close()
        shm.unlink()
    for use in (*CHANGERS, Flag.load, Flag.notify, lambda flag: flag.wait_sync(aiospin.eq(1))):
        with pytest.raises(ValueError, match="released"):
            use(flag)


def test_a_buffer_that_shrank() -> None:
    data = bytearray(8)
    flag = Flag(data, dtype="I", offset=4)
    del data[4:]
    for use in (*CHANGERS, Flag.load, Flag.notify):
        with pytest.raises(ValueError, match="too short"):
            use(flag)


# ---- waiting ----


def test_wait_sync() -> None:
    flag = Flag(bytearray(16), dtype="I", offset=8)
    for policy in (None, PARK):
        flag.store(0)
        with waiting(lambda policy=policy: flag.wait_sync(aiospin.eq(3), policy=policy)) as outcome:
            flag.store(3)
            flag.notify()
        assert outcome.value == 3


def test_a_predicate_takes_the_flags_own_dtype() -> None:
    flag = Flag(bytearray(16), dtype=">h", offset=4)
    flag.store(-300)
    assert flag.wait_sync(aiospin.le(-300)) == -300
    with pytest.raises(ValueError, match="40000 does not fit"):
        flag.wait_sync(aiospin.eq(40000))
    with pytest.raises(TimeoutError, match="within"):
        flag.wait_sync(aiospin.gt(0), 0.001)
    with pytest.raises(ValueError, match="too short"):
        flag.wait_sync(aiospin.eq(0, dtype="I"))


def test_a_callable_is_given_one_element() -> None:
    flag = Flag(bytearray(range(16)), dtype="H", offset=4)
    seen: list[Any] = []

    def predicate(element: memoryview) -> bool:
        seen.append((len(element), element.format, element[0]))
        return True

    assert flag.wait_sync(predicate) is True
    assert asyncio.run(flag.wait(predicate)) is True
    assert seen == [(1, "H", flag.load())] * 2


OPPOSITE = ">" if np.little_endian else "<"


@pytest.mark.parametrize("dtype", ["b", "B", "h", "H", "i", "I", "q", "Q", "f", "d", "?"])
def test_a_callable_is_given_a_typed_element(dtype: str) -> None:
    flag = Flag(bytearray(32), dtype=dtype, offset=8)
    flag.store(1)
    for seen in (
        flag.wait_sync(lambda element: (element.tolist(), element.nbytes)),
        asyncio.run(flag.wait(lambda element: (element.tolist(), element.nbytes))),
    ):
        assert seen == ([1], struct.calcsize(dtype))


@pytest.mark.parametrize(
    "dtype", ["e", f"{OPPOSITE}e", f"{OPPOSITE}I", f"{OPPOSITE}d", f"{OPPOSITE}h"]
)
def test_a_callable_is_given_bytes_where_a_memoryview_has_no_such_element(dtype: str) -> None:
    flag = Flag(bytearray(32), dtype=dtype, offset=8)
    flag.store(5)
    expected = struct.pack(dtype, 5)
    assert flag.wait_sync(bytes) == expected
    assert asyncio.run(flag.wait(bytes)) == expected
    assert flag.wait_sync(lambda element: (element.format, element.nbytes)) == ("B", len(expected))


@pytest.mark.parametrize("dtype", ["B", "H", "I", "Q", "d", ">Q", "?"])
def test_a_notify_wakes_a_sleeper(dtype: str) -> None:
    """A notified wait sleeps without limit: only the wake ends it."""
    flag = Flag(bytearray(16), dtype=dtype, offset=8)
    before = aiospin.statistics().parks
    with running(lambda: flag.wait_sync(aiospin.eq(1), policy=PARK)) as outcome:
        while aiospin.statistics().parks == before and outcome.thread.is_alive():
            pass
        flag.store(1)
        flag.notify()
    assert outcome.value == 1


def test_a_notify_from_another_process(peer: Peer, tmp_path: Path) -> None:
    with shared(tmp_path / "memory") as memory:
        flag = Flag(memory, dtype="uint32", offset=64)
        for step in range(1, 20):
            wait = lambda step=step: flag.wait_sync(aiospin.ge(step), policy=PARK)  # noqa: E731
            with waiting(wait) as outcome:
                peer.ask(tmp_path / "memory", step, offset=64, notify=True)
                peer.done()
            assert outcome.value == step


def test_notify_is_counted() -> None:
    before = aiospin.statistics()
    Flag(bytearray(4), dtype="I").notify()
    after = aiospin.statistics()
    assert after.notifies + after.elided == before.notifies + before.elided + 1


def test_a_flag_in_an_mmap_closes_with_it() -> None:
    memory = mmap.mmap(-1, 4096)
    flag = Flag(memory, dtype="I")
    flag.store(1)
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        flag.load()
