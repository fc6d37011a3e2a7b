"""``aiospin bench``: what each way of waiting costs on this machine, in latency and in CPU.

arrivals    when messages are sent
candidates  the ways to wait that are compared
scope       what of all this is measured
measure     one run, in fresh processes; on these: crew, loops, pacing, places, energy
numbers     what runs say, with spread
results     the same for everything that was measured, and the JSON
recommend   which policy to use, and why
table, plot, progress: what people see
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiospin._cli.arguments import count
from aiospin._cli.errors import CommandError, say, sentence
from aiospin._cli.stream import terminable

if TYPE_CHECKING:
    from aiospin._cli.bench.machine import Machine
    from aiospin._cli.bench.measure import Run
    from aiospin._cli.bench.progress import Progress
    from aiospin._cli.bench.results import Results
    from aiospin._cli.bench.scope import Scope


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from aiospin._cli.bench.arrivals import NAMED, PERIODS
    from aiospin._cli.bench.candidates import CANDIDATES
    from aiospin._cli.bench.loops import BLOCKING, LOOPS
    from aiospin._cli.bench.places import PLACES
    from aiospin._policy import WaitPolicy

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick",
        action="store_true",
        help="three kinds of traffic on one loop, one short run of each: under a minute",
    )
    size.add_argument(
        "--all",
        action="store_true",
        help="every traffic in every place, and not only one of each kind: a working day",
    )
    parser.add_argument(
        "--traffic",
        nargs="+",
        type=_traffic,
        metavar="NAME",
        help="when messages are sent; see below (default: one of each kind)",
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="traffic of your own: a gap in seconds per line; # comments"
    )
    for option, choices, text in (
        ("--policy", tuple(CANDIDATES), "how the reader waits; see below (default: all)"),
        ("--loop", (*LOOPS, BLOCKING), "of the reader (default: those that are installed)"),
        (
            "--place",
            PLACES,
            "of writer and reader: unpinned, on the same CPU, on different cores (default: unpinned)",
        ),
    ):
        parser.add_argument(option, nargs="+", choices=choices, metavar="NAME", help=text)
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", help="of one run, after its warm-up (default: 2)"
    )
    parser.add_argument("--runs", type=count(1), metavar="N", help="of each (default: 3)")
    parser.add_argument(
        "--price",
        type=_positive,
        default=WaitPolicy().price,
        metavar="P",
        help="for costs: seconds of CPU that a second of latency is worth (default: %(default)g)",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write everything there; docs/cli.md has the schema"
    )
    parser.add_argument(
        "--plot", metavar="FILE.svg", help="write latency against CPU there, a point per policy"
    )
    parser.add_argument("--plain", action="store_true", help="no progress bar")
    policies = "\n".join(f"  {one.name:<10} {one.purpose}" for one in CANDIDATES.values())
    parser.epilog = f"""\
traffic:
  {", ".join(PERIODS)}, or any other period; 7ms~5% is one with jitter
  {", ".join(NAMED)}
  decode is made of a distribution, and no recording; use --trace for one

policies:
{policies}

Ctrl-C ends it early; what was complete is shown, and written, all the same. So it is when a measurement fails,
and then the exit status is 1."""


def run(arguments: argparse.Namespace) -> int:
    from aiospin._cli.bench.crew import CrewError
    from aiospin._cli.bench.energy import packages
    from aiospin._cli.bench.machine import machine
    from aiospin._cli.bench.progress import progress
    from aiospin._cli.live import RichMissingError

    if sys.stdout is None:
        raise CommandError("there is nowhere to write to: standard output is closed")
    chosen = _scope(arguments)
    for file in (arguments.json, arguments.plot):
        if file:  # it would be a pity to learn after an hour that this cannot be written
            _write(file, "", "a")
    here = machine()
    _, no_energy = packages()
    _introduce(chosen, here, no_energy)
    results: Results = {}
    status = 0
    try:
        with terminable(), progress(chosen.total, arguments.plain) as bar:
            _measure(chosen, bar, results, arguments.price)
    except RichMissingError as error:
        raise CommandError(str(error)) from None
    except KeyboardInterrupt:
        say("bench", "ended early by Ctrl-C")
        status = 130
    except CrewError as error:
        say("bench", str(error))
        status = 1
    _conclude(arguments, chosen, here, no_energy, results)
    return status


def _introduce(chosen: Scope, here: Machine, no_energy: str) -> None:
    from aiospin._cli.bench.machine import describe, unrest
    from aiospin._cli.bench.table import LEGEND

    print(describe(here))
    runs = (
        "that of 1 run" if chosen.runs == 1 else f"the median (least to most) of {chosen.runs} runs"
    )
    print(
        f"Each number is {runs} of {chosen.seconds:g} s, each in fresh processes and after a warm-up: in all about "
        f"{_duration(chosen.total)}."
    )
    for line in chosen.left_out:
        print(f"{line}.")
    if no_energy:
        print(f"Energy is left out: {no_energy}.")
    if busy := unrest(here):
        print(busy)
    print(f"{LEGEND}.", flush=True)


def _measure(chosen: Scope, bar: Progress, results: Results, price: float) -> None:
    """Measure everything, part by part; results get those that are complete.

    Policies take turns, so that what else the machine does meets all of them.

    :raises CrewError: a process failed.
    """
    from aiospin._cli.bench.measure import measure
    from aiospin._cli.bench.table import table

    for part in chosen.parts:
        found: dict[str, list[Run]] = {policy: [] for policy in chosen.policies}
        for number in range(chosen.runs):
            messages = chosen.messages(part, number)
            for policy, runs in found.items():
                bar.begin(f"{part}: {policy}")
                runs.append(measure(policy, part.loop, part.place, messages))
                bar.end(chosen.duration(messages))
        results[part] = found
        bar.put_away()
        print("\n".join(table(part, found, price)), flush=True)


def _conclude(
    arguments: argparse.Namespace, chosen: Scope, here: Machine, no_energy: str, results: Results
) -> None:
    from aiospin._cli.bench.machine import describe
    from aiospin._cli.bench.plot import svg, text
    from aiospin._cli.bench.recommend import excess, recommend
    from aiospin._cli.bench.results import as_json, overall

    recommendation = recommend(results, arguments.price) if results else None
    if results:
        together = "" if len(results) == 1 else f", {len(results)} parts together"
        print(f"\nLatency against CPU{together}:\n")
        print("\n".join(text(overall(results), excess(results, arguments.price))))
        print(
            f"Cost: {arguments.price:g} x latency + CPU, over that of the cheapest policy of each part."
        )
    if recommendation is not None:
        print(f"\n{recommendation.sentence}")
        if recommendation.doubt:
            print(recommendation.doubt)
    if arguments.json:
        settings = {
            "traffic": list(chosen.traffic),
            "policies": list(chosen.policies),
            "loops": list(chosen.loops),
            "places": list(chosen.places),
            "seconds": chosen.seconds,
            "runs": chosen.runs,
            "price": arguments.price,
            "trace": arguments.trace,
        }
        found = as_json(here, settings, no_energy, results, recommendation)
        _write(arguments.json, json.dumps(found, indent=1) + "\n")
    if arguments.plot and results:
        _write(arguments.plot, svg(results, f"aiospin bench: {describe(here)}"))


def _scope(arguments: argparse.Namespace) -> Scope:
    from aiospin._cli.bench.arrivals import read_trace
    from aiospin._cli.bench.scope import ScopeError, scope

    trace = None
    if arguments.trace is not None:
        try:
            trace = read_trace(Path(arguments.trace).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CommandError(f"--trace {arguments.trace}: {sentence(error)}") from None
    try:
        return scope(
            preset="quick" if arguments.quick else "all" if arguments.all else "",
            traffic=arguments.traffic,
            trace=trace,
            policies=arguments.policy,
            loops=arguments.loop,
            places=arguments.place,
            seconds=arguments.seconds,
            runs=arguments.runs,
        )
    except ScopeError as error:
        raise CommandError(str(error)) from None


def _write(file: str, content: str, mode: str = "w") -> None:
    try:
        with Path(file).open(mode, encoding="utf-8") as opened:
            opened.write(content)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {sentence(error)}") from None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _traffic(text: str) -> str:
    from aiospin._cli.bench.arrivals import arrivals

    try:
        arrivals(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, more than 0, not {text!r}")
    return value
