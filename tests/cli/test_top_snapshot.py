"""A look at a segment from outside: every number, every reason to refuse, and never anything else."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from segment_support import CLOSED, FIELDS, JOINING, PARKED_ON_BELL, Forged, Slot, forge

import aiospin
from aiospin import _snapshot


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "segment"


def read(path: Path) -> _snapshot.Snapshot:
    fd = os.open(path, os.O_RDONLY)
    try:
        return _snapshot.read(fd)
    finally:
        os.close(fd)


def test_an_empty_one(path: Path) -> None:
    found = read(forge(path))
    assert found == _snapshot.Snapshot(
        header=found.header,
        closed=False,
        writer_parked=False,
        head=0,
        messages=0,
        used=0,
        readers=(),
    )
    assert (found.header.capacity, found.header.max_readers, found.header.writer_pid) == (
        4096,
        4,
        4241,
    )


def test_readers_and_how_far_they_are(path: Path) -> None:
    slots = {
        0: Slot(cursor=1280, sequence=15, pid=100, parked=1),
        2: Slot(cursor=640, sequence=5, pid=102, bell=PARKED_ON_BELL),
        3: Slot(cursor=0 | JOINING, sequence=77, pid=103, bell=2),
    }
    found = read(forge(path, head=1280, messages=15, slots=slots))
    assert found.readers == (
        _snapshot.ReaderSnapshot(0, 100, False, "word", 1280, 15, 0, 0),
        _snapshot.ReaderSnapshot(2, 102, False, "bell", 640, 5, 10, 640),
        _snapshot.ReaderSnapshot(3, 103, True, None, 0, 77, 0, 0),
    )
    assert (found.messages, found.head, found.used) == (15, 1280, 640)


def test_lossy_holds_what_was_not_overwritten_whoever_reads(path: Path) -> None:
    slots = {1: Slot(cursor=64, sequence=1)}
    found = read(forge(path, overflow=1, head=8192, tail=5120, messages=100, slots=slots))
    assert found.used == 3072
    assert (found.readers[0].lag_messages, found.readers[0].lag_bytes) == (99, 8128)


def test_the_writer_between_its_stores_of_sequence_and_head(path: Path) -> None:
    data = Forged(head=640, messages=7).data()
    data[128 + 16] = 8  # the sequence; the flag in head still says odd
    path.write_bytes(data)
    assert read(path).messages == 7


def test_closed_and_parked(path: Path) -> None:
    assert read(forge(path, flags=CLOSED)).closed
    assert read(forge(path, writable=5)).writer_parked
    assert not read(forge(path, writable=4)).writer_parked


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"header": {"magic": 0}}, "magic is 0"),
        ({"header": {"byte_order": 0x04030201}}, "other byte order"),
        ({"header": {"byte_order": 1}}, "byte_order is 0x1"),
        ({"header": {"magic": 5}}, "magic is 0x5"),
        ({"header": {"version": 3}}, "version is 0x3"),
        ({"header": {"header_bytes": 88}}, "header_bytes"),
        ({"header": {"line_bytes": 64}}, "line_bytes"),
        ({"header": {"capacity": 4095}}, "capacity is 4095"),
        ({"header": {"capacity": 1 << 47}}, "capacity is"),
        ({"header": {"max_readers": 0}}, "max_readers is 0"),
        ({"header": {"max_readers": 1025}}, "max_readers is 1025"),
        ({"header": {"overflow": 2}}, "overflow is 2"),
        ({"header": {"id": 0}}, "id is 0"),
        ({"header": {"total_bytes": 1 << 62}}, "it was truncated"),
        ({"header": {"writer_offset": 0}}, "writer_offset is 0"),
        ({"header": {"writer_offset": 129}}, "writer_offset is 129"),
        ({"header": {"readers_offset": 384}}, "readers_offset is 384"),
        ({"header": {"data_offset": 1 << 63}}, "data_offset is"),
        ({"flags": 4}, "head is 0x4"),
        ({"messages": 1}, "sequence is 1"),
        ({"slots": {1: Slot(state=2)}}, "reader slot 1 has state 2"),
        ({"slots": {1: Slot(cursor=2)}}, "the cursor of reader slot 1 is 0x2"),
        ({"slots": {1: Slot(cursor=64)}}, "the cursor of reader slot 1 is 64, ahead of head, 0"),
        ({"slots": {1: Slot(sequence=2)}}, "the sequence of reader slot 1 is 2, of 0 messages"),
    ],
)
def test_what_is_not_as_the_layout_says_is_named(
    path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(aiospin.LayoutError, match=reason):
        read(forge(path, **options))


@pytest.mark.parametrize("nbytes", [0, 1, 95, 96, 511, 1023])
def test_a_truncated_file_is_an_error_and_no_sigbus(path: Path, nbytes: int) -> None:
    path.write_bytes(Forged().data()[:nbytes])
    with pytest.raises(aiospin.LayoutError, match=r"bytes|truncated"):
        read(path)


def test_no_bytes_make_it_fail_otherwise() -> None:
    chance = random.Random(11)
    whole = Forged(
        head=640, messages=7, slots={0: Slot(cursor=64, sequence=1), 3: Slot(640, 7)}
    ).data()
    places = [offset for offset, _ in FIELDS.values()]
    places += [128, 136, 144, 384, *range(512, 544), *range(896, 928)]
    refused = 0
    fd = os.memfd_create("segment")
    for _ in range(2000):
        data = whole[:]
        for _ in range(chance.randint(1, 3)):
            data[chance.choice(places) + chance.randrange(4)] = chance.choice((0, 1, 64, 128, 255))
        os.pwrite(fd, data, 0)
        try:
            found = _snapshot.read(fd)
        except aiospin.LayoutError:
            refused += 1
        else:
            assert 0 <= found.used <= found.header.capacity
            assert all(reader.lag_bytes >= 0 <= reader.lag_messages for reader in found.readers)
    assert 0 < refused < 2000
    os.close(fd)
