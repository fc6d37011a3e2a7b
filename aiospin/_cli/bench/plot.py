"""Latency against CPU, a point for each policy and the frontier: as SVG, and in characters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from aiospin._cli.bench.candidates import CANDIDATES
from aiospin._cli.bench.numbers import microseconds, share
from aiospin._cli.bench.results import frontier, overall, points

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiospin._cli.bench.results import Point, Results

LEAST_CPU: Final = (
    1e-4  # of a core: below that, what a run of seconds says is noise, and zero has no logarithm
)

# Okabe and Ito's colours, which nearly everybody can tell apart; the letters say it to the others.
_COLOURS: Final = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#666666",
    "#999999",
    "#b8a800",
)


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from one power of ten, or 2 or 5 times it, to another."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> Axis:
        low, high = min(values), max(values)
        steps = [digit * 10.0**power for power in range(-7, 10) for digit in (1, 2, 5)]
        below = max(step for step in steps if step < low * 0.95)
        return cls(below, min(step for step in steps if step > max(high * 1.05, below)))

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Powers of ten, and 2 and 5 times these where there are few."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        digits = (1,) if self.high / self.low > 200 else (1, 2, 5)
        steps = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        return [step for step in steps if self.low * 0.999 <= step <= self.high * 1.001]


def axes(measured: Sequence[Point]) -> tuple[Axis, Axis]:
    """For CPU and for latency."""
    return (
        Axis.around([max(one.cpu, LEAST_CPU) for one in measured]),
        Axis.around([one.p50_us for one in measured]),
    )


# ---- SVG ----

_WIDTH, _HEIGHT = 420, 300  # of a panel, in px
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 30, 46  # around the square that is plotted in
_COLUMNS = 2
_LEGEND_LINE = 18


def svg(results: Results, title: str) -> str:
    """A panel for all traffic together, and one for each part if there are several."""
    panels: list[tuple[str, list[Point]]] = [
        (str(part), points(measured)) for part, measured in results.items()
    ]
    if len(panels) > 1 and (everything := overall(results)):
        name = "all together: geometric mean of latency, mean of CPU"
        panels.insert(0, (name, everything))
    names = list(dict.fromkeys(one.policy for _, found in panels for one in found))
    top = 40 + _LEGEND_LINE * len(names)
    columns = min(_COLUMNS, len(panels))
    width = max(_WIDTH * columns, 640)
    height = top + _HEIGHT * math.ceil(len(panels) / columns) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"',
        f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="22" font-size="15">{escape(title)}</text>',
    ]
    for number, name in enumerate(names):
        y = 44 + _LEGEND_LINE * number
        lines.append(_mark(name, 20, y))
        purpose = escape(CANDIDATES[name].purpose)
        lines.append(f'<text x="34" y="{y + 4}">{escape(name)}: {purpose}</text>')
    for number, (name, found) in enumerate(panels):
        x, y = number % columns * _WIDTH, top + number // columns * _HEIGHT
        lines += [f'<g transform="translate({x},{y})">', *_panel(name, found), "</g>"]
    return "\n".join([*lines, "</svg>", ""])


def _panel(title: str, found: list[Point]) -> list[str]:
    cpu, latency = axes(found)
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + cpu.place(max(value, LEAST_CPU)) * (right - _LEFT)

    def y_of(value: float) -> float:
        return bottom - latency.place(value) * (bottom - _TOP)

    lines = [f'<text x="{_LEFT}" y="{_TOP - 10}" font-weight="bold">{escape(title)}</text>']
    for tick in cpu.ticks():
        x = x_of(tick)
        lines.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick * 100:g}%</text>'
        )
    for tick in latency.ticks():
        y = y_of(tick)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    lines += [
        f'<rect x="{_LEFT}" y="{_TOP}" width="{right - _LEFT}" height="{bottom - _TOP}" fill="none" stroke="#888"/>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">reader CPU, of one core</text>',
        f'<text transform="translate(14,{(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">',
        "p50 latency, µs</text>",
    ]
    steps = [(x_of(one.cpu), y_of(one.p50_us)) for one in frontier(found)]
    # More CPU buys nothing until the next point is reached, so the frontier is a stair.
    path = f"M{steps[0][0]:.1f} {_TOP}V{steps[0][1]:.1f}" + "".join(
        f"H{x:.1f}V{y:.1f}" for x, y in steps[1:]
    )
    lines.append(f'<path class="frontier" d="{path}H{right}" fill="none" stroke="#444"/>')
    for one in found:
        tip = f"{one.policy}: {microseconds(one.p50_us)} µs at {share(one.cpu)}"
        lines.append(_mark(one.policy, x_of(one.cpu), y_of(one.p50_us), tip))
    return lines


def _mark(policy: str, x: float, y: float, tip: str = "") -> str:
    names = list(CANDIDATES)
    colour = _COLOURS[names.index(policy) % len(_COLOURS)]
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<g class="point">{inner}<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="{colour}" fill-opacity="0.85"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="11" fill="white">'
        f"{CANDIDATES[policy].letter}</text></g>"
    )


# ---- characters ----

_COLUMNS_OF_TEXT, _LINES_OF_TEXT = 64, 16


def text(measured: list[Point], excess: Mapping[str, float]) -> list[str]:
    """A letter for each policy; where two fall on the same place, the later one stands beside it.

    :param excess: the cost of each policy, over that of the cheapest.
    """
    cpu, latency = axes(measured)
    grid = [[" "] * (_COLUMNS_OF_TEXT + 1) for _ in range(_LINES_OF_TEXT + 1)]
    best = frontier(measured)
    for one in measured:
        column = round(cpu.place(max(one.cpu, LEAST_CPU)) * _COLUMNS_OF_TEXT)
        cells = grid[_LINES_OF_TEXT - round(latency.place(one.p50_us) * _LINES_OF_TEXT)]
        while cells[column] != " ":
            column = (column + 1) % (_COLUMNS_OF_TEXT + 1)
        cells[column] = one.letter
    heads = {
        _LINES_OF_TEXT - round(latency.place(tick) * _LINES_OF_TEXT): f"{tick:g}"
        for tick in latency.ticks()
    }
    found = ["p50 µs"]
    for number, line in enumerate(grid):
        found.append(f"{heads.get(number, ''):>8} |{''.join(line)}".rstrip())
    found.append(f"{'':>8} +{'-' * (_COLUMNS_OF_TEXT + 1)}")
    below = [" "] * (_COLUMNS_OF_TEXT + 12)
    for tick in cpu.ticks():
        column = round(cpu.place(tick) * _COLUMNS_OF_TEXT)
        label = f"{tick * 100:g}%"
        below[column : column + len(label)] = label
    found.append(f"{'':>10}{''.join(below)}".rstrip() + "  of a core")
    for one in measured:
        mark = "on the frontier" if one in best else ""
        numbers = (
            f"{microseconds(one.p50_us):>9} µs {share(one.cpu):>7}  cost {excess[one.policy]:.2f}"
        )
        found.append(f"  {one.letter}  {one.policy:<10} {numbers}  {mark}".rstrip())
    return found
