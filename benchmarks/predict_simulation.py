"""When to spin: csrc/core/predict.c against simulated writers and machines, and what chose its constants.

    python benchmarks/predict_simulation.py                the strategies, the steps, the constants
    python benchmarks/predict_simulation.py --only steps

Needs a C compiler ($CC, or cc) and a minute; nothing is timed, so the figures are the same on every machine.

The merit of a strategy is what a message costs it, price x latency + CPU, over what it costs the better of always
spinning and never spinning, as a mean over all processes on all machines. A reader that knew which of the two to choose
and did nothing else would have 1. A variant of predict.c is compiled from its text with one definition changed.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "csrc" / "core"
SOURCES = ("predict.c", "predict.h")

ALWAYS, NEVER, PREDICTED = "always spin", "never spin", "predicted"
POISSON = "Poisson, mean 7 ms"
PRICES = (10, 25, 50, 100, 200)

# One at a time, the value in the source among them.
CONSTANTS: dict[str, tuple[str, ...]] = {
    "ASP_PREDICT_GAPS": ("16u", "24u", "32u", "48u", "64u"),
    "ASP_PREDICT_WINDOWS": ("1u", "2u", "3u", "4u"),
    "WORTH_MEMORY": ("4", "8", "16", "32", "64"),
    "WORTH_LEAST": ("0", "1", "2", "4"),
    "BEYOND": ("1", "2", "4", "8"),
    "OVERSLEEP_MEMORY": ("8", "16", "32", "64", "128"),
    "LATENCY_MEMORY": ("2", "4", "8", "16", "32"),
    "TRIAL_WAITS": ("32u", "64u", "128u", "256u", "512u"),
    "TRIAL_NS": ("100000000u", "1000000000u", "10000000000u"),
    "CREDIT": ("2", "4", "8", "16"),
    "PURSE_HOLDS": ("16", "64", "256"),
}

# Text of predict.c, and what stands there without the step.
STEPS: dict[str, tuple[tuple[str, str], ...]] = {
    "all of them": (),
    "ends of a window win too": (("parked - won", "parked"),),
    "acts on untested windows": ((" || p->worth_ns <= WORTH_LEAST * prize(p)", ""),),
    "neither": (("parked - won", "parked"), (" || p->worth_ns <= WORTH_LEAST * prize(p)", "")),
    "stops at the last gap": (("+ (uint64_t)prize(p) / (count - last) / BEYOND", "+ 1"),),
    "no lead": (("*lead_of(p, gap[first]) + spacing", "spacing"),),
    "late sleeps not learned": (("asp_predict_overslept(p, p->due_ns, seen_ns);", ""),),
}


@dataclass(frozen=True)
class Figure:
    p50: float  # us
    p99: float  # us
    cpu: float  # share of one core
    cost: float  # us of CPU for a message


Figures = dict[tuple[str, str, str], Figure]  # by machine, process, strategy


def simulate(
    *arguments: str,
    constant: tuple[str, str] | None = None,
    changes: tuple[tuple[str, str], ...] = (),
) -> Figures:
    """Compile predict.c, with what is to be changed in it, and run the simulation."""
    with tempfile.TemporaryDirectory() as folder:
        text = {name: (CORE / name).read_text() for name in SOURCES}
        if constant is not None:
            name, value = constant
            found = 0
            for source in SOURCES:
                text[source], count = re.subn(
                    rf"(?m)^#define {name} .*$", f"#define {name} {value}", text[source]
                )
                found += count
            if found != 1:
                raise SystemExit(f"error: predict.c and predict.h define {name} {found} times")
        for old, new in changes:
            if old not in text["predict.c"]:
                raise SystemExit(f"error: predict.c has no {old!r}; bring STEPS up to date")
            text["predict.c"] = text["predict.c"].replace(old, new)
        for name in SOURCES:
            (Path(folder) / name).write_text(text[name])
        program = Path(folder) / "simulation"
        command = [
            *shlex.split(os.environ.get("CC", "cc")),
            *("-std=gnu11", "-O2", f"-I{folder}", f"-I{ROOT / 'tests/native'}", f"-I{CORE}"),
            *(str(ROOT / "benchmarks/predict_simulation.c"), f"{folder}/predict.c"),
            *("-o", str(program)),
        ]
        subprocess.run(command, check=True)
        output = subprocess.run(
            [program, *arguments], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
    figures: Figures = {}
    for line in output.splitlines():
        machine, process, strategy, *numbers = line.split("\t")
        figures[machine, process, strategy] = Figure(*map(float, numbers))
    return figures


def ratios(figures: Figures, base: Figures, strategy: str) -> dict[tuple[str, str], float]:
    """Cost over that of the better of always and never spinning, by machine and process."""
    return {
        (machine, process): figure.cost
        / min(base[machine, process, ALWAYS].cost, base[machine, process, NEVER].cost)
        for (machine, process, name), figure in figures.items()
        if name == strategy
    }


def names(figures: Figures, position: int) -> list[str]:
    return list(dict.fromkeys(key[position] for key in figures))


def print_strategies(base: Figures) -> None:
    strategies = names(base, 2)
    for machine in names(base, 0):
        print(f"\n{machine}: latency p50 and p99 in us, share of a core")
        print(f"{'':28}" + "".join(f" | {name:^19}" for name in strategies))
        for process in names(base, 1):
            cells = (base[machine, process, name] for name in strategies)
            shown = (f" | {c.p50:5.1f} {c.p99:5.1f} {c.cpu:7.2%}" for c in cells)
            print(f"{process:28}" + "".join(shown))
        merits = (ratios(base, base, name) for name in strategies)
        at_machine = (mean(v for (m, _), v in r.items() if m == machine) for r in merits)
        print(f"{'merit':28}" + "".join(f" | {merit:19.3f}" for merit in at_machine))
    print("\nover all machines     merit  worst row")
    for name in strategies:
        found = ratios(base, base, name)
        (machine, process), worst = max(found.items(), key=lambda item: item[1])
        print(f"{name:20} {mean(found.values()):6.3f} {worst:6.2f}  {process}, {machine}")


def print_prices() -> None:
    """The predicting strategy on the event loop, by price: what `cpu_per_latency` buys."""
    found = {price: simulate(str(price)) for price in PRICES}
    print("\nevent loop, predicted, by ns of CPU for one of latency: p50 in us, share of a core")
    print(f"{'':28}" + "".join(f" | {price:^13}" for price in PRICES))
    for process in names(found[PRICES[0]], 1):
        cells = (found[price]["event loop", process, PREDICTED] for price in PRICES)
        print(f"{process:28}" + "".join(f" | {c.p50:5.1f} {c.cpu:7.2%}" for c in cells))


def describe(figures: Figures, base: Figures) -> str:
    found = ratios(figures, base, PREDICTED)
    poisson = max(
        figures[machine, POISSON, PREDICTED].cpu / base[machine, POISSON, NEVER].cpu
        for machine in names(figures, 0)
    )
    late = mean(
        figures[machine, process, PREDICTED].p99 / base[machine, process, NEVER].p99
        for machine, process in found
    )
    return f"{mean(found.values()):8.4f} {max(found.values()):8.3f} {late:8.3f} {poisson:8.2f}"


COLUMNS = "   merit    worst      p99  Poisson"
LEGEND = "worst: of all rows; p99: over that of parking; Poisson: CPU over that of parking, 7 ms"


def print_steps(base: Figures) -> None:
    print(f"\n{'without a step':30}{COLUMNS}\n{LEGEND}")
    for name, changes in STEPS.items():
        print(f"{name:30}{describe(simulate('50', changes=changes), base)}")


def print_constants(base: Figures) -> None:
    print(f"\n{'constant':30}{COLUMNS}\n{LEGEND}")
    chosen = "".join((CORE / name).read_text() for name in SOURCES)
    for name, values in CONSTANTS.items():
        for value in values:
            mark = "*" if re.search(rf"(?m)^#define {name} {value}\b", chosen) else " "
            found = describe(simulate("50", constant=(name, value)), base)
            print(f"{mark} {name:20}{value.rstrip('u'):>8}{found}", flush=True)


def main() -> int:
    tables = ("strategies", "prices", "steps", "constants")
    command_line = argparse.ArgumentParser(description="What chose the constants of predict.c.")
    command_line.add_argument("--only", nargs="+", choices=tables, default=tables)
    chosen = command_line.parse_args().only
    base = simulate()
    if "strategies" in chosen:
        print_strategies(base)
    if "prices" in chosen:
        print_prices()
    if "steps" in chosen:
        print_steps(base)
    if "constants" in chosen:
        print_constants(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
