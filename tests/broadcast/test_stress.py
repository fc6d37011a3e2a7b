"""Longer streams of numbered, checksummed messages: nothing is lost, torn or out of order, and nobody starves."""

from __future__ import annotations

import random
import threading

import pytest
from broadcast_support import Child, make_message, number_of, numbered, pair, scaled
from support import running

import aiospin
from aiospin import BroadcastReader, WaitPolicy

JOIN_AND_LEAVE = """
import random
from broadcast_support import number_of
choose = random.Random(int(sys.argv[2]))
name, last = sys.argv[1], int(sys.argv[3])
joins = total = 0
expected = None
tell("ready")
while True:
    try:
        reader = BroadcastReader.attach(name)
    except FileNotFoundError:
        break
    joins += 1
    with reader:
        stay = choose.randrange(1, 20_000)
        expected = None
        try:
            while stay > 0:
                form = choose.randrange(3)
                if form == 0:
                    numbers = [number_of(reader.receive_sync())]
                elif form == 1:
                    with reader.acquire_read() as view:
                        numbers = [number_of(view)]
                else:
                    numbers = [number_of(m) for m in reader.receive_many_sync(choose.randrange(1, 300))]
                for number in numbers:
                    assert expected in (None, number), (expected, number)
                    expected = number + 1
                stay -= len(numbers)
                total += len(numbers)
        except aiospin.EndOfStream:
            assert expected in (None, last), (expected, last)
            break
tell(joins, total)
"""


@pytest.mark.slow
def test_readers_that_join_and_leave():
    count = scaled(200_000, 8_000)
    choose = random.Random(20261122)
    bodies = [choose.randbytes(choose.randrange(600)) for _ in range(1000)]
    writer, _ = pair(1 << 16, readers=0)
    children = [Child(JOIN_AND_LEAVE, writer.name, seed, count) for seed in range(3)]
    with children[0], children[1], children[2]:
        with writer:
            for child in children:
                child.expect("ready")
            writer.wait_for_readers_sync(3)
            for number in range(count):
                writer.send_sync(numbered(number, bodies[number % 1000]))
        for child in children:
            joins, total = map(int, child.finish().split())
            assert joins >= 1
            assert total > 0


def test_more_spinning_readers_than_cores():
    """Six readers that spin through gaps of 20 ms, on however few cores, and the writer still gets its turn."""
    count = scaled(2_000, 300)
    writer, _ = pair(4096, readers=0)
    policy = WaitPolicy.latency()
    readers = [BroadcastReader.attach(writer.handle, policy=policy) for _ in range(6)]

    def read(reader: BroadcastReader) -> list[int]:
        with reader:
            return [int.from_bytes(message, "little") for message in reader.iter_sync()]

    outcomes = [running(lambda reader=reader: read(reader)) for reader in readers]
    entered = [outcome.__enter__() for outcome in outcomes]
    with writer:
        for number in range(count):
            writer.send_sync(number.to_bytes(4, "little"))
    assert all(outcome.get() == list(range(count)) for outcome in entered)


SPIN = """
with BroadcastReader.attach(sys.argv[1], policy=aiospin.WaitPolicy.latency()) as reader:
    tell("attached")
    tell(sum(1 for _ in reader.iter_sync()))
"""


def test_more_spinning_processes_than_cores():
    count = scaled(2_000, 500)
    writer, _ = pair(4096, readers=0)
    children = [Child(SPIN, writer.name) for _ in range(6)]
    try:
        with writer:
            for child in children:
                child.expect("attached")
            for number in range(count):
                writer.send_sync(number.to_bytes(4, "little"))
        assert [child.finish() for child in children] == [f"{count}\n"] * 6
    finally:
        for child in children:
            child.__exit__()


def test_readers_on_every_loop_in_threads(run):
    """The writer in one thread, a reader on a loop, blocking readers beside it."""
    count = scaled(5_000, 500)

    async def main():
        writer, [awaits, blocks] = pair(8192, readers=2)
        async with awaits:
            with blocks:

                def write():
                    with writer:
                        for number in range(count):
                            writer.send_sync(make_message(number, number % 200))

                with (
                    running(write),
                    running(lambda: [number_of(m) for m in blocks.iter_sync()]) as outcome,
                ):
                    numbers = [number_of(m) async for m in awaits]
                assert numbers == outcome.value == list(range(count))

    run(main)


def test_attach_and_leave_against_a_writer_at_full_speed():
    """Join races: whoever attaches sees an unbroken stream from there."""
    writer, _ = pair(4096, readers=0)
    done = threading.Event()

    def write():
        number = 0
        while not done.is_set():
            try:
                writer.send_sync(number.to_bytes(8, "little"), timeout=1)
            except TimeoutError:
                continue
            number += 1

    with writer, running(write):
        try:
            for _ in range(scaled(300, 40)):
                with BroadcastReader.attach(writer.handle) as reader:
                    first = reader.statistics().sequence
                    got = [int.from_bytes(reader.receive_sync(10), "little") for _ in range(5)]
                    assert got == list(range(first, first + 5))
        finally:
            done.set()
    assert aiospin.statistics().live_tickets == 0
