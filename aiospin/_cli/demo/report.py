"""What the engine and the readers tell the parent: one of these at a time, over a pipe each.

Numbers count from the beginning of the run. The first report of a process says that it is ready; the one
with a digest is its last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

INTERVAL: Final = 0.25  # seconds between two reports of a process: what an eye can follow


@dataclass(frozen=True)
class Created:
    """The engine made its broadcast."""

    name: str


@dataclass(frozen=True)
class Sent:
    """How much the engine has sent."""

    messages: int = 0
    nbytes: int = 0
    digest: str | None = None
    """SHA-256 of everything that was sent, at the end."""


@dataclass(frozen=True)
class Received:
    """How a reader is doing."""

    messages: int = 0
    nbytes: int = 0
    latency_p50_ns: int = 0
    """From publish to the resumed task."""
    latency_p99_ns: int = 0
    late_p99_ns: int = 0
    """How late the task was that ticks beside the one that reads."""
    cpu: float = 0.0
    """Share of one core."""
    lag: int = 0
    """Messages published and not received."""
    digest: str | None = None
    """SHA-256 of everything that was received, at the end."""


@dataclass(frozen=True)
class Failed:
    """A process gave up."""

    why: str


def give_up(pipe: Connection, error: BaseException) -> NoReturn:
    """End the process, and say why; of a group of errors, the first counts."""
    while (inner := getattr(error, "exceptions", None)) is not None:
        error = inner[0]
    why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    try:
        pipe.send(Failed(why))
    except OSError:
        pass  # the parent has ended, which may well be why
    raise SystemExit(1)


class Histogram:
    """Durations by size: constant memory and time however many, percentiles to within 2 %.

    A bucket for every power of two and the five bits behind its leading one.
    """

    __slots__ = ("_counts", "_total")

    def __init__(self) -> None:
        self._counts = [0] * (64 * 32)
        self._total = 0

    def add(self, ns: int) -> None:
        shift = ns.bit_length() - 6
        self._counts[(shift << 5) + (ns >> shift) if shift > 0 else max(ns, 0)] += 1
        self._total += 1

    def percentile(self, percent: float) -> int:
        """The duration that this share of all does not exceed, in ns; 0 when there are none."""
        wanted = math.ceil(self._total * percent / 100)
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                shift = max((index >> 5) - 1, 0)
                # the middle of the bucket
                return ((index - (shift << 5)) << shift) + ((1 << shift) >> 1)
        return 0
