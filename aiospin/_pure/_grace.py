"""How long it pays to spin, learned from the gaps between arrivals (csrc/core/grace.h)."""

from __future__ import annotations

from typing import Final, final

WEIGHT: Final = 8  # a gap counts an eighth: the mean follows a change of pace within about ten
SETTLED: Final = 4  # gaps before the mean is believed: fewer are no pattern


@final
class Grace:
    __slots__ = ("_begun_ns", "_gaps", "_mean_ns")

    def __init__(self) -> None:
        self._begun_ns: int | None = None
        self._gaps = 0
        self._mean_ns = 0

    def begin(self, now_ns: int) -> None:
        """A wait found nothing yet: its gap begins."""
        self._begun_ns = now_ns

    def end(self, now_ns: int) -> None:
        """What was waited for has come."""
        if self._begun_ns is not None:
            gap = now_ns - self._begun_ns
            self._mean_ns += (gap - self._mean_ns) // WEIGHT if self._gaps else gap
            self._gaps += 1
            self._begun_ns = None

    def drop(self) -> None:
        """It was there at once: that tells nothing about the gap."""
        self._begun_ns = None

    def pays(self, max_spin_ns: int) -> bool:
        """Twice the spin is the ski-rental bound: beyond it, spinning costs more than sleeping
        did."""
        return self._gaps < SETTLED or self._mean_ns <= 2 * max_spin_ns
