"""When one wait spins, and when it sleeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiospin._core import core

if TYPE_CHECKING:
    from aiospin._policy import WaitPolicy
    from aiospin._target import Target


@dataclass(frozen=True)
class Prediction:
    """Whether it paid to foresee when messages come, or when a writer has room again."""

    predicted: int
    """Waits that a planned spin ended."""
    early: int
    """Messages, or room, that came before the spin planned for them."""
    late: int
    """Waits whose spin ended without it."""
    spun_caught_ns: int
    """Nanoseconds spun in waits that a spin ended."""
    spun_lost_ns: int
    """Nanoseconds spun in all others."""


class Pace:
    """The spins and sleeps of one wait, as its target's past and the policy would have them.

    A reader learns when its messages come, and a writer when it has room again: their waits are asked for a plan
    (csrc/core/predict.h). Any other wait spins once, at the start, and stays parked after that.
    """

    __slots__ = ("_planned", "_policy", "_spin_until_ns", "_wait", "rehearsed")

    def __init__(self, target: Target, policy: WaitPolicy, rehearsed: bool = False) -> None:
        self.rehearsed = rehearsed
        """It goes on after a rehearsal: see Loop.suspend."""
        self._wait = target.wait
        self._policy = policy
        self._planned = policy.predict and policy.mode != "park" and target.wait.predicts
        self._spin_until_ns = 0  # of the one spin of a wait without a plan
        if not self._planned:
            self._spin_until_ns = core.now_ns() + policy.spin_ns if policy.spin_ns else 0

    def next(self) -> tuple[int, int]:
        """Sleep until the first time (FOREVER: without limit), then spin until the second, then ask again."""
        if self._planned:
            return self._wait.plan(self._policy.cpu_per_latency, self._policy.planned_spin_ns)
        if core.now_ns() < self._spin_until_ns:
            return 0, self._spin_until_ns
        return core.FOREVER, core.FOREVER

    def rest(self) -> int | None:
        """For the core, when it goes on with the wait by itself: nanoseconds to spin, or None, as planned."""
        if self._planned:
            self.next()  # the core needs the price
            return None
        return max(self._spin_until_ns - core.now_ns(), 0)
