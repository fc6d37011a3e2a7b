"""The ways to wait that are compared: aiospin's policies, and what others do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final

from aiospin._policy import WaitPolicy

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Candidate:
    """One way to wait."""

    name: str
    letter: str  # its mark in a plot
    purpose: str
    policy: WaitPolicy
    expression: str | None = None
    """What to write in a program; None for a baseline that nobody should use, or that aiospin does not offer."""
    adapts: bool = False
    """The longest spin of each wait is that of a MovingAverage."""


# The published formula with the constants of tests/native/predict_model.h. B is a park's CPU and latency at the
# price of balanced: 8 us + 25 x 20 us.
BLOCK: Final = 0.5e-3
SHORTEST: Final = 20e-6
LONGEST: Final = 2e-3
MEMORY: Final = 8  # gaps: each new one is an eighth of the average

_FIXED: Final = WaitPolicy(predict=False, price=inf)

CANDIDATES: Final = {
    candidate.name: candidate
    for candidate in (
        Candidate(
            "latency",
            "L",
            "the preset: spins through gaps of up to 20 ms",
            WaitPolicy.latency(),
            "WaitPolicy.latency()",
        ),
        Candidate(
            "balanced",
            "B",
            "the preset, and the default: sleeps, and spins when the next message is due",
            WaitPolicy.balanced(),
            "WaitPolicy.balanced()",
        ),
        Candidate(
            "powersave",
            "P",
            'the preset, mode "park": never spins',
            WaitPolicy.powersave(),
            "WaitPolicy.powersave()",
        ),
        Candidate(
            "thread",
            "T",
            "balanced, but in the waiter thread",
            WaitPolicy(mode="thread"),
            'WaitPolicy(mode="thread")',
        ),
        Candidate(
            "loop",
            "O",
            "balanced, but on the loop's thread whatever else it does",
            WaitPolicy(mode="loop"),
            'WaitPolicy(mode="loop")',
        ),
        Candidate(
            "spin",
            "S",
            "always spins: a core for the shortest wait",
            replace(_FIXED, mode="loop", max_spin=3600.0),
            'WaitPolicy(mode="loop", max_spin=3600, predict=False)',
        ),
        Candidate("fixed-1s", "1", "a fixed grace of 1 s", replace(_FIXED, max_spin=1.0)),
        Candidate("fixed-2ms", "2", "a fixed grace of 2 ms", replace(_FIXED, max_spin=2e-3)),
        Candidate(
            "average",
            "A",
            "a grace of clamp(B²/T, 20 µs, 2 ms), T the moving average of gaps, B = 0.5 ms",
            replace(_FIXED, max_spin=SHORTEST),
            adapts=True,
        ),
    )
}


class MovingAverage:
    """clamp(B²/T, shortest, longest) for the next wait; T is an exponential moving average of past gaps."""

    def __init__(self, policy: WaitPolicy) -> None:
        self._policy = policy
        self._last_ns = 0
        self._mean_gap = 0.0  # seconds; 0: not known
        # To make and check a policy takes some microseconds of CPU that the formula does not need, so each is made
        # once, to the microsecond.
        self._made: dict[int, WaitPolicy] = {}

    @property
    def grace(self) -> float:
        """Seconds to spin in the next wait."""
        if not self._mean_gap:
            return SHORTEST
        return min(max(BLOCK * BLOCK / self._mean_gap, SHORTEST), LONGEST)

    def arrived(self, published_ns: int) -> WaitPolicy:
        """Learn when a message was published; return how to wait for the next one."""
        if self._last_ns:
            gap = (published_ns - self._last_ns) / 1e9
            self._mean_gap += (gap - self._mean_gap) / MEMORY if self._mean_gap else gap
        self._last_ns = published_ns
        microseconds = round(self.grace * 1e6)
        made = self._made.get(microseconds)
        if made is None:
            made = self._made[microseconds] = replace(self._policy, max_spin=microseconds / 1e6)
        return made


def learner(candidate: Candidate) -> Callable[[int], WaitPolicy] | None:
    """What is to be told of each message's publication; None for a policy that is always the same."""
    return MovingAverage(candidate.policy).arrived if candidate.adapts else None
