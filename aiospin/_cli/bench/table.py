"""A part of the results as lines of text, a line for each policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiospin._cli.bench.measure import ALL
from aiospin._cli.bench.numbers import Latency, row, spread
from aiospin._cli.bench.recommend import excess
from aiospin._cli.bench.results import frontier, points

if TYPE_CHECKING:
    from aiospin._cli.bench.measure import Run
    from aiospin._cli.bench.results import Part

_ON_FRONTIER: Final = "*"


def table(part: Part, measured: dict[str, list[Run]], price: float) -> list[str]:
    """A block for all messages, with what they cost, and one for each group that the traffic has.

    :param price: seconds of CPU that a second of latency is worth.
    """
    some = next(iter(measured.values()))
    best = {one.policy for one in frontier(points(measured))}
    powered = all(run.watts is not None for runs in measured.values() for run in runs)
    costs = excess({part: measured}, price)
    found = []
    for group in some[0].latency:
        title = str(part) if group == ALL else f"{part}: {group}"
        heads = ["policy", *Latency.HEADS, *(["cost"] if group == ALL else [])]
        lines = []
        for policy, runs in measured.items():
            mark = _ON_FRONTIER if group == ALL and policy in best else " "
            cells = [f"{mark} {policy}", *Latency.cells([run.latency[group] for run in runs])]
            if group == ALL:
                cells.append(f"{costs[policy]:.2f}")
            if powered:
                cells.append(spread([run.watts or 0.0 for run in runs], "{:.1f}".format))
            lines.append(cells)
        if powered:
            heads.append("package W")
        counts = sorted({run.latency[group].messages for runs in measured.values() for run in runs})
        number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        found += ["", f"{title}: {number} messages a run"]
        widths = [max(map(len, column)) + 1 for column in zip(heads, *lines, strict=True)]
        found += [row(cells, widths) for cells in ([f"  {heads[0]}", *heads[1:]], *lines)]
    return found


LEGEND: Final = f"{_ON_FRONTIER} no other policy there has a lower p50 for no more CPU"
