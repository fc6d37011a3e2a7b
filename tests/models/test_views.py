"""The explorer itself: the classic litmus tests have the outcomes that C11 gives them."""

from __future__ import annotations

from typing import Any

import pytest
from models.views import Fence, Load, Model, Store, Thread, Update


def outcomes(locations: dict[str, int], *programs: tuple[Any, ...]) -> set[tuple[int, ...]]:
    """What the loads may come to, each thread's values in the order of their names."""
    found: set[tuple[int, ...]] = set()

    def note(end: Any) -> None:
        found.add(tuple(value for known in end.known.values() for value in known.values()))

    threads = [Thread(f"t{number}", program) for number, program in enumerate(programs)]
    Model(locations, threads, note).explore()
    return found


@pytest.mark.parametrize("fenced", [False, True])
def test_store_buffering(fenced: bool) -> None:
    """Each stores, and then loads what the other stores: with fences one of them sees it (Dekker)."""
    fence = (Fence(),) if fenced else ()
    found = outcomes(
        {"x": 0, "y": 0},
        (Store("x", 1), *fence, Load("y", "a")),
        (Store("y", 1), *fence, Load("x", "a")),
    )
    assert found == {(0, 1), (1, 0), (1, 1)} | ({(0, 0)} if not fenced else set())


@pytest.mark.parametrize("release", [False, True])
@pytest.mark.parametrize("acquire", [False, True])
def test_message_passing(release: bool, acquire: bool) -> None:
    found = outcomes(
        {"data": 0, "flag": 0},
        (Store("data", 1), Store("flag", 1, release=release)),
        (Load("flag", "a", acquire=acquire), Load("data", "b")),
    )
    assert ((1, 0) in found) == (not (release and acquire))
    assert found >= {(0, 0), (0, 1), (1, 1)}


def test_updates_are_never_lost() -> None:
    add = Update("x", lambda old, known: old + 1)
    found = outcomes({"x": 0}, (add,), (add,))
    # the threads also know that their update did not fail
    assert found == {(0, 0, 0, 1), (0, 1, 0, 0)}


def test_an_update_is_no_fence() -> None:
    """Which is why asp_park_prepare has one after its fetch-or."""
    add = Update("x", lambda old, known: old + 1)
    other = Update("y", lambda old, known: old + 1)
    found = outcomes(
        {"x": 0, "y": 0},
        (add, Load("y", "seen")),
        (other, Load("x", "seen")),
    )
    assert (0, 0, 0, 0, 0, 0) in found
