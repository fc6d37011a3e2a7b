"""Parking (csrc/core/park.h) and doorbells: no wake is lost, whoever is killed where; and the model would notice.

Each mutant takes one step away or moves it. One that the explorer finds nothing wrong with would show that
the model does not cover that step.
"""

from __future__ import annotations

from typing import Any

import pytest
from models.views import (
    Fence,
    Forget,
    Instruction,
    Jump,
    Label,
    Let,
    Load,
    Model,
    Sleep,
    Store,
    Thread,
    Update,
    Violation,
    Wake,
)

SLEEPER, BELL, STEP = 1, 2, 4  # of the park word
READY, PARKED = 2, 3  # of a bell


def publish(number: int, mutant: str, bells: int) -> list[Instruction]:
    """asp_ring_publish: store, then asp_park_notify."""
    end = f"published {number}"
    step = 0 if mutant == "the count stands still" else STEP
    store: list[Instruction] = [Store("head", number, release=True)]
    notify: list[Instruction] = [
        *([] if mutant == "notify without a fence" else [Fence()]),
        Load("word", "seen"),
        Label(f"again {number}"),
        Jump(end, lambda known: not known["seen"] & (SLEEPER | BELL)),
    ]
    if mutant == "the word is not changed":
        notify.append(Let("failed", 0))
    else:
        notify += [
            Update(
                "word",
                lambda old, known: (known["seen"] & ~(SLEEPER | BELL)) + step,
                when=lambda old, known: old == known["seen"],
            ),
        ]
    notify += [
        Jump(f"cleared {number}", lambda known: not known["failed"]),
        Let("seen", lambda known: known["old"]),
        Jump(f"again {number}"),
        Label(f"cleared {number}"),
        Jump(f"bells {number}", lambda known: not known["seen"] & SLEEPER),
        Wake("word"),
        Label(f"bells {number}"),
        Jump(end, lambda known: not known["seen"] & BELL),
    ]
    for slot in range(bells):
        bell, fifo, skip = f"bell{slot}", f"fifo{slot}", f"skip {slot} {number}"
        notify += [
            Load(bell, "bell", acquire=True),
            Jump(skip, lambda known: known["bell"] != PARKED),
            Update(bell, lambda old, known: READY, when=lambda old, known: old == PARKED),
            Jump(skip, lambda known: bool(known["failed"])),
            Update(fifo, lambda old, known: old + 1),
            Wake(fifo),
            Label(skip),
        ]
    if mutant == "notified before it is published":
        return [*notify, Label(end), Forget(), *store]
    return [*store, *notify, Label(end), Forget()]


def writer(messages: int, mutant: str, bells: int = 0) -> Thread:
    program = [step for n in range(messages) for step in publish(n + 1, mutant, bells)]
    return Thread("writer", tuple(program))


def look(messages: int) -> list[Instruction]:
    return [
        Label("look"),
        Forget(),
        Load("head", "head", acquire=True),
        Jump("end", lambda known: known["head"] == messages),
    ]


def sleeper(name: str, messages: int, mutant: str, mortal: bool = False) -> Thread:
    """One who waits for the last message on the word: prepare, look, sleep."""
    prepare: list[Instruction] = [
        Update("word", lambda old, known: old | SLEEPER),
        Let("expected", lambda known: known["old"] | SLEEPER),
        *([] if mutant == "prepare without a fence" else [Fence()]),
    ]
    again: list[Instruction] = [
        Load("head", "head", acquire=True),
        Jump("end", lambda known: known["head"] == messages),
    ]
    if mutant == "no second look":
        steps = prepare
    elif mutant == "the look comes before prepare":
        steps = again + prepare
    else:
        steps = prepare + again
    program = (*look(messages), *steps, Sleep("word", lambda known: known["expected"]))
    return Thread(name, (*program, Jump("look"), Label("end")), mortal)


def on_bell(slot: int, messages: int, mutant: str, mortal: bool = False) -> Thread:
    """One who waits for it in the poll of a loop: asp_ring_bell_park, poll, asp_ring_bell_unpark."""
    bell, fifo = f"bell{slot}", f"fifo{slot}"
    park: list[Instruction] = [
        Update(bell, lambda old, known: PARKED, when=lambda old, known: old == READY),
        Update("word", lambda old, known: old | BELL),
    ]
    if mutant != "park without a fence":
        park.append(Fence())
    again: list[Instruction] = [
        Load("head", "head", acquire=True),
        Jump("unpark", lambda known: known["head"] == messages),
    ]
    if mutant == "no second look":
        again = []
    program = (
        *look(messages),
        *park,
        *again,
        Sleep(fifo, 0),
        Update(fifo, lambda old, known: 0, relaxed=True),  # read() takes the rings out
        Label("unpark"),
        Update(bell, lambda old, known: READY, when=lambda old, known: old == PARKED),
        Jump("look"),
        Label("end"),
    )
    return Thread(f"on bell {slot}", program, mortal)


def on_loop(slot: int, messages: int, mutant: str) -> Thread:
    """The same where rings stay in the FIFO until the poll tells of them again: AsyncioLoop._rung."""
    bell, fifo = f"bell{slot}", f"fifo{slot}"
    rung: list[Instruction] = [
        Load(bell, "bell", acquire=True),
        Jump("look", lambda known: known["bell"] != PARKED),
    ]
    program = (
        *look(messages),
        Update(bell, lambda old, known: PARKED, when=lambda old, known: old == READY),
        Update("word", lambda old, known: old | BELL),
        Fence(),
        Load("head", "head", acquire=True),
        Jump("unpark", lambda known: known["head"] == messages),
        Label("poll"),
        Sleep(fifo, 0),
        *rung,
        # Unlike above this relies on the lock of a pipe, which write() and read() both take.
        Update(fifo, lambda old, known: 0),
        *([] if mutant == "not asked after the drain" else rung),
        Jump("poll"),
        Label("unpark"),
        Update(bell, lambda old, known: READY, when=lambda old, known: old == PARKED),
        Jump("look"),
        Label("end"),
    )
    return Thread(f"on bell {slot}", program)


def nobody_sleeps(end: Any) -> str | None:
    return f"{sorted(end.asleep)} sleep for ever" if end.asleep else None


def explore(*threads: Thread, deaths: int = 1) -> int:
    bells = sum(thread.name.startswith("on bell") for thread in threads)
    locations = {"head": 0, "word": 0}
    for slot in range(bells):
        locations |= {f"bell{slot}": READY, f"fifo{slot}": 0}
    return Model(locations, list(threads), nobody_sleeps, deaths).explore()


@pytest.mark.parametrize("messages", [1, 2, 3])
def test_one_sleeper(messages: int) -> None:
    assert explore(writer(messages, ""), sleeper("a", messages, "")) > 10


def test_two_sleepers() -> None:
    assert explore(writer(1, ""), sleeper("a", 1, ""), sleeper("b", 1, "")) > 100


def test_a_sleeper_that_is_killed_takes_nobodys_wake() -> None:
    explore(writer(1, ""), sleeper("a", 1, ""), sleeper("b", 1, "", mortal=True))


@pytest.mark.parametrize("messages", [1, 2])
def test_a_bell(messages: int) -> None:
    explore(writer(messages, "", bells=1), on_bell(0, messages, ""))


@pytest.mark.parametrize("messages", [1, 2, 3])
def test_a_bell_that_is_drained_late(messages: int) -> None:
    explore(writer(messages, "", bells=1), on_loop(0, messages, ""))


def test_a_bell_that_is_drained_and_not_asked_after_is_caught() -> None:
    with pytest.raises(Violation, match="sleep for ever"):
        explore(writer(3, "", bells=1), on_loop(0, 3, "not asked after the drain"))


def test_a_bell_and_a_sleeper() -> None:
    explore(writer(1, "", bells=1), on_bell(0, 1, ""), sleeper("a", 1, "", mortal=True))


def test_two_bells_of_which_one_is_killed() -> None:
    explore(writer(1, "", bells=2), on_bell(0, 1, ""), on_bell(1, 1, "", mortal=True))


@pytest.mark.parametrize(
    "mutant",
    [
        "notify without a fence",
        "prepare without a fence",
        "no second look",
        "the look comes before prepare",
        "notified before it is published",
        "the word is not changed",
        "the count stands still",
    ],
)
def test_a_mutant_of_parking_is_caught(mutant: str) -> None:
    with pytest.raises(Violation, match="sleep for ever"):
        explore(writer(1, mutant), sleeper("a", 1, mutant), sleeper("b", 1, mutant))


@pytest.mark.parametrize(
    "mutant",
    ["notify without a fence", "park without a fence", "no second look"],
)
def test_a_mutant_of_the_bell_is_caught(mutant: str) -> None:
    with pytest.raises(Violation, match="sleep for ever"):
        explore(writer(1, mutant, bells=1), on_bell(0, 1, mutant))
