"""What runs say in numbers, and how several of them are shown: the median, and its spread from smallest to largest."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class Latency:
    """What one run says about the time from a publish to the resumed task, and about its price."""

    HEADS: ClassVar = ("p50 us", "p99 us", "p99.9 us", "reader CPU")
    WIDTHS: ClassVar = (24, 24, 24, 24)

    messages: int
    p50_us: float
    p99_us: float
    p999_us: float
    """Of fewer than a thousand messages this is the slowest."""
    mean_us: float
    """Of the fastest 99 %: one message that the machine held up would outweigh all others of a short run."""
    cpu: float
    """Seconds of the reader's process per second."""

    @classmethod
    def of(cls, taken_ns: Iterable[int], cpu: float) -> Latency:
        """:param taken_ns: what each message took, at least one."""
        ordered = sorted(taken_ns)
        last = len(ordered) - 1
        p50, p99, p999 = (
            ordered[min(int(len(ordered) * part), last)] / 1e3 for part in (0.5, 0.99, 0.999)
        )
        mean = statistics.fmean(ordered[: max(int(len(ordered) * 0.99), 1)]) / 1e3
        return cls(len(ordered), p50, p99, p999, mean, cpu)

    @staticmethod
    def cells(runs: Sequence[Latency]) -> list[str]:
        """Several runs, as cells of a table."""
        return [
            spread([run.p50_us for run in runs], microseconds),
            spread([run.p99_us for run in runs], microseconds),
            spread([run.p999_us for run in runs], microseconds),
            spread([run.cpu for run in runs], share),
        ]


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The median, and in brackets the smallest and largest, of one number taken several times."""
    if len(values) == 1:
        return form(values[0])
    return f"{form(statistics.median(values))} ({form(min(values))} to {form(max(values))})"


def microseconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def share(value: float) -> str:
    """Of one core."""
    return f"{value:.2%}" if value < 0.1 else f"{value:.1%}"


def row(cells: Iterable[str], widths: Sequence[int]) -> str:
    """One line of a table: the first column to the left, the others to the right."""
    first, *rest = (
        f"{cell:>{width}}" if column else f"{cell:<{width}}"
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return " ".join([first, *rest]).rstrip()
