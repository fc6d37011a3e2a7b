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
    usable = {policy: ratio for policy, ratio in found.items() if CANDIDATES[policy].expression}
    if not usable:
        return None
    best = min(usable, key=lambda policy: usable[policy])
    if DEFAULT in usable and usable[DEFAULT] <= usable[best] * (1 + TIE):
        best = DEFAULT
    expression = CANDIDATES[best].expression
    assert expression is not None
    return Recommendation(best, expression, price, found, _sentence(results, best, found, price))


def _sentence(results: Results, best: str, found: dict[str, float], price: float) -> str:
    every = {one.policy: one for one in overall(results)}
    chosen = every[best]
    kinds = len(results)
    over = "what was measured" if kinds == 1 else f"the {kinds} parts of this measurement"
    text = (
        f"Use {CANDIDATES[best].expression}: where a second of latency is worth {price:g} s of CPU, it costs "
        f"{found[best]:.2f} times the cheapest policy of each part over {over}; "
        f"its median latency is {microseconds(chosen.p50_us)} µs at {share(chosen.cpu)} of a core"
    )
    others = [one for one in every.values() if one.policy != best]
    if others:
        fastest = min(others, key=lambda one: one.p50_us)
        frugal = min(others, key=lambda one: one.cpu)
        text += (
            f", that of {fastest.policy} {microseconds(fastest.p50_us)} µs at {share(fastest.cpu)}"
        )
        if frugal != fastest:
            text += f" and that of {frugal.policy} {microseconds(frugal.p50_us)} µs at {share(frugal.cpu)}"
    return text + "."
