"""What is measured: the selections of the command line, made complete and possible."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Final

from aiospin._cli.bench.arrivals import EVERY, arrivals, recorded
from aiospin._cli.bench.candidates import CANDIDATES
from aiospin._cli.bench.loops import BLOCKING, LOOPS, missing
from aiospin._cli.bench.places import PLACES, cpus_of
from aiospin._cli.bench.results import Part

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiospin._cli.bench.arrivals import Arrivals, Due

TRACE: Final = "trace"  # the traffic that --trace brings
ALL_LOOPS: Final = (*LOOPS, BLOCKING)
START_UP: Final = 1.0  # seconds, about, of two fresh processes

# One of each kind; with the jitters between, and the longest silences, the rest is what --all adds.
COMMON: Final = ("0.1ms", "1ms", "7ms~5%", "10ms", "50ms", "poisson", "bursts", "decode")
QUICK: Final = ("1ms", "7ms~5%", "bursts")
# Those between which a program chooses, and what others do.
QUICK_POLICIES: Final = ("latency", "balanced", "powersave", "spin", "fixed-2ms", "average")


class ScopeError(Exception):
    """What was selected cannot be measured here."""


@dataclass(frozen=True)
class Scope:
    traffic: dict[str, Arrivals]
    policies: tuple[str, ...]
    loops: tuple[str, ...]
    places: tuple[str, ...]
    seconds: float
    runs: int
    left_out: tuple[str, ...] = ()
    """What would have been measured and cannot be, and why."""

    @property
    def parts(self) -> list[Part]:
        return [Part(*part) for part in product(self.traffic, self.loops, self.places)]

    def messages(self, part: Part, run: int) -> list[Due]:
        """The same for every policy."""
        return self.traffic[part.traffic](Random(run), self.seconds)

    def duration(self, messages: Iterable[Due]) -> float:
        """Of one run, about, in seconds."""
        return START_UP + sum(message.gap for message in messages)

    @property
    def total(self) -> float:
        """Of everything, about, in seconds."""
        return len(self.policies) * sum(
            self.duration(self.messages(part, run))
            for part in self.parts
            for run in range(self.runs)
        )


def scope(
    *,
    preset: str = "",
    traffic: Sequence[str] | None = None,
    trace: Sequence[float] | None = None,
    policies: Sequence[str] | None = None,
    loops: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    seconds: float | None = None,
    runs: int | None = None,
) -> Scope:
    """Fill in what was not selected.

    :param preset: "quick", "all", or "" for one of each kind.
    :raises ScopeError: what was asked for by name cannot be measured here.
    """
    if traffic is None and trace is None:
        traffic = {"quick": QUICK, "all": EVERY}.get(preset, COMMON)
    sources = {name: arrivals(name) for name in traffic or ()}
    if trace is not None:
        sources[TRACE] = recorded(trace)
    if policies is None:
        policies = QUICK_POLICIES if preset == "quick" else tuple(CANDIDATES)
    left_out: list[str] = []
    if loops is not None:
        for loop in loops:
            if why := missing(loop):
                raise ScopeError(f"{loop} cannot be measured: {why}")
    elif preset == "quick":
        loops = ("asyncio",) if missing("uvloop") else ("uvloop",)
    else:
        loops = [loop for loop in ALL_LOOPS if not missing(loop)]
        left_out += [f"{loop} is left out: {why}" for loop in ALL_LOOPS if (why := missing(loop))]
    if places is None:
        places = PLACES if preset == "all" else PLACES[:1]
        if len(os.sched_getaffinity(0)) == 1 and "different" in places:
            places = [place for place in places if place != "different"]
            left_out.append("the place 'different' is left out: this process may use only one CPU")
    for place in places:
        try:
            cpus_of(place)
        except ValueError as error:
            raise ScopeError(str(error)) from None
    return Scope(
        sources,
        tuple(dict.fromkeys(policies)),
        tuple(dict.fromkeys(loops)),
        tuple(dict.fromkeys(places)),
        seconds if seconds is not None else 0.75 if preset == "quick" else 2.0,
        runs if runs is not None else 1 if preset == "quick" else 3,
        tuple(left_out),
    )
