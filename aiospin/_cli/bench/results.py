"""What was measured, and how it is written to a file."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from aiospin._cli.bench.candidates import CANDIDATES
from aiospin._cli.bench.measure import ALL

if TYPE_CHECKING:
    from aiospin._cli.bench.machine import Machine
    from aiospin._cli.bench.measure import Run
    from aiospin._cli.bench.recommend import Recommendation

SCHEMA: Final = 1  # of the JSON; counted up when a field changes its meaning


@dataclass(frozen=True)
class Part:
    """Circumstances under which policies are compared."""

    traffic: str
    loop: str
    place: str

    def __str__(self) -> str:
        return f"{self.traffic}, {self.loop}, {self.place}"


Results = dict[Part, dict[str, list["Run"]]]
"""The runs of each policy, by name, under the same circumstances."""


@dataclass(frozen=True)
class Point:
    """The medians of several runs of one policy under the same circumstances."""

    policy: str
    cpu: float
    p50_us: float
    mean_us: float
    gap_us: float

    @property
    def letter(self) -> str:
        return CANDIDATES[self.policy].letter


def point(policy: str, runs: list[Run]) -> Point:
    latencies = [run.latency[ALL] for run in runs]
    return Point(
        policy,
        statistics.median(one.cpu for one in latencies),
        statistics.median(one.p50_us for one in latencies),
        statistics.median(one.mean_us for one in latencies),
        statistics.median(run.gap_us for run in runs),
    )


def points(measured: dict[str, list[Run]]) -> list[Point]:
    return [point(policy, runs) for policy, runs in measured.items()]


def overall(results: Results) -> list[Point]:
    """One point for each policy that was measured in every part: the geometric mean of latencies and gaps, which lets
    no kind of traffic outweigh another, and the mean of CPU."""
    found = []
    parts = list(results.values())
    for policy in parts[0] if parts else ():
        if all(policy in part for part in parts):
            every = [point(policy, part[policy]) for part in parts]
            found.append(
                Point(
                    policy,
                    statistics.fmean(one.cpu for one in every),
                    statistics.geometric_mean(one.p50_us for one in every),
                    statistics.geometric_mean(one.mean_us for one in every),
                    statistics.geometric_mean(one.gap_us for one in every),
                )
            )
    return found


def frontier(measured: list[Point]) -> list[Point]:
    """Those that no other beats in latency without more CPU, from the least CPU to the most."""
    found: list[Point] = []
    for one in sorted(measured, key=lambda one: (one.cpu, one.p50_us)):
        if not found or one.p50_us < found[-1].p50_us:
            found.append(one)
    return found


def as_json(
    machine: Machine,
    settings: dict[str, Any],
    no_energy: str,
    results: Results,
    recommendation: Recommendation | None,
) -> dict[str, Any]:
    """Everything, in what JSON can say; docs/cli.md has the schema."""
    return {
        "schema": SCHEMA,
        "machine": asdict(machine),
        "settings": settings,
        "no_energy": no_energy or None,
        "results": [
            {
                **asdict(part),
                "policy": policy,
                "frontier": policy in {one.policy for one in frontier(points(measured))},
                "runs": [asdict(run) for run in runs],
            }
            for part, measured in results.items()
            for policy, runs in measured.items()
        ],
        "recommendation": asdict(recommendation) if recommendation else None,
    }
