"""One contract, two cores: ``_native.pyi``, held against the compiled core and its stand-in.

Nothing here sleeps to order events. Where a thread must have parked before something happens, the
test looks at the counters until it has.
"""

from __future__ import annotations

import array
import ctypes
import importlib
import itertools
import math
import mmap
import operator
import os
import pathlib
import queue
import resource
import select
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aiospin import _predicate as predicates
from aiospin import _pure as pure
from aiospin._errors import (
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    LaggedError,
    LayoutError,
)
from aiospin._pure import _futex as pure_futex
from aiospin._pure import _wait as pure_wait

CORES = ("aiospin._pure", "aiospin._native")
SECOND = 1_000_000_000  # ns
LONG = 30 * SECOND  # far longer than anything here takes, so that a hang ends as a failure
MAX_SLEEP = 1_000_000  # ns


def load_core(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        pytest.skip(f"{name} is not built here")


def short_name(name: str) -> str:
    return name.rpartition("._")[2]


@contextmanager
def nothing_left(core: Any) -> Iterator[Any]:
    before = core.statistics()
    yield core
    after = core.statistics()
    for gauge in ("live_tickets", "pinned_buffers"):
        assert after[gauge] == before[gauge], f"{gauge} left behind"


@pytest.fixture(params=CORES, ids=short_name)
def core(request: pytest.FixtureRequest) -> Iterator[Any]:
    with nothing_left(load_core(request.param)) as module:
        yield module


@pytest.fixture(
    params=itertools.product(CORES, CORES), ids=lambda pair: "-".join(map(short_name, pair))
)
def two_cores(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """The core of the writing side and that of the reading side."""
    first, second = map(load_core, request.param)
    with nothing_left(first), nothing_left(second):
        yield first, second


def until(condition: Callable[[], bool]) -> None:
    """Let the others run until it holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0)


@pytest.fixture(autouse=True)
def no_second_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in parks without coming up for signals, so that a lost wake is a hang."""
    monkeypatch.setattr(pure_wait, "RECHECK_NS", 2 * LONG)


@contextmanager
def running(body: Callable[[], Any]) -> Iterator[queue.Queue[Any]]:
    """Run a function in a thread: what it returns or raises is in the queue."""
    outcome: queue.Queue[Any] = queue.Queue()

    def thread() -> None:
        try:
            outcome.put(body())
        except BaseException as error:  # the test looks at it
            outcome.put(error)

    runner = threading.Thread(target=thread, daemon=True)
    runner.start()
    yield outcome
    runner.join(30)
    assert not runner.is_alive(), "the thread hangs"


def fork(child: Callable[[], Any]) -> int:
    """Run a function in a forked child: exit status 0 when it returns, 1 when it raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: this process has threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    return pid


def joined(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def memory(nbytes: int) -> mmap.mmap:
    """Zeroed memory that begins at a page and is shared with forked children."""
    return mmap.mmap(-1, nbytes)


def program(op: str, value: Any, **where: Any) -> bytes:
    made: predicates.Predicate = getattr(predicates, op)(value, **where)
    return made.program_for(b"")


@contextmanager
def waiting(core: Any, *arguments: Any) -> Iterator[Any]:
    wait = core.Wait(*arguments)
    try:
        yield wait
    finally:
        wait.release()


# ---- predicates ----

INTEGER_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "bits_set": lambda element, mask: element & mask == mask,
    "bits_clear": lambda element, mask: element & mask == 0,
}
FLOATS = {"e": 65504.0, "f": 2.0**127, "d": 1.0e308}


def samples(code: str) -> list[Any]:
    kind = code[-1]
    if kind == "?":
        return [False, True]
    if kind in FLOATS:
        return [-FLOATS[kind], -1.5, 0.0, 0.25, FLOATS[kind], math.inf, math.nan]
    low, high = predicates.parse_dtype(code).limits
    return sorted({low, low + 1, -1 if low else 2, 0, 1, high // 3, high - 1, high})


ORDERED = [
    order + code for code in "bBhHiIqQefd?" for order in ("<", ">") if struct.calcsize(code) > 1
]


@pytest.mark.parametrize("elements", ["first", "all", "any"])
@pytest.mark.parametrize("code", ["b", "B", "?", *ORDERED])
@pytest.mark.parametrize("op", INTEGER_TESTS)
def test_every_comparison_agrees_with_struct(core: Any, op: str, code: str, elements: str) -> None:
    if op.startswith("bits_") and code[-1] in FLOATS:
        with pytest.raises(TypeError, match="integer"):
            program(op, 1, dtype=code)
        return
    holds = INTEGER_TESTS[op]
    data = memory(64)
    offset = 8
    packer = struct.Struct(code)
    number = (len(data) - offset) // packer.size
    values = samples(code)
    for operand in values:
        if operand != operand:
            continue  # NaN is refused where the predicate is written
        wanted = program(op, operand, dtype=code, offset=offset, elements=elements)
        with waiting(core, data, wanted, False) as wait:
            for first, other in itertools.product(values, repeat=2):
                stored = [first] * (number - 1) + [other]
                for index, value in enumerate(stored):
                    packer.pack_into(data, offset + index * packer.size, value)
                truths = [holds(value, operand) for value in stored]
                ready = {"first": truths[0], "all": all(truths), "any": any(truths)}[elements]
                assert wait.look() is ready, (stored, operand)
                if ready:
                    seen = stored[truths.index(True)] if elements == "any" else stored[0]
                    assert type(wait.value) is type(seen)
                    assert wait.value == seen or (wait.value != wait.value and seen != seen)
    data.close()


def flag(index: int) -> predicates.Predicate:
    return predicates.eq(1, dtype="B", offset=index)


@pytest.mark.parametrize(
    ("combine", "terms"),
    [
        (lambda a, b: a & b, 2),
        (lambda a, b: a | b, 2),
        (lambda a, b, c, d: (a & b) | (c & d), 4),
        (lambda a, b, c, d: (a | b) & (c | d), 4),
        (lambda a, b, c, d: a | (b & (c | d)), 4),
        (lambda a, b, c, d, e, f, g, h: ((a & b) | (c & d)) & ((e | f) & (g | h)), 8),
    ],
)
def test_truth_tables(core: Any, combine: Callable[..., Any], terms: int) -> None:
    data = memory(8)
    made = combine(*map(flag, range(terms)))
    with waiting(core, data, made.program_for(data), False) as wait:
        for row in itertools.product((False, True), repeat=terms):
            data[:terms] = bytes(row)
            assert wait.look() is bool(combine(*row))


def test_the_leftmost_true_term_gives_the_value(core: Any) -> None:
    data = memory(16)
    made = predicates.ge(5, dtype="B") | predicates.eq(2.5, dtype="d", offset=8)
    with waiting(core, data, made.program_for(data), False) as wait:
        assert not wait.look()
        struct.pack_into("d", data, 8, 2.5)
        assert wait.look()
        assert wait.value == 2.5
        data[0] = 7
        assert wait.look()
        assert wait.value == 7


@pytest.mark.parametrize("elements", ["first", "all", "any"])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_too_short(core: Any, width: int, elements: str) -> None:
    data = memory(16)
    for offset in (17 - width, 16, 24, 1 << 62):
        wanted = program("eq", 0, dtype=f"u{width}", offset=offset, elements=elements)
        with pytest.raises(ValueError, match=r"too short.* 16 bytes"):
            core.Wait(data, wanted, False)
    fits = program("eq", 0, dtype=f"u{width}", offset=16 - width, elements=elements)
    with waiting(core, data, fits, False) as wait:
        assert wait.look()


@pytest.mark.parametrize("width", [2, 4, 8])
def test_unaligned(core: Any, width: int) -> None:
    data = memory(64)
    for offset in range(1, 2 * width):
        wanted = program("eq", 0, dtype=f"u{width}", offset=offset)
        if offset % width:
            with pytest.raises(ValueError, match=f"offset {offset} is unaligned"):
                core.Wait(data, wanted, False)
        else:
            core.Wait(data, wanted, False).release()
    # It is the address that counts, not the offset.
    with pytest.raises(ValueError, match="unaligned"):
        core.Wait(memoryview(data)[1:], program("eq", 0, dtype=f"u{width}"), False)


@pytest.mark.parametrize("garbage", [b"", bytes(32), bytes(33), bytes(32 + 24 * 9), b"\xff" * 56])
def test_a_malformed_program_is_refused(core: Any, garbage: bytes) -> None:
    with pytest.raises(ValueError, match="program"):
        core.Wait(bytearray(64), garbage, False)


# ---- buffers ----


def test_buffers_of_all_sorts(core: Any) -> None:
    class Pair(ctypes.Structure):
        _fields_ = (("a", ctypes.c_uint32), ("b", ctypes.c_uint32))

    read_only = mmap.mmap(-1, 8, prot=mmap.PROT_READ)
    sorts = [
        bytes(8),
        bytearray(8),
        memoryview(bytearray(16))[8:],
        memoryview(bytearray(8)).toreadonly(),
        memoryview(bytearray(8)).cast("B", (2, 4)),
        memory(8),
        read_only,
        array.array("I", [0, 0]),
        (ctypes.c_uint32 * 2)(),
        ctypes.c_uint64(0),
        Pair(),
    ]
    for data in sorts:
        with waiting(core, data, program("eq", 0, dtype="u1"), False) as wait:
            assert wait.look(), data
        with waiting(core, data, None, False) as wait:
            assert not wait.look(), data


def test_numpy(core: Any) -> None:
    numpy = pytest.importorskip("numpy")
    data = numpy.zeros((3, 4), dtype=">i4")
    frozen = data.copy()
    frozen.flags.writeable = False
    for sort in (data, data[1:], data[2], frozen):
        wanted = predicates.le(0, elements="all").program_for(sort)
        with waiting(core, sort, wanted, False) as wait:
            assert wait.look()
            assert wait.value == 0
    wanted = predicates.eq(-2, elements="any").program_for(data)
    with waiting(core, data, wanted, False) as wait:
        assert not wait.look()
        data[1, 3] = -2
        assert wait.look()
        assert wait.value == -2
    for strided in (data[:, 1], data[::2], data.T):
        with pytest.raises(BufferError):
            core.Wait(strided, None, False)


def test_what_cannot_be_pinned(core: Any) -> None:
    for thing in (None, 7, "text", [1, 2]):
        with pytest.raises(TypeError, match="buffer"):
            core.Wait(thing, None, False)
    with pytest.raises(BufferError):
        core.Wait(memoryview(bytearray(8))[::2], None, False)


def test_release_unpins(core: Any) -> None:
    data = bytearray(8)
    pinned = core.statistics()["pinned_buffers"]
    for wanted in (None, program("eq", 0, dtype="B")):
        wait = core.Wait(data, wanted, False)
        assert core.statistics()["pinned_buffers"] == pinned + 1
        with pytest.raises(BufferError):
            data.append(1)
        wait.look()
        wait.release()
        wait.release()
        assert core.statistics()["pinned_buffers"] == pinned
        data.append(1)
        assert wait.value is None
        for use in (
            wait.look,
            lambda wait=wait: wait.spin(0, True),
            lambda wait=wait: wait.run(0, 0, 1, True),
        ):
            with pytest.raises(RuntimeError, match="released"):
                use()
    with pytest.raises(ValueError, match="too short"):
        core.Wait(data, program("eq", 0, dtype="Q", offset=1 << 20), False)
    data.append(1)  # a wait that was refused pins nothing


def test_a_forgotten_wait_unpins(core: Any) -> None:
    data = bytearray(8)
    core.Wait(data, None, False)
    data.append(1)


# ---- waiting in the calling thread ----


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 1000])
@pytest.mark.parametrize("skew", [0, 1, 5])
def test_change(core: Any, size: int, skew: int) -> None:
    data = memoryview(memory(skew + size))[skew:]
    with waiting(core, data, None, False) as wait:
        for index in range(size):
            assert not wait.look()
            data[index] ^= 0x80
            assert wait.look()
            assert wait.value is None
        assert not wait.look()


def test_an_empty_buffer_never_changes(core: Any) -> None:
    with waiting(core, b"", None, False) as wait:
        assert not wait.look()
        assert not wait.spin(1000, True)


def test_a_change_counts_from_the_making(core: Any) -> None:
    data = bytearray(4)
    with waiting(core, data, None, False) as wait:
        data[2] = 1
        assert wait.run(core.FOREVER, 0, MAX_SLEEP, True)


@pytest.mark.parametrize("notified", [False, True])
@pytest.mark.parametrize("spin_ns", [0, 50_000])
def test_run_times_out(core: Any, spin_ns: int, notified: bool) -> None:
    with waiting(core, memory(8), program("eq", 1, dtype="Q"), notified) as wait:
        before = core.statistics()
        assert not wait.look()
        deadline = core.now_ns() + 50_000_000
        assert not wait.run(deadline, spin_ns, MAX_SLEEP, True)
        assert core.now_ns() >= deadline
        assert core.now_ns() < deadline + 10 * SECOND
        assert not wait.run(0, spin_ns, MAX_SLEEP, True)
        after = core.statistics()
        assert after["waits"] == before["waits"] + 1
        assert after["timed_out"] == before["timed_out"] + 2
        assert after["parks"] > before["parks"]


def test_run_after_the_deadline_still_looks(core: Any) -> None:
    with waiting(core, bytes(8), program("eq", 0, dtype="Q"), False) as wait:
        assert wait.run(0, 0, MAX_SLEEP, True)


def test_spin_keeps_its_budget(core: Any) -> None:
    data = memory(8)
    with waiting(core, data, program("eq", 1, dtype="Q"), False) as wait:
        begin = core.now_ns()
        assert not wait.spin(2_000_000, True)
        assert core.now_ns() >= begin + 2_000_000
        data[0] = 1
        spun = core.statistics()["spun"]
        assert wait.spin(0, True)
        assert wait.value == 1
        assert core.statistics()["spun"] == spun + 1


def test_a_ready_wait_is_counted_as_such(core: Any) -> None:
    with waiting(core, bytes(1), program("eq", 0, dtype="B"), False) as wait:
        before = core.statistics()
        assert wait.look()
        after = core.statistics()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"waits", "ready"}


@pytest.mark.parametrize("notified", [False, True])
def test_run_is_woken(core: Any, notified: bool) -> None:
    data = memory(8)
    word = core.Word(data, 0, 4, "u", False)
    with waiting(core, data, program("ge", 3, dtype="I"), notified) as wait:
        parks = core.statistics()["parks"]
        with running(lambda: wait.run(core.FOREVER, 0, MAX_SLEEP, True)) as outcome:
            until(lambda: core.statistics()["parks"] > parks)
            word.store(1)
            word.notify()
            word.store(3)
            word.notify()
            assert outcome.get(timeout=30) is True
        assert wait.value == 3


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_notify_wakes_for_every_bit_of_the_word(core: Any, width: int) -> None:
    """The highest byte too, though a futex covers four."""
    data = memory(64)
    offset = 3 * width
    word = core.Word(data, offset, width, "u", False)
    for shift in (0, 8 * width - 1):
        word.store(0)
        wanted = program("ne", 0, dtype=f"u{width}", offset=offset)
        with waiting(core, data, wanted, True) as wait:
            parks = core.statistics()["parks"]
            with running(lambda wait=wait: wait.run(core.FOREVER, 0, LONG, True)) as outcome:
                until(lambda parks=parks: core.statistics()["parks"] > parks)
                word.store(1 << shift)
                word.notify()
                assert outcome.get(timeout=30) is True
            assert wait.value == 1 << shift


def test_one_thread_at_a_time(core: Any) -> None:
    data = memory(8)
    with waiting(core, data, None, True) as wait:
        parks = core.statistics()["parks"]
        with running(lambda: wait.run(core.FOREVER, 0, MAX_SLEEP, True)) as outcome:
            until(lambda: core.statistics()["parks"] > parks)
            for use in (wait.look, wait.release, lambda: wait.spin(0, True)):
                with pytest.raises(RuntimeError):
                    use()
            data[7] = 1
            core.Word(data, 7, 1, "u", False).notify()
            assert outcome.get(timeout=30) is True


class AlarmError(Exception):
    pass


@pytest.mark.parametrize("notified", [False, True])
@pytest.mark.parametrize("spin_ns", [0, LONG])
def test_what_a_signal_handler_raises_comes_out(core: Any, notified: bool, spin_ns: int) -> None:
    def handler(*_: object) -> None:
        raise AlarmError

    data = memory(8)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with waiting(core, data, None, notified) as wait:
            with pytest.raises(AlarmError):  # noqa: PT012 - the alarm may come before the wait
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                wait.run(core.now_ns() + LONG, spin_ns, MAX_SLEEP, True)
            data[0] = 1
            assert wait.look()  # it is free for the next
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_word_has_no_plan(core: Any) -> None:
    with waiting(core, memory(1), None, False) as wait:
        assert wait.predicts is False
        assert wait.prediction == (0, 0, 0, 0, 0)
        with pytest.raises(RuntimeError, match="nothing is learned"):
            wait.plan(1, 1)
        with pytest.raises(RuntimeError, match=r"no plan|nothing is learned"):
            wait.run(0, None, MAX_SLEEP, True)
        waiter = core.Waiter()
        with pytest.raises(RuntimeError, match=r"no plan|nothing is learned"):
            waiter.submit(wait, "token", 0, None, MAX_SLEEP, True)


def test_woken_counts_what_the_sleep_was(core: Any) -> None:
    data = memory(1)
    names = ("parks", "parked", "spurious")
    with waiting(core, data, None, False) as wait:
        before = core.statistics()
        assert not wait.woken(0)
        assert not wait.woken(core.now_ns())
        data[0] ^= 1
        assert wait.woken(0)
        after = core.statistics()
    assert [after[name] - before[name] for name in names] == [3, 1, 1]


def test_a_reader_learns_when_its_messages_come() -> None:
    """Of the compiled core alone: the stand-in does not predict."""
    core = load_core("aiospin._native")
    with ring(core) as (_, writer, reader):
        wait = reader.wait
        assert wait.predicts
        assert wait.plan(8, 1_000_000) == (core.FOREVER, core.FOREVER)  # nothing is known
        free = 2**32 - 1
        from_ns, until_ns = wait.plan(free, LONG)
        assert from_ns <= core.now_ns() < until_ns
        assert wait.plan(0, LONG) == (core.FOREVER, core.FOREVER)  # no spin is worth anything
        wait.plan(free, LONG)
        writer.send(b"")
        assert wait.spin(LONG, True)
        predicted = core.statistics()["predicted"]
        reader.resume(True)
        reader.resume(True)  # there is no other wait to end
        assert core.statistics()["predicted"] == predicted + 1
        assert reader.receive() == b""
        assert wait.prediction[0] == 1
        assert wait.prediction[3] > 0
        wait.plan(free, LONG)
        assert not wait.run(core.now_ns() + 1_000_000, None, MAX_SLEEP, True)
        reader.resume(False)
        assert wait.prediction[0] == 1
        assert wait.prediction[4] > 0


def test_a_writer_learns_when_there_is_room() -> None:
    """Of the compiled core alone, as above."""
    core = load_core("aiospin._native")
    free = 2**32 - 1
    with ring(core) as (_, writer, reader):
        wait = writer.wait
        assert wait.predicts
        while writer.send(bytes(100)):
            pass
        for number in range(3):
            assert not wait.look()
            assert wait.plan(8, 1_000_000) == (core.FOREVER, core.FOREVER)  # nothing is known
            _, until_ns = wait.plan(free, LONG)
            assert core.now_ns() < until_ns
            assert reader.receive() is not None
            assert wait.spin(LONG, True)
            writer.resume(True)
            assert wait.prediction[0] == number + 1
            assert writer.send(bytes(100))
            assert not writer.send(bytes(100))


@pytest.mark.parametrize("step", ["sequence", "head"])
def test_an_interrupted_publish_ends_with_the_stream(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Of the stand-in alone, where a signal handler can raise in the middle: the message is sent, and counted."""
    with ring(pure) as (_, writer, reader):
        assert writer.send(b"one")
        with monkeypatch.context() as patch:

            def interrupted(*_: object) -> None:
                raise KeyboardInterrupt

            segment = type(writer._segment)
            patch.setattr(segment, step, getattr(segment, step).setter(interrupted))
            with pytest.raises(KeyboardInterrupt):
                writer.send(b"two")
        writer.close()
        assert reader.receive() == b"one"
        assert reader.receive() == b"two"
        with pytest.raises(EndOfStream):
            reader.receive()


def test_a_rehearsal_ends_no_wait(core: Any) -> None:
    """Nor does it begin one, or look: whoever rehearses tries its operation itself."""
    with ring(core) as (_, writer, reader):
        wait = reader.wait
        assert not wait.look()
        for sent in range(2):
            before = core.statistics(), wait.prediction
            reader.resume(None)
            reader.resume(None)
            assert (core.statistics(), wait.prediction) == before
            assert reader.lag == sent
            writer.send(b"")
        assert wait.look()
        assert reader.receive() == b""


@pytest.mark.parametrize("messages", [0, 200], ids=["fresh", "lapped"])
def test_a_planned_wait_goes_on_after_a_rehearsal(messages: int) -> None:
    """Where the next message will be there lie bytes of an earlier one, once the writer has been round the ring."""
    core = load_core("aiospin._native")
    free = 2**32 - 1
    with ring(core) as (_, writer, reader):
        for _ in range(messages):
            assert writer.send(b"")
            assert reader.receive() == b""
        wait = reader.wait
        assert not wait.look()
        _, until_ns = wait.plan(free, LONG)
        assert not wait.spin(1_000_000, True)
        for _ in range(3):
            reader.resume(None)
            assert wait.prediction == (0, 0, 0, 0, 0)
            assert wait.plan(free, LONG)[1] == until_ns, "it is the same wait"
        writer.send(b"")
        assert wait.spin(LONG, True)
        predicted = core.statistics()["predicted"]
        reader.resume(None)  # something has come, so this one ends it
        assert core.statistics()["predicted"] == predicted + 1
        assert wait.prediction[0] == 1
        assert wait.prediction[3] >= 1_000_000, "all that it spun, before the rehearsal too"
        reader.resume(True)  # there is no other wait to end
        assert wait.prediction[0] == 1
        assert reader.receive() == b""


def test_a_spin_in_vain_steps_back() -> None:
    """The writer that it waits for may need this very CPU. Here another process wants it all the time."""
    core = load_core("aiospin._native")

    def switches() -> int:
        usage = resource.getrusage(resource.RUSAGE_THREAD)
        return usage.ru_nvcsw + usage.ru_nivcsw

    def run_for_ever() -> None:
        while True:
            turns[0] = 1

    allowed, turns = os.sched_getaffinity(0), memory(1)
    with waiting(core, memory(8), program("eq", 1, dtype="Q"), False) as wait:
        os.sched_setaffinity(0, {min(allowed)})
        rival = fork(run_for_ever)
        try:
            until(lambda: turns[0] == 1)
            before, began_ns = switches(), time.thread_time_ns()
            while switches() < before + 5:
                assert time.thread_time_ns() < began_ns + 3_000_000, (
                    "less than a time slice for each"
                )
                assert not wait.spin(0, True)
        finally:
            os.sched_setaffinity(0, allowed)
            os.kill(rival, signal.SIGKILL)
            os.waitpid(rival, 0)


def test_a_waiter_goes_on_as_planned() -> None:
    core = load_core("aiospin._native")
    waiter = core.Waiter()
    with ring(core) as (_, _, reader):
        wait = reader.wait
        wait.plan(2**32 - 1, LONG)
        waiter.submit(wait, "token", core.now_ns() + 1_000_000, None, MAX_SLEEP, True)
        assert waiter.run(LONG) == [("token", core.TIMED_OUT)]
        reader.resume(False)
        assert wait.prediction[4] > 0


def test_a_timer_is_readable_when_its_time_has_come(core: Any) -> None:
    if core is pure and sys.version_info < (3, 13):
        with pytest.raises(OSError, match=r"3\.13"):
            core.timer_open()
        return
    timer = core.timer_open()
    try:
        assert select.select([timer], [], [], 0)[0] == []
        due_ns = core.now_ns() + 2_000_000
        core.timer_arm(timer, due_ns)
        assert select.select([timer], [], [], 30)[0] == [timer]
        assert core.now_ns() >= due_ns
        core.timer_arm(timer, 0)
        assert select.select([timer], [], [], 0)[0] == []
        core.timer_arm(timer, 1)  # long past
        assert select.select([timer], [], [], 30)[0] == [timer]
        core.timer_arm(timer, core.now_ns() + LONG)  # a new time forgets that the old one has come
        assert select.select([timer], [], [], 0)[0] == []
    finally:
        os.close(timer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        core.timer_arm(timer, 1)


# ---- the waiter ----


def submit(
    core: Any, waiter: Any, wait: Any, token: object, deadline_ns: int | None = None
) -> None:
    deadline = core.FOREVER if deadline_ns is None else deadline_ns
    waiter.submit(wait, token, deadline, 0, MAX_SLEEP, True)


@contextmanager
def waiter_thread(core: Any) -> Iterator[tuple[Any, queue.Queue[tuple[Any, int]]]]:
    """A waiter with a thread that runs it; completions come out of the queue."""
    waiter = core.Waiter()
    completions: queue.Queue[tuple[Any, int]] = queue.Queue()

    def body() -> None:
        while (done := waiter.run(LONG)) is not None:
            for completion in done:
                completions.put(completion)

    with running(body) as outcome:
        try:
            yield waiter, completions
        finally:
            waiter.stop()
            assert outcome.get(timeout=30) is None


def test_completions(core: Any) -> None:
    data = memory(2)
    waiter = core.Waiter()
    token = object()
    with (
        waiting(core, data, program("eq", 0, dtype="B"), False) as ready,
        waiting(core, data, program("eq", 1, dtype="B", offset=1), False) as late,
    ):
        submit(core, waiter, ready, token)
        assert waiter.live == core.statistics()["live_tickets"] == 1
        assert waiter.run(LONG) == [(token, core.READY)]
        assert ready.value == 0
        deadline = core.now_ns() + 3_000_000
        submit(core, waiter, late, "late", deadline)
        assert waiter.run(LONG) == [("late", core.TIMED_OUT)]
        assert core.now_ns() >= deadline
        submit(core, waiter, late, "again", 0)
        assert waiter.run(LONG) == [("again", core.TIMED_OUT)]
        assert waiter.live == 0


def test_completions_come_in_batches(core: Any) -> None:
    data = memory(1)
    waiter = core.Waiter()
    waits = [core.Wait(data, program("eq", 0, dtype="B"), False) for _ in range(100)]
    for token, wait in enumerate(waits):
        submit(core, waiter, wait, token)
    assert sorted(waiter.run(LONG)) == [(token, core.READY) for token in range(100)]
    for wait in waits:
        wait.release()


def test_an_idle_waiter_returns(core: Any) -> None:
    waiter = core.Waiter()
    assert waiter.run(0) == []
    begin = core.now_ns()
    assert waiter.run(2_000_000) == []
    assert core.now_ns() >= begin + 2_000_000


def test_idle_time_begins_when_the_last_ticket_goes(core: Any) -> None:
    idle_ns = 20_000_000
    waiter = core.Waiter()
    data = memory(1)
    with waiting(core, data, None, True) as wait:
        submit(core, waiter, wait, "token")
        begin = core.now_ns()
        with running(lambda: (waiter.run(idle_ns), core.now_ns())) as outcome:
            until(lambda: core.now_ns() > begin + 2 * idle_ns)
            cancelled_ns = core.now_ns()
            assert waiter.cancel(wait)
            completions, returned_ns = outcome.get(timeout=30)
            assert completions == []
            assert returned_ns >= cancelled_ns + idle_ns


def test_submit_wants_a_free_wait(core: Any) -> None:
    waiter = core.Waiter()
    wait = core.Wait(memory(1), None, False)
    submit(core, waiter, wait, 1)
    with pytest.raises(RuntimeError, match="submitted"):
        submit(core, waiter, wait, 2)
    with pytest.raises(RuntimeError, match="submitted"):
        wait.release()
    assert waiter.cancel(wait)
    wait.release()
    with pytest.raises(RuntimeError, match="released"):
        submit(core, waiter, wait, 3)
    assert waiter.live == 0


def test_a_submitted_wait_is_the_waiters(core: Any) -> None:
    waiter = core.Waiter()
    with waiting(core, memory(1), program("eq", 1, dtype="B"), False) as wait:
        submit(core, waiter, wait, "token")
        for use in (
            wait.look,
            lambda: wait.spin(0, True),
            lambda: wait.run(0, 0, MAX_SLEEP, True),
            wait.release,
        ):
            with pytest.raises(RuntimeError, match="submitted"):
                use()
        assert waiter.live == 1
        assert waiter.cancel(wait)
        assert not wait.look()
        assert not wait.run(0, 0, MAX_SLEEP, True)


def test_a_wait_that_another_waiter_has(core: Any) -> None:
    mine, yours = core.Waiter(), core.Waiter()
    with (
        waiting(core, memory(1), None, False) as wait,
        waiting(core, memory(1), None, False) as kept,
    ):
        submit(core, yours, kept, "kept")
        submit(core, mine, wait, "token")
        assert yours.cancel(wait) is False
        with pytest.raises(RuntimeError, match="submitted"):
            submit(core, yours, wait, "stolen")
        assert (mine.live, yours.live, core.statistics()["live_tickets"]) == (1, 1, 2)
        assert mine.stop() == ["token"]
        assert yours.stop() == ["kept"]
        assert (mine.live, yours.live) == (0, 0)


@pytest.mark.parametrize("wrong", [-1, -(1 << 63), 1 << 64, 1 << 70])
def test_numbers_beyond_64_bits(wrong: int) -> None:
    """Of the compiled core alone: the stand-in computes with Python's integers."""
    core = load_core("aiospin._native")
    waiter = core.Waiter()
    with waiting(core, memory(1), None, False) as wait, ring(core) as (segment, writer, reader):
        for use in (
            lambda: wait.spin(wrong, True),
            lambda: wait.run(wrong, 0, MAX_SLEEP, True),
            lambda: wait.run(0, wrong, MAX_SLEEP, True),
            lambda: wait.run(0, 0, wrong, True),
            lambda: wait.woken(wrong),
            lambda: waiter.run(wrong),
            lambda: waiter.submit(wait, "token", wrong, 0, MAX_SLEEP, True),
            lambda: waiter.submit(wait, "token", 0, wrong, MAX_SLEEP, True),
            lambda: waiter.submit(wait, "token", 0, 0, wrong, True),
            lambda: core.ring_bytes(wrong, 1),
            lambda: core.ring_bytes(4096, wrong),
            lambda: core.ring_create(segment, wrong, 1, BLOCK, 1, 1, 1),
            lambda: core.ring_create(segment, 4096, wrong, BLOCK, 1, 1, 1),
            lambda: core.ring_create(segment, 4096, 1, wrong, 1, 1, 1),
            lambda: core.RingReader(segment, wrong, 1),
            lambda: writer.claim(wrong),
            lambda: writer.evict(wrong),
        ):
            with pytest.raises(ValueError, match=r"from 0 to|not allowed|must be|slot|too large"):
                use()
        assert waiter.live == 0
        assert writer.send(b"as before")
        assert reader.receive() == b"as before"


def test_slots_beyond_32_bits(core: Any) -> None:
    with ring(core) as (segment, writer, reader):
        for slot in (2, 1 << 32, 1 << 40):
            with pytest.raises(ValueError, match=r"slot|from 0 to"):
                core.RingReader(segment, slot, 1)
            with pytest.raises(ValueError, match=r"slot|from 0 to"):
                writer.evict(slot)
        assert writer.active_readers() == 1
        assert reader.slot == 0


def test_cancel_says_who_won(core: Any) -> None:
    data = memory(1)
    waiter = core.Waiter()
    cancelled = core.statistics()["cancelled"]
    with waiting(core, data, program("eq", 1, dtype="B"), False) as wait:
        assert not waiter.cancel(wait)
        submit(core, waiter, wait, 1)
        assert waiter.cancel(wait)
        assert not waiter.cancel(wait)
        assert waiter.run(0) == []
        submit(core, waiter, wait, 2)
        data[0] = 1
        assert waiter.run(LONG) == [(2, core.READY)]
        assert not waiter.cancel(wait)
    assert core.statistics()["cancelled"] == cancelled + 1


def test_cancel_from_another_thread_frees_the_buffer(core: Any) -> None:
    with waiter_thread(core) as (waiter, completions):
        for spin_ns in (0, LONG):
            for round_number in range(100):
                data = bytearray(64)
                wait = core.Wait(data, program("eq", 1, dtype="B"), bool(round_number % 2))
                waiter.submit(wait, wait, core.FOREVER, spin_ns, MAX_SLEEP, True)
                assert waiter.cancel(wait)
                wait.release()
                data.clear()  # BufferError if anything still had it
        assert completions.empty()


def test_a_cancelled_token_never_comes(core: Any) -> None:
    """The race of a completion with a cancel has one winner."""
    came, cancelled = set(), set()
    with waiter_thread(core) as (waiter, completions):
        for token in range(200):
            data = bytearray(1)
            start = threading.Barrier(2)
            wait = core.Wait(data, program("eq", 1, dtype="B"), False)

            def store(data: bytearray = data, start: threading.Barrier = start) -> None:
                start.wait(30)
                data[0] = 1

            with running(store):
                waiter.submit(wait, token, core.FOREVER, LONG, MAX_SLEEP, True)
                start.wait(30)
                if waiter.cancel(wait):
                    cancelled.add(token)
            wait.release()
    while not completions.empty():
        came.add(completions.get()[0])
    assert not came & cancelled


def test_a_thousand_tickets(core: Any) -> None:
    data = memory(1000)
    waits = [
        core.Wait(data, program("ne", 0, dtype="B", offset=index), bool(index % 2))
        for index in range(1000)
    ]
    with waiter_thread(core) as (waiter, completions):
        for index, wait in enumerate(waits):
            submit(core, waiter, wait, index)
        assert waiter.live == 1000
        for index in range(1000):
            data[index] = 1
        done = [completions.get(timeout=30) for _ in waits]
        assert sorted(done) == [(index, core.READY) for index in range(1000)]
        assert waiter.live == 0
        assert completions.empty()
    for wait in waits:
        wait.release()


def test_stop(core: Any) -> None:
    waiter = core.Waiter()
    with (
        waiting(core, memory(1), None, False) as wait,
        running(lambda: waiter.run(LONG)) as outcome,
    ):
        submit(core, waiter, wait, "dropped")
        waiter.stop()
        assert outcome.get(timeout=30) is None
        assert waiter.live == 0
        assert waiter.run(0) is None
        assert not waiter.cancel(wait)
        with pytest.raises(RuntimeError, match=r"stopped|closed"):
            submit(core, waiter, wait, "late")


def test_a_forgotten_waiter_drops_its_tickets(core: Any) -> None:
    with waiting(core, memory(1), None, False) as wait:
        waiter = core.Waiter()
        submit(core, waiter, wait, "dropped")
        del waiter
        assert not wait.look()


def test_one_thread_runs_a_waiter(core: Any) -> None:
    waiter = core.Waiter()
    with (
        waiting(core, memory(1), None, False) as wait,
        running(lambda: waiter.run(LONG)) as outcome,
    ):
        parks = core.statistics()["parks"]
        submit(core, waiter, wait, "token")
        until(lambda: core.statistics()["parks"] > parks)
        with pytest.raises(RuntimeError, match="another thread"):
            waiter.run(0)
        waiter.stop()
        assert outcome.get(timeout=30) is None


def test_fork_empties_the_childs_table(core: Any) -> None:
    data = memory(2)
    mine = program("eq", 1, dtype="B")
    theirs = program("eq", 1, dtype="B", offset=1)
    with (
        waiter_thread(core) as (waiter, completions),
        waiting(core, data, mine, False) as wait,
        waiting(core, data, mine, False) as spinning,
    ):
        submit(core, waiter, wait, "parent")
        waiter.submit(spinning, "spinning", core.FOREVER, LONG, MAX_SLEEP, True)

        def child() -> None:
            waiter.after_fork_in_child()
            assert waiter.live == core.statistics()["live_tickets"] == 0
            assert waiter.run(0) == []
            assert not waiter.cancel(wait)
            with waiting(core, data, theirs, False) as own:
                submit(core, waiter, own, "child")
                data[1] = 1
                assert waiter.run(LONG) == [("child", core.READY)]
            wait.release()
            spinning.release()
            assert core.statistics()["pinned_buffers"] == 0

        waiter.before_fork()
        pid = fork(child)
        waiter.after_fork_in_parent()
        joined(pid)
        assert waiter.live == 2
        data[0] = 1
        tokens = {completions.get(timeout=30)[0] for _ in range(2)}
        assert tokens == {"parent", "spinning"}


# ---- words ----

WORDS = [
    (kind, width, code)
    for kind, codes in {"u": "BHIQ", "i": "bhiq", "f": "efd", "?": "?"}.items()
    for code in codes
    for width in (struct.calcsize(code),)
]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("kind", "width", "code"), WORDS)
def test_word(core: Any, kind: str, width: int, code: str, swapped: bool) -> None:
    data = memory(32)
    order = "><"[(sys.byteorder == "little") != swapped]
    word = core.Word(data, 8, width, kind, swapped)

    def stored() -> Any:
        return struct.unpack_from(order + code, data, 8)[0]

    values = [value for value in samples(code) if value == value]
    assert word.load() == 0
    for value, other in itertools.product(values, repeat=2):
        word.store(value)
        assert word.load() == stored() == value
        assert type(word.load()) is type(value)
        assert word.exchange(other) == value
        assert stored() == other
        assert word.compare_exchange(value, value) is (value == other)
        assert word.compare_exchange(other, value) is True
        assert stored() == value
    assert data[:8] + data[8 + width :] == bytes(32 - width)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(("kind", "width", "code"), WORDS)
def test_word_add(core: Any, kind: str, width: int, code: str, swapped: bool) -> None:
    word = core.Word(memory(16), 0, width, kind, swapped)
    if kind == "?":
        with pytest.raises(TypeError, match="bool"):
            word.add(1)
        return
    if kind == "f":
        word.store(1.5)
        assert word.add(0.25) == 1.5
        assert word.add(-2) == 1.75
        assert word.load() == -0.25
        word.store(FLOATS[code])
        word.add(FLOATS[code])
        assert word.load() == math.inf
        return
    low, high = predicates.parse_dtype(code).limits
    word.store(high)
    assert word.add(1) == high
    assert word.load() == low
    assert word.add(-1) == low
    assert word.load() == high
    word.add(high)
    assert word.load() == (2 * high if kind == "u" else -2) % (1 << 8 * width) - (
        0 if kind == "u" else 1 << 8 * width
    )


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_word_compares_the_bits_of_a_float(core: Any, zero: float) -> None:
    word = core.Word(memory(8), 0, 8, "f", False)
    word.store(zero)
    assert not word.compare_exchange(-zero, 1.0)
    assert word.compare_exchange(zero, math.nan)
    assert math.isnan(word.load())


def test_word_refuses(core: Any) -> None:
    data = memory(16)
    for kind, width, code in WORDS:
        word = core.Word(data, 0, width, kind, False)
        for wrong in ("1", None, b"1", [1]):
            for operation in (
                word.store,
                word.exchange,
                lambda value, word=word: word.compare_exchange(0, value),
            ):
                with pytest.raises(TypeError):
                    operation(wrong)
        if kind == "f":
            too_large = [] if width == 8 else [FLOATS[code] * 4]
        else:
            low, high = predicates.parse_dtype(code).limits
            too_large = [low - 1, high + 1, 1 << 70, -(1 << 70)]
            with pytest.raises(TypeError):
                word.store(0.5)
        for value in too_large:
            with pytest.raises(ValueError, match="does not fit"):
                word.store(value)
            with pytest.raises(ValueError, match="does not fit"):
                word.compare_exchange(value, 0)
        assert not any(data[:])
    with pytest.raises(ValueError, match="too short"):
        core.Word(data, 16, 1, "u", False)
    with pytest.raises(ValueError, match="too short"):
        core.Word(data, 12, 8, "u", False)
    with pytest.raises(ValueError, match="unaligned"):
        core.Word(data, 2, 4, "u", False)
    for kind, width in (("x", 4), ("u", 3), ("", 1)):
        with pytest.raises(ValueError, match="kind"):
            core.Word(data, 0, width, kind, False)
    with pytest.raises(TypeError, match="buffer"):
        core.Word(7, 0, 1, "u", False)


def test_word_in_read_only_memory(core: Any) -> None:
    word = core.Word(b"\x07\x00\x00\x00", 0, 1, "u", False)
    assert word.load() == 7
    word.notify()
    for operation in (
        word.store,
        word.add,
        word.exchange,
        lambda value: word.compare_exchange(7, value),
    ):
        with pytest.raises(TypeError, match="read-only"):
            operation(1)


def test_word_pins_only_while_it_works(core: Any) -> None:
    data = bytearray(8)
    word = core.Word(data, 0, 1, "u", False)
    word.add(1)
    data.append(1)
    del data[:]
    with pytest.raises(ValueError, match="too short"):
        word.load()


@pytest.mark.parametrize("swapped", [False, True])
def test_word_is_atomic_between_threads(core: Any, swapped: bool) -> None:
    data = memory(16)
    start = threading.Barrier(3)
    interval = sys.getswitchinterval()

    def add() -> None:
        word = core.Word(data, 8, 4, "u", swapped)
        start.wait(30)
        for _ in range(500):
            word.add(1)
            while True:
                seen = word.load()
                if word.compare_exchange(seen, seen + 1):
                    break

    sys.setswitchinterval(1e-6)  # seconds: let the threads cut into each other
    try:
        with running(add), running(add), running(add):
            pass
    finally:
        sys.setswitchinterval(interval)
    assert core.Word(data, 8, 4, "u", swapped).load() == 3 * 2 * 500


def test_word_is_atomic_between_processes(core: Any) -> None:
    data = memory(16)
    word = core.Word(data, 0, 8, "i", False)
    ready = core.Word(data, 8, 4, "u", False)

    def add() -> None:
        ready.add(1)
        with waiting(core, data, program("eq", 2, dtype="I", offset=8), False) as wait:
            assert wait.run(core.now_ns() + LONG, 0, MAX_SLEEP, True)
        for _ in range(2000):
            word.add(3)

    for pid in (fork(add), fork(add)):
        joined(pid)
    assert word.load() == 2 * 2000 * 3


# ---- rings ----

BLOCK, DROP_OLDEST = 0, 1
# What each field of the header is, and values that it must never have.
HEADER = {
    "magic": (0, "Q", (0, 3)),
    "version": (8, "I", (0, 1, 3)),
    "header_bytes": (12, "I", (0, 88)),
    "total_bytes": (16, "Q", (1 << 20, 1 << 63)),
    "capacity": (24, "Q", (0, 4097, 1 << 47)),
    "max_readers": (32, "I", (0, 1025)),
    "overflow": (36, "I", (2, 1 << 31)),
    "writer_offset": (40, "Q", (0, 129, 1 << 63)),
    "readers_offset": (48, "Q", (0, 128, 513, 1 << 63)),
    "data_offset": (56, "Q", (0, 512, 641, 1 << 63)),
    "byte_order": (64, "I", (0, 0x04030201)),
    "line_bytes": (68, "I", (0, 64)),
    "id": (88, "Q", (0,)),
}
ID = 0xFEDC_BA98_7654_3210
CONTROL = 128
SLOTS = CONTROL + 3 * 128


def make_ring(
    core: Any, capacity: int = 4096, max_readers: int = 2, overflow: int = BLOCK
) -> mmap.mmap:
    segment = memory(core.ring_bytes(capacity, max_readers))
    core.ring_create(segment, capacity, max_readers, overflow, os.getpid(), time.time_ns(), ID)
    return segment


@contextmanager
def ring(
    cores: Any, readers: int = 1, capacity: int = 4096, overflow: int = BLOCK
) -> Iterator[tuple[Any, ...]]:
    """The segment, its writer and its readers; ``cores`` is one, or those of writer and readers."""
    writing, reading = cores if isinstance(cores, tuple) else (cores, cores)
    segment = make_ring(writing, capacity, readers + 1, overflow)
    writer = writing.RingWriter(segment)
    joined = [reading.RingReader(segment, slot, 1000 + slot) for slot in range(readers)]
    try:
        yield (segment, writer, *joined)
    finally:
        for end in (writer, *joined):
            end.release()
    segment.close()  # BufferError if anything still had it


def await_end(core: Any, end: Any) -> None:
    """Block until the end of a ring is ready."""
    end.suspend()
    try:
        assert end.wait.run(core.now_ns() + LONG, 0, MAX_SLEEP, True)
    finally:
        end.resume(True)


def message(number: int) -> bytes:
    return bytes([number % 251]) * (number * 37 % 1500)


def test_geometry(core: Any) -> None:
    for capacity in (0, 2048, 4097, 6144, 1 << 47):
        with pytest.raises(ValueError, match="capacity"):
            core.ring_bytes(capacity, 1)
    for max_readers in (0, 1025, 1 << 33):
        with pytest.raises(ValueError, match="readers"):
            core.ring_bytes(4096, max_readers)
    needed = core.ring_bytes(4096, 3)
    with pytest.raises(ValueError, match="buffer"):
        core.ring_create(memory(needed - 1), 4096, 3, BLOCK, 1, 1, 1)
    with pytest.raises(ValueError, match=r"overflow|geometry"):
        core.ring_create(memory(needed), 4096, 3, 2, 1, 1, 1)
    with pytest.raises(ValueError, match="id"):
        core.ring_create(memory(needed), 4096, 3, BLOCK, 1, 1, 0)
    with pytest.raises((TypeError, BufferError)):
        core.ring_create(bytes(needed), 4096, 3, BLOCK, 1, 1, 1)
    with pytest.raises(ValueError, match=r"multiple of|aligned|too small"):
        core.ring_create(memoryview(memory(needed + 64))[64:], 4096, 3, BLOCK, 1, 1, 1)


def test_both_cores_lay_out_the_same_bytes() -> None:
    pure, native = map(load_core, CORES)
    for capacity, max_readers in ((4096, 1), (1 << 20, 1024)):
        size = pure.ring_bytes(capacity, max_readers)
        assert size == native.ring_bytes(capacity, max_readers)
        made = []
        for core in (pure, native):
            segment = memory(size)
            core.ring_create(segment, capacity, max_readers, DROP_OLDEST, 7, 8, ID)
            made.append(segment[:])
        assert made[0] == made[1]


def test_properties(core: Any) -> None:
    with ring(core, readers=1, capacity=8192, overflow=DROP_OLDEST) as (_, writer, reader):
        assert writer.capacity == reader.capacity == 8192
        assert writer.max_message == reader.max_message == 4096
        assert writer.overflow == reader.overflow == DROP_OLDEST
        assert writer.max_readers == 2
        assert reader.slot == 0
        assert reader.writer_pid == os.getpid()
        assert writer.head == writer.sequence == reader.sequence == reader.lag == 0
        assert reader.published_ns == 0
        assert writer.id == reader.id == ID
        assert writer.wait is writer.wait
        assert reader.wait is reader.wait


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, _, bad) in HEADER.items() for value in bad]
)
def test_a_wrong_header_is_refused(core: Any, name: str, value: int) -> None:
    segment = make_ring(core)
    offset, code, _ = HEADER[name]
    struct.pack_into(code, segment, offset, value)
    for attach in (lambda: core.RingWriter(segment), lambda: core.RingReader(segment, 0, 1)):
        with pytest.raises(LayoutError, match=name):
            attach()
    segment.close()


def test_what_is_no_ring_is_refused(core: Any) -> None:
    segment = make_ring(core)
    for data in (memory(4096), memoryview(segment)[:64], memoryview(segment)[: len(segment) - 64]):
        with pytest.raises(LayoutError):
            core.RingWriter(data)
        with pytest.raises(LayoutError):
            core.RingReader(data, 0, 1)
    for slot in (-1, 2):
        with pytest.raises((ValueError, OverflowError)):
            core.RingReader(segment, slot, 1)
    with pytest.raises((TypeError, BufferError)):
        core.RingWriter(bytes(segment))


def test_messages_of_all_sizes(two_cores: tuple[Any, Any]) -> None:
    """Around the ring many times, in both directions of who is compiled."""
    with ring(two_cores, readers=2) as (_, writer, first, second):
        for number in range(500):
            sent = message(number)
            before = two_cores[0].now_ns()
            assert writer.send(sent)
            assert writer.sequence == number + 1
            assert first.lag == second.lag == 1
            assert first.receive() == sent
            assert before <= first.published_ns <= two_cores[0].now_ns()
            assert first.sequence == number + 1
            assert first.lag == 0
            assert second.receive() == sent
            assert first.receive() is None
        assert writer.head > 20 * writer.capacity


@pytest.mark.parametrize("overflow", [BLOCK, DROP_OLDEST])
def test_the_longest_message_fits_from_every_position(
    two_cores: tuple[Any, Any], overflow: int
) -> None:
    with ring(two_cores, overflow=overflow) as (_, writer, reader):
        longest = os.urandom(writer.max_message)
        for _ in range(writer.capacity // 64 + 1):
            assert writer.send(b"x")
            assert reader.receive() == b"x"
            assert writer.send(longest)
            assert reader.receive() == longest
        assert writer.send(longest + b"x") is None
        with pytest.raises(ValueError, match=f"{len(longest)}"):
            writer.claim(len(longest) + 1)


def test_block_mode_waits_for_the_slowest(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores, readers=2) as (_, writer, fast, slow):
        sent = 0
        while writer.send(message(sent)):
            assert fast.receive() == message(sent)
            sent += 1
        assert writer.sequence == sent
        assert not writer.wait.look()
        assert writer.slowest() == (1, 1001, writer.head)
        assert sorted(writer.readers()) == [(0, 1000, 0), (1, 1001, sent)]
        assert slow.lag == sent
        received = 0
        while not writer.wait.look():
            assert slow.receive() == message(received)
            received += 1
        assert writer.send(message(sent))
        slow.leave()
        assert writer.active_readers() == 1
        assert fast.receive() == message(sent)


def test_a_reader_that_is_evicted_holds_nobody_up(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (segment, writer, reader):
        while writer.send(b"x" * 1000):
            pass
        writer.evict(reader.slot)
        assert writer.active_readers() == 0
        assert writer.slowest() is None
        assert writer.readers() == []
        assert writer.wait.look()
        for _ in range(100):
            assert writer.send(b"y" * 1000)
        with pytest.raises((ValueError, OverflowError)):
            writer.evict(writer.max_readers)
        late = two_cores[1].RingReader(segment, 0, 7)
        assert late.receive() is None
        assert late.sequence == writer.sequence
        assert writer.readers() == [(0, 7, 0)]
        late.release()


@pytest.mark.parametrize("size", [0, 1, 33, 500, 2048])
def test_drop_oldest_counts_what_it_drops(two_cores: tuple[Any, Any], size: int) -> None:
    with ring(two_cores, overflow=DROP_OLDEST) as (_, writer, reader):
        told = received = 0
        for number in range(400):
            assert writer.send(bytes([number % 256]) * size)
            assert writer.wait.look()
            if number % 97:
                continue
            while reader.wait.look():
                try:
                    data = reader.receive()
                except LaggedError as lagged:
                    told += lagged.skipped
                    continue
                assert data == bytes([(told + received) % 256]) * size
                received += 1
            assert told + received == number + 1
        writer.close()
        while True:
            try:
                reader.receive()
            except LaggedError as lagged:
                told += lagged.skipped
            except EndOfStream:
                break
            else:
                received += 1
        assert told + received == 400
        assert told
        assert received


def test_receive_many(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (_, writer, reader):
        assert reader.receive_many(10) == []
        for number in range(5):
            assert writer.send(b"%d" % number)
        assert reader.receive_many(3) == [b"0", b"1", b"2"]
        writer.close()
        assert reader.receive_many(3) == [b"3", b"4"]
        for _ in range(2):
            with pytest.raises(EndOfStream):
                reader.receive_many(3)
        with pytest.raises((ValueError, OverflowError)):
            reader.receive_many(-1)


def test_receive_many_is_told_first_what_is_lost(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores, overflow=DROP_OLDEST) as (_, writer, reader):
        for number in range(200):
            writer.send(b"%d" % number)
        with pytest.raises(LaggedError) as lagged:
            reader.receive_many(1000)
        skipped = lagged.value.skipped
        assert reader.receive_many(1000) == [b"%d" % number for number in range(skipped, 200)]


def test_end_of_stream(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores, readers=2) as (_, writer, first, second):
        assert writer.send(b"last")
        writer.close()
        writer.close()
        assert first.receive() == b"last"
        assert first.wait.look()
        for _ in range(2):
            with pytest.raises(EndOfStream):
                first.receive()
            with pytest.raises(EndOfStream):
                first.acquire()
        assert second.receive() == b"last"
        for use in (lambda: writer.send(b"x"), lambda: writer.claim(1), writer.claim_large):
            with pytest.raises(ClosedResourceError):
                use()


@pytest.mark.parametrize("large", [False, True])
def test_closed_since_the_claim(two_cores: tuple[Any, Any], large: bool) -> None:
    """By another thread, say: what was claimed is dropped, and whoever had it is told why."""
    with ring(two_cores) as (_, writer, reader):
        view = writer.claim_large() if large else writer.claim(8)
        if not large:
            view.release()
        writer.close()
        with pytest.raises(ClosedResourceError):
            writer.publish_large(1, 0) if large else writer.publish()
        with pytest.raises(EndOfStream):
            reader.receive()


def test_claim(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (_, writer, reader):
        slot = writer.claim(5)
        assert (len(slot), slot.readonly, slot.format) == (5, False, "B")
        for use in (lambda: writer.claim(1), lambda: writer.send(b"x")):
            with pytest.raises(BusyResourceError):
                use()
        slot[:] = b"nope!"
        slot.release()
        writer.abandon()
        assert reader.receive() is None
        slot = writer.claim(5)
        slot[:] = b"hello"
        slot.release()
        assert reader.receive() is None
        writer.publish()
        assert reader.receive() == b"hello"
        with pytest.raises((RuntimeError, ValueError)):
            writer.publish()
        with pytest.raises((ValueError, OverflowError)):
            writer.claim(-1)
        while (slot := writer.claim(900)) is not None:
            slot.release()
            writer.publish()
        assert not writer.wait.look()
        assert reader.receive() is not None
        assert writer.wait.look()


@pytest.mark.parametrize("overflow", [BLOCK, DROP_OLDEST])
def test_acquire(two_cores: tuple[Any, Any], overflow: int) -> None:
    with ring(two_cores, overflow=overflow) as (_, writer, reader):
        assert reader.acquire() is None
        reader.release_message()
        for sent in (b"", b"one", b"2" * 2000):
            assert writer.send(sent)
            view = reader.acquire()
            assert view.readonly
            assert view == sent
            assert reader.published_ns > 0
            with pytest.raises(BusyResourceError):
                reader.acquire()
            view.release()
            reader.release_message()
            reader.release_message()
            assert reader.acquire() is None
        assert reader.lag == 0


def test_an_acquired_message_holds_the_writer_up(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (_, writer, reader):
        assert writer.send(b"first" * 100)
        view = reader.acquire()
        while writer.send(b"x" * 500):
            pass
        assert view == b"first" * 100
        with pytest.raises(BusyResourceError):
            reader.receive()
        view.release()
        reader.release_message()
        assert writer.send(b"x" * 500)


def test_one_waiting_caller(core: Any) -> None:
    with ring(core) as (_, writer, reader):
        reader.suspend()
        writer.suspend()
        for use in (
            reader.suspend,
            reader.receive,
            reader.acquire,
            lambda: reader.receive_many(1),
            writer.suspend,
            lambda: writer.send(b"x"),
            lambda: writer.claim(1),
        ):
            with pytest.raises(BusyResourceError):
                use()
        writer.resume(False)
        assert writer.send(b"x")
        reader.resume(False)
        assert reader.receive() == b"x"


def test_after_release(core: Any) -> None:
    segment = make_ring(core)
    writer, reader = core.RingWriter(segment), core.RingReader(segment, 1, 1)
    with pytest.raises(BufferError):
        segment.close()
    waits = writer.wait, reader.wait
    for end in (writer, reader):
        end.release()
        end.release()
    segment.close()
    for use in (
        lambda: writer.send(b"x"),
        lambda: writer.claim(1),
        writer.publish,
        writer.abandon,
        writer.close,
        writer.suspend,
        writer.active_readers,
        writer.slowest,
        writer.readers,
        lambda: writer.evict(0),
        lambda: writer.wait,
        reader.receive,
        lambda: reader.receive_many(1),
        reader.acquire,
        reader.release_message,
        reader.suspend,
        reader.leave,
        lambda: reader.wait,
    ):
        with pytest.raises(ClosedResourceError):
            use()
    for wait in waits:
        with pytest.raises(RuntimeError):
            wait.look()


def test_a_reader_that_left_is_closed(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (segment, writer, reader):
        for number in range(3):
            writer.send(message(number))
        reader.leave()
        successor = two_cores[1].RingReader(segment, reader.slot, 2)
        try:
            writer.send(b"for the successor")
            for use in (reader.receive, lambda: reader.receive_many(9), reader.acquire):
                with pytest.raises(ClosedResourceError):
                    use()
            assert successor.lag == 1, "its cursor stayed where it was"
            assert successor.receive() == b"for the successor"
        finally:
            successor.release()


def test_a_writer_that_closed_is_closed(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (_, writer, reader):
        writer.send(b"last")
        writer.close()
        for use in (lambda: writer.send(b"late"), lambda: writer.claim(1)):
            with pytest.raises(ClosedResourceError):
                use()
        assert reader.receive() == b"last"
        with pytest.raises(EndOfStream):
            reader.receive()


def test_an_end_that_goes_while_an_exception_is_on_its_way(core: Any) -> None:
    """What unwinding drops unpins its buffer, and the exception comes out as it was."""
    segment = make_ring(core)
    pinned = core.statistics()["pinned_buffers"]

    def end(kind: Any, *arguments: Any) -> Any:
        made = kind(segment, *arguments)
        made.wait.release()
        return made

    for kind in (lambda: end(core.RingReader, 0, 1), lambda: end(core.RingWriter)):
        with pytest.raises(LookupError, match="mine"):
            (kind(), {}["mine"])
        assert core.statistics()["pinned_buffers"] == pinned
    segment.close()


def test_no_memory_loses_no_message() -> None:
    core = load_core("aiospin._native")
    testcapi = pytest.importorskip("_testcapi", reason="this Python was built without it")
    with ring(core) as (_, writer, reader):
        sent = [b"%d" % number + b"q" * 300 for number in range(5)]
        failed = 0
        for allocations in range(1, 12):
            for each in sent:
                assert writer.send(each)
            got: list[bytes] = []
            testcapi.set_nomemory(allocations, 0)
            try:
                got = reader.receive_many(100)
            except MemoryError:
                failed += 1
            finally:
                testcapi.remove_mem_hooks()
            assert got + reader.receive_many(100) == sent
        assert failed


def test_release_keeps_the_slot_and_the_ring_open(core: Any) -> None:
    """It unpins, no more: a forked child lets go of its copy without hanging up on anybody."""
    segment = make_ring(core)
    writer, reader = core.RingWriter(segment), core.RingReader(segment, 0, 1)
    writer.send(b"kept")
    writer.release()
    successor = core.RingWriter(segment)
    assert successor.sequence == 1
    assert successor.active_readers() == 1
    assert successor.send(b"more")
    assert reader.receive_many(5) == [b"kept", b"more"]
    reader.release()
    assert successor.active_readers() == 1
    successor.release()


@pytest.mark.parametrize("field", [0, 24, 28])  # position, length, kind
def test_a_corrupt_record_is_refused(two_cores: tuple[Any, Any], field: int) -> None:
    with ring(two_cores) as (segment, writer, reader):
        assert writer.send(b"good")
        record = core_data_offset(segment)
        struct.pack_into("I", segment, record + field, 0xFFFF_FFFF)
        for use in (reader.receive, reader.acquire, lambda: reader.receive_many(2)):
            with pytest.raises(LayoutError):
                use()
        assert reader.wait.look()


def core_data_offset(segment: mmap.mmap) -> int:
    offset: int = struct.unpack_from("Q", segment, HEADER["data_offset"][0])[0]
    return offset


@pytest.mark.parametrize("word", [64 * 5 + 4, 1 << 40, 3 << 62])
def test_a_corrupt_head_is_refused(two_cores: tuple[Any, Any], word: int) -> None:
    with ring(two_cores) as (segment, writer, reader):
        assert writer.send(b"good")
        struct.pack_into("Q", segment, CONTROL, word)
        assert reader.wait.look()
        with pytest.raises(LayoutError):
            reader.receive()


@pytest.mark.parametrize("field", [0, 8, 16])  # head, tail, sequence
def test_a_writer_takes_over_no_corrupt_ring(core: Any, field: int) -> None:
    segment = make_ring(core)
    struct.pack_into("Q", segment, CONTROL + field, 64 * 5 + 4)
    with pytest.raises(LayoutError):
        core.RingWriter(segment)
    segment.close()


@pytest.mark.parametrize("word", [2, 1 << 40, 3 << 62])
def test_a_corrupt_cursor_is_refused(two_cores: tuple[Any, Any], word: int) -> None:
    with ring(two_cores) as (segment, writer, reader):
        while writer.send(b"x" * 100):
            pass
        struct.pack_into("Q", segment, SLOTS, word)
        assert writer.wait.look()
        with pytest.raises(LayoutError):
            writer.send(b"x" * 100)
        writer.evict(reader.slot)
        assert writer.send(b"x" * 100)


@pytest.mark.parametrize("overflow", [BLOCK, DROP_OLDEST])
def test_a_writer_that_died_while_publishing(two_cores: tuple[Any, Any], overflow: int) -> None:
    """Between its stores of sequence and of head: nobody who comes later is misled."""
    with ring(two_cores, readers=1, overflow=overflow) as (segment, writer, reader):
        assert writer.send(b"one")
        struct.pack_into("Q", segment, CONTROL + 16, 2)
        late = two_cores[1].RingReader(segment, 1, 1)
        assert late.sequence == 1
        late.leave()
        late.release()
        successor = two_cores[0].RingWriter(segment)
        assert successor.sequence == 1
        assert successor.send(b"two")
        assert reader.receive_many(5) == [b"one", b"two"]
        successor.release()


@pytest.mark.parametrize("overflow", [BLOCK, DROP_OLDEST])
def test_parked_ends_wake_each_other(two_cores: tuple[Any, Any], overflow: int) -> None:
    """Writer and reader in threads, both parking: nothing is lost and nobody sleeps for ever."""
    writing, reading = two_cores
    count = 3000
    with ring(two_cores, overflow=overflow) as (_, writer, reader):

        def write() -> None:
            for number in range(count):
                data = message(number)
                while not writer.send(data):
                    await_end(writing, writer)
            writer.close()

        with running(write) as outcome:
            number = 0
            while True:
                try:
                    data = reader.receive()
                except LaggedError as lagged:
                    assert overflow == DROP_OLDEST
                    number += lagged.skipped
                    continue
                except EndOfStream:
                    break
                if data is None:
                    await_end(reading, reader)
                else:
                    assert data == message(number)
                    number += 1
            assert number == count
            assert outcome.get(timeout=30) is None


def test_processes_wake_each_other(two_cores: tuple[Any, Any]) -> None:
    """The same between processes: two readers, joined before anything was sent."""
    writing, reading = two_cores
    count = 2000
    segment = make_ring(writing)

    def read(slot: int) -> None:
        reader = reading.RingReader(segment, slot, os.getpid())
        number = 0
        while True:
            try:
                data = reader.receive()
            except EndOfStream:
                break
            if data is None:
                await_end(reading, reader)
            else:
                assert data == message(number)
                number += 1
        assert number == count

    children = [fork(lambda slot=slot: read(slot)) for slot in range(2)]
    writer = writing.RingWriter(segment)
    until(lambda: writer.active_readers() == 2)
    for number in range(count):
        while not writer.send(message(number)):
            await_end(writing, writer)
    writer.close()
    for pid in children:
        joined(pid)
    writer.release()
    segment.close()


def returns_at_once(words: Any) -> bool:
    """Sleeping on these words ends long before its deadline."""
    begin = pure.now_ns()
    pure_futex.wait(words, begin + LONG)
    return pure.now_ns() < begin + LONG // 2


@pytest.mark.skipif(not pure_futex.AVAILABLE, reason="the kernel has no futex, so nobody parks")
def test_a_publish_between_the_look_and_the_sleep_is_not_lost(core: Any) -> None:
    """The eventcount, step by step, whichever core notifies: one that prepared does not sleep."""
    with ring((core, pure)) as (_, writer, reader):
        for _ in range(3):
            notifies = core.statistics()["notifies"]
            words = reader.wait.watch.prepare()
            assert words == reader.wait.watch.prepare()
            assert not reader.wait.look()
            assert writer.send(b"x")
            assert core.statistics()["notifies"] == notifies + 1
            assert returns_at_once(words)
            assert writer.send(b"x")
            assert core.statistics()["notifies"] == notifies + 1, "nobody parks: no system call"
            assert len(reader.receive_many(5)) == 2


@pytest.mark.skipif(not pure_futex.WAITV_AVAILABLE, reason="the kernel has no futex_waitv")
@pytest.mark.parametrize("shift", [0, 31, 32, 63])
def test_a_store_between_the_look_and_the_sleep_is_not_lost(shift: int) -> None:
    """Also one to the half of a long word that the notify does not knock at."""
    data = memory(8)
    word = pure.Word(data, 0, 8, "u", False)
    with waiting(pure, data, program("ne", 0, dtype="Q"), True) as wait:
        words = wait.watch.prepare()
        assert not wait.look()
        word.store(1 << shift)
        assert returns_at_once(words)


def test_a_waiter_watches_rings(two_cores: tuple[Any, Any]) -> None:
    reading = two_cores[1]
    with (
        ring(two_cores, readers=2) as (_, writer, first, second),
        waiter_thread(reading) as (
            waiter,
            completions,
        ),
    ):
        submit(reading, waiter, first.wait, "first")
        submit(reading, waiter, second.wait, "second")
        with pytest.raises(RuntimeError, match="submitted"):
            first.release()
        assert waiter.cancel(second.wait)
        assert writer.send(b"x")
        assert completions.get(timeout=30) == ("first", reading.READY)
        assert first.receive() == second.receive() == b"x"


# ---- large messages, formats, batches, bells ----


class LargeFiles:
    """What a reader opens large messages with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = b"large"

    def open(self, sequence: int, position: int, length: int, copy: bool) -> Any:
        self.calls.append((sequence, position, length, copy))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer if copy or self.answer is None else memoryview(self.answer)

    def passed(self, oldest: int) -> None:
        self.calls.append((oldest,))


@contextmanager
def large_ring(
    cores: tuple[Any, Any], overflow: int, readers: int = 1
) -> Iterator[tuple[Any, ...]]:
    """A writer, and readers with what each opens large messages with."""
    writing, reading = cores
    segment = make_ring(writing, 4096, readers + 1, overflow)
    writer = writing.RingWriter(segment)
    ends = [writer]
    pairs = []
    for slot in range(readers):
        large = LargeFiles()
        reader = reading.RingReader(segment, slot, 1, large)
        ends.append(reader)
        pairs += [reader, large]
    try:
        yield (writer, *pairs)
    finally:
        for end in ends:
            end.release()
        segment.close()


def send_large(writer: Any, length: int, format: int = 0) -> int:
    """Publish the record of a large message; its position."""
    assert writer.claim_large() is True
    writer.publish_large(length, format)
    return int(writer.head) - 64


NOBODY = (1 << 64) - 1
OVERFLOWS = pytest.mark.parametrize("overflow", [BLOCK, DROP_OLDEST])


@OVERFLOWS
def test_large_messages_are_opened_and_passed(two_cores: tuple[Any, Any], overflow: int) -> None:
    with large_ring(two_cores, overflow, 2) as (writer, reader, large, other, _):
        assert writer.send(b"small")
        position = send_large(writer, 1 << 40, 3)
        assert reader.receive() == b"small"
        assert reader.peek() == 3
        assert reader.receive() == b"large"
        assert reader.format == 3
        assert large.calls == [(1, position, 1 << 40, True), (0,)]
        assert writer.oldest == reader.oldest == 0
        assert other.receive_many(9) == [b"small", b"large"]
        assert writer.oldest == reader.oldest == writer.head
        assert reader.receive() is None
        position = send_large(writer, 5000)
        large.calls.clear()
        view = reader.acquire()
        assert (bytes(view), view.readonly, reader.format) == (b"large", True, 0)
        with pytest.raises(BusyResourceError):
            reader.receive()
        view.release()
        reader.release_message()
        assert large.calls == [(2, position, 5000, False), (position,)]
        other.leave()
        reader.leave()
        assert writer.oldest == NOBODY or overflow == DROP_OLDEST


@OVERFLOWS
def test_a_large_message_that_cannot_be_opened(two_cores: tuple[Any, Any], overflow: int) -> None:
    """Whatever the reason, it is not lost, and neither is what lies before it."""
    with large_ring(two_cores, overflow) as (writer, reader, large):
        large.answer = OSError("no descriptors")
        for _ in range(2):
            assert writer.send(b"small")
            send_large(writer, 5000)
            assert reader.receive_many(9) == [b"small"]
            for use in (lambda: reader.receive_many(9), reader.receive, reader.acquire):
                with pytest.raises(OSError, match="no descriptors"):
                    use()
            large.answer, failing = b"by now", large.answer
            assert reader.receive() == b"by now"
            large.answer = failing
        large.answer = None  # gone, and nobody has gone past it
        send_large(writer, 5000)
        for use in (lambda: reader.receive_many(9), reader.receive, reader.acquire):
            with pytest.raises(LayoutError):
                use()
        large.answer = b"back"
        assert reader.receive() == b"back"


def test_what_passed_raises_comes_with_the_next_call(two_cores: tuple[Any, Any]) -> None:
    with large_ring(two_cores, BLOCK) as (writer, reader, large):

        def passed(oldest: int) -> None:
            raise KeyError(oldest)

        large.passed = passed
        for _ in range(2):
            send_large(writer, 5000)
            assert writer.send(b"behind it")
        assert reader.receive() == b"large"
        with pytest.raises(KeyError):
            reader.receive()
        assert reader.receive() == b"behind it"
        assert reader.receive_many(9) == [b"large"]
        with pytest.raises(KeyError):
            reader.receive_many(9)
        assert reader.receive_many(9) == [b"behind it"]


def test_a_lapped_large_message(two_cores: tuple[Any, Any]) -> None:
    with large_ring(two_cores, DROP_OLDEST) as (writer, reader, large):
        send_large(writer, 5000)
        end = writer.head
        assert writer.send(b"behind it")

        def gone(*_: Any) -> None:
            writer.drop_before(end)

        large.open = gone
        with pytest.raises(LaggedError) as lagged:
            reader.receive()
        assert lagged.value.skipped == 1
        assert writer.oldest == end
        assert reader.receive() == b"behind it"


def test_without_a_way_to_open(two_cores: tuple[Any, Any]) -> None:
    with ring(two_cores) as (_, writer, reader):
        send_large(writer, 5000)
        with pytest.raises(ValueError, match="way to open"):
            reader.receive()


def test_a_reader_that_leaves_while_it_opens(two_cores: tuple[Any, Any]) -> None:
    with large_ring(two_cores, BLOCK) as (writer, reader, large):

        def leaving(*_: Any) -> bytes:
            assert reader.lag == 1
            with pytest.raises(BusyResourceError):
                reader.receive()
            reader.leave()
            return b"too late"

        large.open = leaving
        send_large(writer, 5000)
        with pytest.raises(ClosedResourceError):
            reader.receive()


def test_the_writer_waits_for_a_position(two_cores: tuple[Any, Any]) -> None:
    with large_ring(two_cores, BLOCK, 2) as (writer, reader, _, other, _):
        send_large(writer, 5000)
        writer.want_past(writer.head)
        assert not writer.wait.look()
        reader.receive()
        assert not writer.wait.look()
        other.receive()
        assert writer.wait.look()


def test_large_claims(two_cores: tuple[Any, Any]) -> None:
    with large_ring(two_cores, BLOCK) as (writer, _, _):
        with pytest.raises(ValueError, match="claim"):
            writer.publish_large(5000, 0)
        assert writer.claim_large()
        for use in (writer.claim_large, lambda: writer.claim(1), lambda: writer.send(b"x")):
            with pytest.raises(BusyResourceError):
                use()
        writer.abandon()
        while writer.send(bytes(1000)):
            pass
        while writer.send(b""):
            pass
        assert writer.claim_large() is False
        for position in (0, 1 << 40):
            with pytest.raises(ValueError, match="drop_oldest"):
                writer.drop_before(position)


@OVERFLOWS
def test_formats(two_cores: tuple[Any, Any], overflow: int) -> None:
    with ring(two_cores, overflow=overflow) as (_, writer, reader):
        assert reader.peek() is None
        for number in range(4):
            assert writer.send_as(b"x", number)
            with writer.claim(1) as slot:
                slot[:] = b"y"
            writer.publish(number)
            for sent in (b"x", b"y"):
                assert reader.peek() == reader.peek() == number
                assert reader.receive() == sent
                assert reader.format == number
        assert writer.send(b"x")
        assert reader.peek() == 0
        for use in (lambda: writer.send_as(b"x", 4), lambda: writer.publish_large(1, 4)):
            with pytest.raises(ValueError, match="format"):
                use()
        assert writer.send_as(bytes(2049), 1) is None
        reader.leave()
        with pytest.raises(ClosedResourceError):
            reader.peek()


@OVERFLOWS
def test_send_many(two_cores: tuple[Any, Any], overflow: int) -> None:
    with ring(two_cores, overflow=overflow) as (_, writer, reader):
        sent = [b"a", bytearray(b"b"), memoryview(b"c"), b""]
        assert writer.send_many(sent, 0) == 4
        assert reader.receive_many(9) == sent
        assert writer.send_many(sent, 2) == 2
        assert writer.send_many(sent, 4) == writer.send_many([], 0) == 0
        assert reader.receive_many(9) == sent[2:]
        assert writer.send_many([b"x", bytes(2049), b"y"], 0) == 1  # it needs a file of its own
        assert writer.send_many([b"x", bytes(2049), b"y"], 1) == 0
        with pytest.raises(TypeError, match="bytes-like"):
            writer.send_many([b"x", "y"], 0)
        with pytest.raises(TypeError, match="list"):
            writer.send_many((b"x",), 0)
        assert writer.send_many([b"z", memoryview(b"gaps")[::2]], 0) == 1
        with pytest.raises(BufferError):
            writer.send_many([memoryview(b"gaps")[::2]], 0)
        assert reader.receive_many(9) == [b"x", b"z"]
        if overflow == BLOCK:
            count = writer.send_many([bytes(500)] * 20, 0)
            assert 0 < count < 20
            assert writer.send_many([bytes(500)], 0) == 0
            assert len(reader.receive_many(99)) == count


@OVERFLOWS
def test_lent_messages_go_with_the_next_call(two_cores: tuple[Any, Any], overflow: int) -> None:
    with large_ring(two_cores, overflow) as (writer, reader, large):
        for use in (reader.receive, lambda: reader.receive_many(9), reader.acquire, reader.peek):
            assert writer.send(b"message")
            send_large(writer, 5000)
            for expected in (b"message", b"large"):
                view = reader.acquire()
                reader.lend()
                assert view == expected
                view.release()
            assert not use()
            assert reader.lag == 0
            assert large.calls[-1] == (writer.head,)


def test_bells(two_cores: tuple[Any, Any], tmp_path: pathlib.Path) -> None:
    """A compiled writer rings; one in pure Python refuses, and the reader sleeps on the word."""
    writing, reading = two_cores
    segment = make_ring(writing)
    prefix = tmp_path / "bell-"
    os.mkfifo(f"{prefix}1")
    fifo = os.open(f"{prefix}1", os.O_RDONLY | os.O_NONBLOCK)
    writer, reader = writing.RingWriter(segment, str(prefix)), reading.RingReader(segment, 1, 1)
    try:
        assert reader.bell() == 0
        assert not reader.bell_park()
        reader.bell_request()
        assert reader.bell() == 1
        writer.send(b"x")
        assert reader.receive() == b"x"
        if writing is pure:
            assert reader.bell() == 4
            assert not reader.bell_park()
            return
        assert reader.bell() == 2
        assert reader.bell_park()
        assert reader.bell() == 3
        assert reader.bell_unpark()
        assert reader.bell() == 2
        assert reader.bell_park()
        with pytest.raises(BlockingIOError):
            os.read(fifo, 9)
        writer.send(b"y")
        assert reader.bell() == 2
        assert not reader.bell_unpark()
        assert len(os.read(fifo, 9)) == 1
        assert not reader.bell_park(), "there is something to receive"
        assert reader.bell() == 2
        writer.forget()
        assert os.read(fifo, 9) == b"", "the writer's end is closed"
    finally:
        os.close(fifo)
        for end in (writer, reader):
            end.release()
        segment.close()


# ---- the rest ----


def test_backends(core: Any) -> None:
    before = core.capabilities()
    assert set(before) == {"backend", "why", "line_bytes", "supported", "futex", "futex_waitv"}
    assert before["backend"] in before["supported"]
    with pytest.raises(ValueError, match=before["supported"][0]):
        core.select_backend("abacus")
    for name in ("auto", None, *before["supported"], before["backend"]):
        core.select_backend(name)
    assert core.capabilities()["backend"] == before["backend"]


def test_the_names_are_those_of_the_stub(core: Any) -> None:
    import ast

    import aiospin._predicate

    stub = pathlib.Path(aiospin._predicate.__file__).with_name("_native.pyi")
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if not node.target.id.startswith("_"):
                assert isinstance(getattr(core, node.target.id), int)
        elif isinstance(node, ast.FunctionDef):
            assert callable(getattr(core, node.name))
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            made = getattr(core, node.name)
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    assert hasattr(made, member.name), f"{node.name}.{member.name}"
