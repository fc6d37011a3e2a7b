"""What a constant of the policy gains or costs: the same measurement with other values of it.

    python benchmarks/constants.py
    python benchmarks/constants.py --constants slice --values 5000 10000 20000 --traffic 0.1ms --runs 5

Run it from a source checkout, with a C compiler: for each value the package is copied to a temporary folder, the number
is replaced in its source, and the core is built there. Then, the values taking turns, each is measured by two
programs with that package:

- ``aiospin bench``, the default policy: latency and CPU of a reader;
- ``loop_health.py --timer exact``: how late another task of the reader's loop is that sleeps for a millisecond, while
  messages come as often as here.

The value in the source is marked with *.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _measure import Progress, introduce, meeting_folder, parser, write_json

from aiospin._cli.bench.numbers import microseconds, row, share, spread

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("aiospin", "csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


@dataclass(frozen=True)
class Constant:
    """Where a number stands, and which others to try."""

    path: str
    pattern: str
    """A regular expression; its only group is the number."""
    values: tuple[int, ...]
    traffic: str
    place: str

    def value(self) -> int:
        """The one in the source."""
        found = re.findall(self.pattern, (ROOT / self.path).read_text(encoding="utf-8"))
        if len(found) != 1:
            raise RuntimeError(f"{self.path} has {len(found)} places that match {self.pattern!r}")
        return int(found[0].replace("_", ""))

    def replace(self, folder: Path, value: int) -> None:
        path = folder / self.path
        text = path.read_text(encoding="utf-8")
        found = re.search(self.pattern, text)
        assert found is not None
        path.write_text(
            text[: found.start(1)] + str(value) + text[found.end(1) :], encoding="utf-8"
        )


ASYNCIO = "aiospin/_loops/_asyncio.py"
CONSTANTS = {
    "slice": Constant(
        ASYNCIO,
        r"(?m)^SLICE_NS: Final = ([\d_]+)$",
        (2_000, 5_000, 10_000, 20_000, 50_000, 200_000),
        "1ms",
        "different",
    ),
    "busy": Constant(
        ASYNCIO,
        r"(?m)^BUSY_NS: Final = ([\d_]+)$",
        (3_000, 10_000, 30_000, 100_000, 300_000),
        "1ms",
        "different",
    ),
    "yield": Constant(
        "csrc/core/wait.c",
        r"#define YIELD_NS (\d+)u",
        (1_000, 3_000, 10_000, 30_000, 100_000, 1_000_000_000),
        "1ms",
        "same",
    ),
}
WIDTHS = (16, 24, 24, 24, 24, 24)
HEADS = ("p50 us", "p99 us", "reader CPU", "p50 us late, others", "p99 us late, others")


@dataclass(frozen=True)
class Result:
    p50_us: float
    p99_us: float
    cpu: float
    late_p50_us: float
    late_p99_us: float


def variant(folder: Path, constant: Constant, value: int) -> Path:
    """The package with this value, built."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    constant.replace(folder, value)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def call(package: Path, output: Path, *command: str) -> Any:
    """What a program that uses this package wrote as JSON."""
    subprocess.run(
        [sys.executable, *command, "--json", str(output)],
        env=os.environ | {"PYTHONPATH": str(package)},
        cwd=package,
        check=True,
        capture_output=True,
    )
    return json.loads(output.read_text(encoding="utf-8"))


def measure(package: Path, traffic: str, place: str, loop: str, seconds: float) -> Result:
    """One run."""
    output = package / "found.json"
    common = ("--seconds", f"{seconds:g}", "--runs", "1")
    bench = ("--plain", "--loop", loop, "--place", place, "--traffic", traffic)
    [found] = call(
        package, output, "-m", "aiospin", "bench", *bench, "--policy", "balanced", *common
    )["results"]
    period = traffic.partition("ms")[0]
    others = ("--waits", "aiospin", "--timer", "exact", "--loops", loop, "--period", period)
    health = call(package, output, str(ROOT / "benchmarks/loop_health.py"), *others, *common)
    [late] = [line for line in health["results"] if line["wait"] == "aiospin"]
    reader, other = found["runs"][0]["latency"]["all"], late["runs"][0]
    return Result(
        reader["p50_us"], reader["p99_us"], reader["cpu"], other["p50_us"], other["p99_us"]
    )


def main() -> int:
    command_line = parser(__doc__.partition("\n")[0], seconds=3.0, runs=3)
    command_line.add_argument(
        "--constants", nargs="+", choices=CONSTANTS, default=list(CONSTANTS), help="(default: all)"
    )
    command_line.add_argument("--values", nargs="+", type=int, help="(default: some of each)")
    command_line.add_argument("--traffic", help="periodic, as for aiospin bench (default: 1ms)")
    command_line.add_argument("--place", help="as for aiospin bench (default: one for each)")
    command_line.add_argument("--loop", choices=("asyncio", "uvloop"), default="uvloop")
    arguments = command_line.parse_args()
    introduce(arguments, "the median (smallest to largest)")
    results = []
    for name in arguments.constants:
        constant = CONSTANTS[name]
        traffic, place = arguments.traffic or constant.traffic, arguments.place or constant.place
        values = sorted({*(arguments.values or constant.values), constant.value()})
        found: dict[int, list[Result]] = {value: [] for value in values}
        progress = Progress(len(values) * (1 + arguments.runs))
        with meeting_folder() as folder:
            packages = {}
            for value in values:
                progress.step(f"{name} {value}: building")
                packages[value] = variant(Path(folder, str(value)), constant, value)
            for _ in range(arguments.runs):
                for value in values:
                    progress.step(f"{name} {value}")
                    measured = measure(
                        packages[value], traffic, place, arguments.loop, arguments.seconds
                    )
                    found[value].append(measured)
        progress.clear()
        print(f"\n{constant.path}: {constant.pattern}\n{traffic}, {arguments.loop}, {place}")
        print(row([name, *HEADS], WIDTHS))
        for value, runs in found.items():
            mark = "* " if value == constant.value() else "  "
            cells = [
                spread([run.p50_us for run in runs], microseconds),
                spread([run.p99_us for run in runs], microseconds),
                spread([run.cpu for run in runs], share),
                spread([run.late_p50_us for run in runs], microseconds),
                spread([run.late_p99_us for run in runs], microseconds),
            ]
            print(row([f"{mark}{value}", *cells], WIDTHS), flush=True)
            results.append({"constant": name, "value": value, "runs": [vars(run) for run in runs]})
    write_json(arguments, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
