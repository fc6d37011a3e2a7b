"""Which policy to use, and why.

A message costs ``price x latency + CPU``: the price of the policies (WaitPolicy), and what benchmarks/
predict_simulation.py judges by. A policy's excess is its cost over that of the cheapest policy under the same
circumstances, as a geometric mean over all of them.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiospin._cli.bench.candidates import CANDIDATES
from aiospin._cli.bench.numbers import microseconds, share
from aiospin._cli.bench.results import overall, points

if TYPE_CHECKING:
    from aiospin._cli.bench.results import Point, Results

DEFAULT: Final = "balanced"
# Policies whose excess differs by less are the same to us: medians of runs on a virtual machine that does nothing else
# differ by as much. The default is preferred to its equals.
TIE: Final = 0.05


@dataclass(frozen=True)
class Recommendation:
    policy: str
    expression: str
    price: float
    excess: dict[str, float]
    """Of every policy, by name: 1 is the cheapest there was under all circumstances."""
    sentence: str
    doubt: str
    """What single runs would recommend, if that is something else; else nothing."""


def cost_us(one: Point, price: float) -> float:
    """What a message costs, in microseconds of CPU."""
    return price * one.mean_us + one.cpu * one.gap_us


def excess(results: Results, price: float) -> dict[str, float]:
    """Of every policy that was measured under all circumstances."""
    ratios: dict[str, list[float]] = {}
    for measured in results.values():
        costs = {one.policy: cost_us(one, price) for one in points(measured)}
        least = min(costs.values())
        for policy, cost in costs.items():
            ratios.setdefault(policy, []).append(cost / least)
    return {
        policy: statistics.geometric_mean(found)
        for policy, found in ratios.items()
        if len(found) == len(results)
    }


def recommend(results: Results, price: float) -> Recommendation | None:
    """None where nothing that a program can use was measured under all circumstances."""
    found = excess(results, price)
    best = _best(found)
    if best is None:
        return None
    expression = CANDIDATES[best].expression
    assert expression is not None
    sentence = f"Use {expression}: {_cost(results, found[best], price)}; {_numbers(results, best)}."
    return Recommendation(best, expression, price, found, sentence, _doubt(results, best, price))


def _best(found: dict[str, float]) -> str | None:
    usable = {policy: ratio for policy, ratio in found.items() if CANDIDATES[policy].expression}
    if not usable:
        return None
    best = min(usable, key=lambda policy: usable[policy])
    if DEFAULT in usable and usable[DEFAULT] <= usable[best] * (1 + TIE):
        return DEFAULT
    return best


def _cost(results: Results, ratio: float, price: float) -> str:
    worth = f"where a second of latency is worth {price:g} s of CPU"
    if len(results) == 1:
        compared = "is the cheapest" if ratio == 1 else f"costs {ratio:.2f} times the cheapest"
        return f"{worth}, it {compared}"
    return (
        f"{worth}, it costs {ratio:.2f} times the cheapest policy of each of the {len(results)} parts of this "
        "measurement, on average"
    )


def _numbers(results: Results, best: str) -> str:
    every = {one.policy: one for one in overall(results)}
    chosen = every[best]
    found = (
        f"its median latency is {microseconds(chosen.p50_us)} µs at {share(chosen.cpu)} of a core"
    )
    fastest = min(every.values(), key=lambda one: one.p50_us)
    frugal = min(every.values(), key=lambda one: one.cpu)
    compared = " and ".join(
        f"that of {one.policy} {microseconds(one.p50_us)} µs at {share(one.cpu)}"
        for one in dict.fromkeys((fastest, frugal))
        if one != chosen
    )
    return f"{found}, {compared}" if compared else found


def _doubt(results: Results, best: str, price: float) -> str:
    runs = min(len(runs) for part in results.values() for runs in part.values())
    others: dict[str, int] = {}
    for number in range(runs):
        alone = {
            part: {policy: found[number : number + 1] for policy, found in measured.items()}
            for part, measured in results.items()
        }
        winner = _best(excess(alone, price))
        if winner is not None and winner != best:
            others[winner] = others.get(winner, 0) + 1
    if not others:
        return ""
    named = " and ".join(f"{count} for {policy}" for policy, count in others.items())
    return (
        f"The runs do not agree: of {runs}, taken alone, {named}. Measure longer, on a quieter machine, or take it "
        "that these cost about the same."
    )
