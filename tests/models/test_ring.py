"""The ring (csrc/core/ring.h): what a reader gets is what was published, whole and in order, while others join, leave
and lap; and the model would notice.

A record is two words here, both of which hold the number of the message, so a torn one shows. The area has
room for CAPACITY records, and positions count records. What the models do not show: that a reader's load
is not delayed beyond its release (no load of a model sees a value yet to be stored); that is an acquire-release
pair between two threads, for the litmus programs on hardware (tests/native/test_ring_litmus.c).
"""

from __future__ import annotations

from typing import Any

import pytest
from models.views import (
    AcquireFence,
    Check,
    Fence,
    Forget,
    Instruction,
    Jump,
    Label,
    Let,
    Load,
    Model,
    ReleaseFence,
    Store,
    Thread,
    Violation,
)

CAPACITY = 1
FREE, ACTIVE = 0, 1


def record(number: int, value: int) -> list[Instruction]:
    cell = number % CAPACITY
    return [Store(f"low{cell}", value), Store(f"high{cell}", value)]


def whole(known: dict[str, int]) -> bool:
    return known["low"] == known["high"] == known["cursor"] + 1


TORN = Check(whole, "a message that was overwritten or is torn was delivered")


def read(cell: int = 0) -> list[Instruction]:
    return [Load(f"low{cell}", "low"), Load(f"high{cell}", "high")]


# ---- block mode: the writer asks the readers, one of which joins ----


def asking_writer(messages: int, mutant: str) -> Thread:
    """asp_ring_claim and asp_ring_publish. Gives up where there is no room."""
    program: list[Instruction] = [Let("limit", 0)]
    for number in range(messages):
        program += [
            Jump(f"room {number}", lambda known, number=number: number < known["limit"]),
            *([] if mutant == "asks without a fence" else [Fence()]),
            Load("state", "state", acquire=True),
            Let("limit", number + CAPACITY),
            Jump(f"room {number}", lambda known: known["state"] == FREE),
            Load("cursor", "cursor", acquire=True),
            Let("limit", lambda known: known["cursor"] + CAPACITY),
            Jump("end", lambda known, number=number: number >= known["limit"]),
            Label(f"room {number}"),
            *record(number, number + 1),
            Store("head", number + 1, release=mutant != "head is stored relaxed"),
        ]
    return Thread("writer", (*program, Label("end")))


def joining_reader(messages: int, mutant: str, mortal: bool = False) -> Thread:
    """asp_ring_join, and then asp_ring_acquire and asp_ring_release until all was read."""
    activate: list[Instruction] = [Store("state", ACTIVE, release=True)]
    settle: list[Instruction] = [
        *([] if mutant == "joins without a fence" else [Fence()]),
        Load("head", "head", acquire=True),
    ]
    join = settle + activate if mutant == "looks at head before it joins" else activate + settle
    move_up: list[Instruction] = [
        Let("cursor", lambda known: known["head"]),
        Store("cursor", lambda known: known["head"], release=True),
    ]
    acquire = mutant != "head is loaded relaxed"
    program: list[Instruction] = [
        Load("head", "head"),
        Let("cursor", lambda known: known["head"]),
        Store("cursor", lambda known: known["cursor"]),
        *join,
        *move_up,
        Label("next"),
        Jump("end", lambda known: known["cursor"] == messages),
        Load("head", "head", acquire=acquire),
        Jump("next", lambda known: known["head"] == known["cursor"]),
        *read(),
        TORN,
        Let("cursor", lambda known: known["cursor"] + 1),
        Store("cursor", lambda known: known["cursor"], release=True),
        Jump("next"),
        Label("end"),
    ]
    return Thread("reader", tuple(program), mortal)


def explore_block(messages: int, mutant: str = "", mortal: bool = False) -> int:
    locations = {"head": 0, "state": FREE, "cursor": 0, "low0": 0, "high0": 0}
    threads = [asking_writer(messages, mutant), joining_reader(messages, mutant, mortal)]
    return Model(locations, threads, lambda end: None).explore()


@pytest.mark.parametrize("messages", [1, 2, 3])
def test_a_reader_joins_while_the_writer_asks(messages: int) -> None:
    assert explore_block(messages) > 10


def test_a_joining_reader_is_killed_at_any_step() -> None:
    explore_block(2, mortal=True)


@pytest.mark.parametrize(
    "mutant",
    [
        "asks without a fence",
        "joins without a fence",
        "looks at head before it joins",
        "head is stored relaxed",
        "head is loaded relaxed",
    ],
)
def test_a_mutant_of_joining_is_caught(mutant: str) -> None:
    with pytest.raises(Violation, match="overwritten or is torn"):
        explore_block(3, mutant)


# ---- drop_oldest: the writer announces what it overwrites, the reader copies and then looks ----


def lapping_writer(messages: int, mutant: str) -> Thread:
    program: list[Instruction] = []
    for number in range(messages):
        announce: list[Instruction] = []
        if number >= CAPACITY:
            announce = [
                Store("tail", number - CAPACITY + 1, release=mutant != "tail is stored relaxed"),
                *([] if mutant == "announces without a fence" else [ReleaseFence()]),
            ]
        overwrite = record(number, number + 1)
        if mutant == "overwrites before it announces":
            program += overwrite + announce
        else:
            program += announce + overwrite
        program.append(Store("head", number + 1, release=mutant != "head is stored relaxed"))
    return Thread("writer", tuple(program))


def lapped_reader(messages: int, mutant: str) -> Thread:
    """asp_ring_copy: copy, fence, tail; a lapped reader goes on at tail."""
    check: list[Instruction] = [
        *([] if mutant == "looks at tail without a fence" else [AcquireFence()]),
        Load("tail", "tail"),
        Jump("lapped", lambda known: known["tail"] > known["cursor"]),
    ]
    if mutant == "does not look at tail again":
        check = []
    early = mutant == "looks at tail before it copies"
    copy = check + read() if early else read() + check
    program: list[Instruction] = [
        Let("cursor", 0),
        Label("next"),
        Jump("end", lambda known: known["cursor"] == messages),
        Load("head", "head", acquire=mutant != "head is loaded relaxed"),
        Jump("next", lambda known: known["head"] <= known["cursor"]),
        *copy,
        TORN,
        Let("cursor", lambda known: known["cursor"] + 1),
        Jump("next"),
        Label("lapped"),
        Load("tail", "cursor", acquire=mutant != "tail is loaded relaxed"),
        Load("head", "head", acquire=True),
        Check(lambda known: known["cursor"] <= known["head"], "a healthy segment is refused"),
        Jump("next"),
        Label("end"),
        Forget(),
    ]
    return Thread("reader", tuple(program))


def explore_lossy(messages: int, mutant: str = "") -> int:
    locations = {"head": 0, "tail": 0, "low0": 0, "high0": 0}
    threads = [lapping_writer(messages, mutant), lapped_reader(messages, mutant)]
    return Model(locations, threads, lambda end: None).explore()


@pytest.mark.parametrize("messages", [1, 2, 3])
def test_a_lapped_reader_gets_nothing_torn(messages: int) -> None:
    assert explore_lossy(messages) > 10


@pytest.mark.parametrize(
    "mutant",
    [
        "announces without a fence",
        "overwrites before it announces",
        "looks at tail without a fence",
        "does not look at tail again",
        "looks at tail before it copies",
        "head is stored relaxed",
        "head is loaded relaxed",
    ],
)
def test_a_mutant_of_lapping_is_caught(mutant: str) -> None:
    with pytest.raises(Violation, match="overwritten or is torn"):
        explore_lossy(3, mutant)


@pytest.mark.parametrize("mutant", ["tail is stored relaxed", "tail is loaded relaxed"])
def test_a_mutant_of_going_to_tail_is_caught(mutant: str) -> None:
    with pytest.raises(Violation, match="a healthy segment is refused"):
        explore_lossy(3, mutant)


def test_what_the_explorer_says_of_a_violation() -> None:
    with pytest.raises(Violation) as caught:
        explore_lossy(2, "does not look at tail again")
    text: Any = str(caught.value)
    assert "writer: Store(location='tail'" in text  # the steps that lead there
