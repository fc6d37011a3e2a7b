"""The eventcount of csrc/core/park.h, lossless between this process and compiled ones.

Bit 0 of the word says that somebody may be parked, the other bits count the wakes. Both sides
change the word with the kernel's atomic operations (see _futex), so it only grows: a plain load
and store from Python could bring an old count back, and a sleeper elsewhere would miss its
wake.
"""

from __future__ import annotations

from typing import final

from . import _futex
from ._buffer import fence, load
from ._tally import count


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
            if seen & 1:  # a notifier that comes now changes the word: no need to set the bit again
                return [_futex.Word(self._address, seen)]
            _futex.or_one(self._address)

    def notify(self) -> None:
        """Wake who is parked, after the state was changed. Costs no system call when nobody is.

        Two notifiers at once may both add: that sets the bit with nobody parked, which costs
        the next one a system call and loses nothing, because each wakes after it added.
        """
        fence()  # the state's store before the load of the word: pairs with prepare's atomic or
        if self._words[self._index] & 1 and _futex.AVAILABLE:
            _futex.add_one_and_wake(self._address)
            count("notifies")
        else:
            count("elided")
