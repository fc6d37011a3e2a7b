"""The eventcount of csrc/core/park.h, lossless between this process and compiled ones.

Bit 0 of the word says that somebody may be parked, bit 1 that somebody wants to be woken
otherwise, the other bits count the wakes. Both sides change the word with the kernel's atomic
operations (see _futex), so it only grows: a plain load and store from Python could bring an old
count back, and a sleeper elsewhere would miss its wake.
"""

from __future__ import annotations

from typing import Final, final

from . import _futex
from ._buffer import fence, load
from ._tally import count

SLEEPER: Final = 1
BELL: Final = 2
STEP: Final = 4  # one wake


@final
class EventCount:
    """One word, which is element ``index`` of ``words`` and lies at ``address``."""

    __slots__ = ("_address", "_index", "_words")

    def __init__(self, words: memoryview, index: int, address: int) -> None:
        self._words = words
        self._index = index
        self._address = address

    def prepare(self) -> list[_futex.Word]:
        """Announce a park: look once more, then sleep on what this returned."""
        if not _futex.AVAILABLE:
            return []
        while True:
            seen = load(self._words, self._index)
            if (
                seen & SLEEPER
            ):  # a notifier that comes now changes the word: no need to set it again
                return [_futex.Word(self._address, seen)]
            _futex.set_bits(self._address, SLEEPER)

    def prepare_bell(self) -> None:
        """Announce a park that is not a sleep on the word: look once more."""
        if _futex.AVAILABLE:
            _futex.set_bits(self._address, BELL)
        fence()  # pairs with the one in notify

    def notify(self) -> bool:
        """Wake who is parked, after the state was changed. Costs no system call when nobody is. True: who
        wants to be woken otherwise has to be looked for.

        The kernel has no compare-and-exchange, so the flags are cleared first and the wake is
        counted after that. Who parks in between is woken for nothing; the other way round the bit
        of somebody asleep could be cleared. Bit 1 may have come just before it was cleared, so
        what was seen of it means nothing.
        """
        fence()  # the state's store before the load of the word: pairs with prepare's atomic or
        if self._words[self._index] & (SLEEPER | BELL) and _futex.AVAILABLE:
            _futex.clear_bits(self._address, SLEEPER | BELL)
            _futex.add_and_wake(self._address, STEP)
            count("notifies")
            return True
        count("elided")
        return False
