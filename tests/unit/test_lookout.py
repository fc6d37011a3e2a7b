"""What is looked after while nobody waits: no request to do so is lost."""

from __future__ import annotations

import gc

from support import until

import aiospin
from aiospin._lookout import Lookout

PERIOD_NS = 1_000_000


def test_a_request_while_it_looks_for_the_last_time() -> None:
    looks: list[str] = []

    def look() -> bool:
        looks.append("look")
        if len(looks) == 1:
            lookout.begin()  # as another thread may, when the answer is known already
        return False

    lookout = Lookout(look, PERIOD_NS)
    lookout.begin()
    until(lambda: len(looks) == 2)
    lookout.end()


def test_a_replacement_while_it_looks_for_the_last_time() -> None:
    looks: list[str] = []

    def first() -> bool:
        looks.append("first")
        lookout.replace(second)
        return False

    def second() -> bool:
        looks.append("second")
        return len(looks) < 3

    lookout = Lookout(first, PERIOD_NS)
    lookout.begin()
    until(lambda: looks == ["first", "second", "second"])
    lookout.end()


def test_it_goes_on_when_its_owner_is_gone() -> None:
    looks: list[str] = []

    def look() -> bool:
        looks.append("look")
        return len(looks) < 3

    lookout = Lookout(look, PERIOD_NS)
    lookout.begin()
    del lookout
    gc.collect()
    until(lambda: len(looks) == 3)


def test_it_holds_nothing_when_it_looks_no_more() -> None:
    before = aiospin.statistics().pinned_buffers
    answers = [True, False, True, False]
    lookout = Lookout(lambda: answers.pop(0), PERIOD_NS)
    for left in (2, 0):
        lookout.begin()
        until(lambda left=left: len(answers) == left)
        until(lambda: aiospin.statistics().pinned_buffers == before)
    lookout.end()
