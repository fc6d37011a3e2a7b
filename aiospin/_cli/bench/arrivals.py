"""When messages are sent: arrival processes, by the names that ``--traffic`` takes.

An arrival process is a function of a random generator and of the seconds to fill, and of nothing else: with the
same seed every policy gets the same gaps. Each begins with WARM_UP messages that are not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

# Messages at the start that are not counted: processes warm up, and a policy that learns has learned, which takes it
# 32 gaps (ASP_PREDICT_GAPS of csrc/core/predict.h).
WARM_UP: Final = 50

SHORTEST: Final = 1e-6  # seconds between messages on average: to send one takes about as long
POISSON_MEAN: Final = 7e-3  # seconds
BURST: Final = 10  # messages
BURST_PERIOD: Final = 50e-3  # seconds from one burst to the next
BURST_GAP: Final = 0.02 * BURST_PERIOD  # seconds between two messages of a burst
SILENCE: Final = 5.0  # seconds

# What "decode" is made of. Nobody recorded it: these are round numbers of the size that serving a model of some
# billions of parameters on one accelerator has. A trace of your own model is better: --trace.
STEP_FIRST: Final = 7e-3  # seconds of a decoding step while the context is short
STEP_LAST: Final = 9e-3  # seconds of one at the end of an answer, when the context has grown
STEP_JITTER: Final = 0.02  # standard deviation of a step, as a share of it
ANSWER: Final = 200  # steps of an answer, on average; their number is geometric
PREFILL: Final = (30e-3, 150e-3)  # seconds before the first token of an answer, uniform


@dataclass(frozen=True)
class Due:
    """When a message is sent, and with which others it is counted."""

    gap: float  # seconds after the one before
    group: str = ""


if TYPE_CHECKING:
    Arrivals = Callable[[Random, float], list[Due]]


def _filling(gaps: Iterable[float], seconds: float) -> list[Due]:
    """Of endless gaps, the warm-up and then as many as fit, at least one."""
    endless = iter(gaps)
    found = [Due(gap) for gap in islice(endless, WARM_UP + 1)]
    left = seconds - found[-1].gap
    for gap in endless:
        left -= gap
        if left <= 0:
            break
        found.append(Due(gap))
    return found


def steady(period: float, jitter: float = 0.0) -> Arrivals:
    """Gaps of one length, each up to a share ``jitter`` of it longer or shorter, uniformly."""

    def messages(chance: Random, seconds: float) -> list[Due]:
        count = WARM_UP + max(round(seconds / period), 1)
        return [Due(period * chance.uniform(1 - jitter, 1 + jitter)) for _ in range(count)]

    return messages


def poisson(chance: Random, seconds: float) -> list[Due]:
    """Exponential gaps: nothing foretells the next one."""
    count = WARM_UP + max(round(seconds / POISSON_MEAN), 1)
    return [Due(chance.expovariate(1 / POISSON_MEAN)) for _ in range(count)]


def bursts(_: Random, seconds: float) -> list[Due]:
    """Ten messages, 2 % of the period apart, then nothing for the rest of it."""
    first = Due(BURST_PERIOD - (BURST - 1) * BURST_GAP, "first")
    burst = [first, *[Due(BURST_GAP, "inside")] * (BURST - 1)]
    return burst * (WARM_UP // BURST + max(round(seconds / BURST_PERIOD), 1))


def decode(chance: Random, seconds: float) -> list[Due]:
    """Like the steps of a model that decodes, made of a distribution: the constants above. Not a recording."""

    def steps() -> Iterable[float]:
        while True:
            # Geometric, by inversion: how many Bernoulli trials to the first success.
            length = 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / ANSWER))
            for step in range(length):
                mean = STEP_FIRST + (STEP_LAST - STEP_FIRST) * min(step / ANSWER, 1)
                yield max(chance.gauss(mean, STEP_JITTER * mean), 0.0)
            yield chance.uniform(*PREFILL)

    return _filling(steps(), seconds)


def silence(_: Random, seconds: float) -> list[Due]:
    """A message, 5 s of nothing, and again; before that a warm-up of one every millisecond."""
    return [*[Due(1e-3)] * WARM_UP, *[Due(SILENCE)] * max(round(seconds / SILENCE), 1)]


def recorded(gaps: Sequence[float]) -> Arrivals:
    """The gaps of a trace, from the beginning again after the last. The warm-up is its beginning, too."""

    def messages(_: Random, seconds: float) -> list[Due]:
        return _filling(cycle(gaps), seconds)

    return messages


def read_trace(text: str) -> list[float]:
    """A gap in seconds per line; empty lines and what follows a # do not count.

    :raises ValueError: that is no trace; says in which line.
    """
    gaps = []
    for number, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            gap = float(content)
        except ValueError:
            gap = math.nan
        if not 0 <= gap <= 3600:  # also refuses NaN
            raise ValueError(
                f"line {number} must be a gap in seconds, from 0 to 3600, not {content!r}"
            )
        gaps.append(gap)
    if not gaps:
        raise ValueError("there is no gap in it: it needs one per line, in seconds")
    if sum(gaps) < SHORTEST * len(gaps):
        raise ValueError(
            f"its gaps are shorter than {SHORTEST * 1e6:g} µs on average; are they seconds?"
        )
    return gaps


# ---- by name ----

PERIODS: Final = ("0.1ms", "1ms", "7ms", "10ms", "50ms")
JITTERS: Final = ("", "~1%", "~5%", "~20%")
NAMED: Final[dict[str, Arrivals]] = {
    "poisson": poisson,
    "bursts": bursts,
    "decode": decode,
    "silence": silence,
}
EVERY: Final = (*(period + jitter for period in PERIODS for jitter in JITTERS), *NAMED)

_STEADY: Final = re.compile(r"(\d+(?:\.\d+)?)ms(?:~(\d+(?:\.\d+)?)%)?")


def arrivals(name: str) -> Arrivals:
    """The process of that name: one of NAMED, or a period with or without jitter: ``3ms``, ``7ms~5%``.

    :raises ValueError: there is none.
    """
    if name in NAMED:
        return NAMED[name]
    match = _STEADY.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is no traffic: write {', '.join(NAMED)}, a period such as 3ms, or one with jitter such as 7ms~5%"
        )
    period, jitter = float(match[1]) / 1e3, float(match[2] or 0) / 100
    if not SHORTEST <= period <= 60 or jitter > 1:
        raise ValueError(
            f"{name!r}: the period must be from 0.001ms to 60000ms, the jitter up to 100%"
        )
    return steady(period, jitter)
