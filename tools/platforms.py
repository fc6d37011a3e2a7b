"""Which instruction was executed where, and what was seen: the tables of docs/platforms.md.

    python tools/platforms.py record [WHERE] < OUTPUT     keep the lines RESULT of a program's output
    python tools/platforms.py tables                      write what was kept into the tables

The conformance programs print the lines (tests/emulated/README.md says what they mean). WHERE is an
emulator and its version; without it, it is the processor of this machine. What was kept lies in
build/platforms, a file for each place. A row of the tables stays until the same thing is run in
the same place again, so that nobody needs every machine to bring the tables up to date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "build" / "platforms"
DOCUMENT = ROOT / "docs" / "platforms.md"

Result = dict[str, str]

INSTRUCTIONS = {
    ("x86_64", "mwaitx"): "MONITORX, MWAITX",
    ("x86_64", "umwait"): "UMONITOR, UMWAIT",
    ("x86_64", "tpause"): "TPAUSE",
    ("x86_64", "pause"): "PAUSE",
    ("x86_64", "generic"): "none",
    ("aarch64", "wfet"): "LDAXRB, WFET",
    ("aarch64", "wfe"): "LDAXRB, WFE",
    ("aarch64", "isb"): "ISB",
    ("aarch64", "yield"): "YIELD",
    ("aarch64", "generic"): "none",
    ("riscv64", "zawrs"): "LR.D, WRS.STO",
    ("riscv64", "pause"): "PAUSE",
    ("riscv64", "generic"): "none",
}


# ---- recording ----


def this_processor() -> str:
    """Its name, and whether all of it is ours."""
    text = Path("/proc/cpuinfo").read_text()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE)
    model = name[1] if name else platform.machine()
    return f"silicon, {model}{' in a virtual machine' if virtual else ''}"


def parse(line: str) -> Result:
    """The keys and values of a line RESULT."""
    return dict(field.split("=", 1) for field in line.split()[1:])


def identity(result: Result) -> str:
    """What a later result replaces an earlier one of."""
    return " ".join(result[key] for key in ("suite", "arch", "backend", "masked") if key in result)


def record(where: str, lines: Iterable[str]) -> int:
    """Keep the lines RESULT among these, and return how many there were."""
    path = RECORDS / f"{re.sub(r'[^A-Za-z0-9.]+', '-', where).strip('-')}.json"
    kept: dict[str, Result] = json.loads(path.read_text())["results"] if path.exists() else {}
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    count = 0
    for line in lines:
        if line.startswith("RESULT "):
            result = parse(line) | {"date": today}
            kept[identity(result)] = result
            count += 1
    if count:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"where": where, "results": kept}, indent=1) + "\n")
    return count


def recorded(suite: str) -> Iterator[tuple[str, Result]]:
    """Every result of a suite, and where it was."""
    for path in sorted(RECORDS.glob("*.json")):
        file = json.loads(path.read_text())
        for result in file["results"].values():
            if result["suite"] == suite:
                yield file["where"], result


# ---- tables ----


@dataclass(frozen=True)
class Table:
    """One table of the document, between two comments that name it."""

    name: str
    columns: tuple[str, ...]
    keys: int  # so many columns, the first ones, say what the row is about

    @property
    def region(self) -> re.Pattern[str]:
        return re.compile(
            rf"(<!-- {self.name} -->\n)(.*?)(<!-- end of {self.name} -->\n)", re.DOTALL
        )

    def rows(self, document: str) -> dict[tuple[str, ...], list[str]]:
        """What the document has now."""
        found = self.region.search(document)
        if found is None:
            raise SystemExit(f"error: {DOCUMENT} has no comment <!-- {self.name} --> and its end")
        lines = [line for line in found[2].splitlines() if line.startswith("| ")][1:]
        rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
        for row in rows:
            if len(row) != len(self.columns):
                raise SystemExit(f"error: a row of {self.name} has {len(row)} columns: {row}")
        return {tuple(row[: self.keys]): row for row in rows}

    def write(self, document: str, rows: dict[tuple[str, ...], list[str]]) -> str:
        lines = [
            f"| {' | '.join(self.columns)} |",
            "|" + "---|" * len(self.columns),
            *(f"| {' | '.join(row)} |" for _, row in sorted(rows.items(), key=place)),
        ]
        return self.region.sub(
            lambda found: found[1] + "\n".join(lines) + "\n" + found[3], document
        )


ARCHITECTURES = list(dict.fromkeys(arch for arch, _ in INSTRUCTIONS))
ORDER = {(arch, f"`{backend}`"): number for number, (arch, backend) in enumerate(INSTRUCTIONS)}


def place(item: tuple[tuple[str, ...], list[str]]) -> tuple[int, int, tuple[str, ...]]:
    """Where a row stands: by architecture, by backend where it is about one, by the rest."""
    architecture, *rest = item[0]
    return (
        ARCHITECTURES.index(architecture), ORDER.get((architecture, rest[0]), 0), tuple(rest),
    )  # fmt: skip


BACKENDS = Table(
    "executed backends",
    (
        "architecture", "backend", "executed on", "instructions", "woken by a store",
        "woken by the time", "wakes a second, idle", "it", "last run",
    ),
    3,
)  # fmt: skip
API = Table(
    "executed from Python",
    (
        "architecture",
        "backend",
        "executed on",
        "Python",
        "waits",
        "time-outs",
        "messages",
        "last run",
    ),
    4,
)
FALLBACKS = Table(
    "executed fallbacks",
    (
        "architecture",
        "executed on",
        "features taken away",
        "chosen",
        "wakes a second, idle",
        "last run",
    ),
    3,
)


def share(score: str) -> str:
    """A score as "n of m", and nothing where there was nothing to try."""
    return "-" if score == "-" else score.replace("/", " of ")


def backend_rows() -> Iterator[list[str]]:
    for where, result in recorded("backend"):
        arch, backend = result["arch"], result["backend"]
        yield [
            arch, f"`{backend}`", where, INSTRUCTIONS[arch, backend], share(result["store"]),
            share(result["timeout"]), f"{int(result['idle_wakes_per_s']):,}",
            result["verdict"].replace("-", " "), result["date"],
        ]  # fmt: skip


def api_rows() -> Iterator[list[str]]:
    for where, result in recorded("api"):
        yield [
            result["arch"], f"`{result['backend']}`", where, result["python"],
            share(result["waits"]), share(result["timeouts"]), share(result["messages"]), result["date"],
        ]  # fmt: skip


def fallback_rows() -> Iterator[list[str]]:
    for where, result in recorded("fallback"):
        masked = result["masked"]
        yield [
            result["arch"], where, "none" if masked == "-" else masked.replace(",", ", "),
            f"`{result['chosen']}`", f"{int(result['idle_wakes_per_s']):,}", result["date"],
        ]  # fmt: skip


def write_tables() -> None:
    document = DOCUMENT.read_text()
    for table, fresh in (
        (BACKENDS, backend_rows()),
        (API, api_rows()),
        (FALLBACKS, fallback_rows()),
    ):
        rows = table.rows(document)
        rows.update({tuple(row[: table.keys]): row for row in fresh})
        document = table.write(document, rows)
        print(f"{table.name}: {len(rows)} rows")
        if table is BACKENDS:
            executed = {(row[0], row[1].strip("`")) for row in rows.values()}
            for arch, backend in INSTRUCTIONS:
                if (arch, backend) not in executed:
                    print(f"    not executed anywhere so far: {backend} ({arch})")
    DOCUMENT.write_text(document)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser("record", help="keep the lines RESULT on standard input")
    task.add_argument(
        "where", nargs="?", help="an emulator and its version; without it this machine"
    )
    tasks.add_parser("tables", help="write the tables")
    options = parser.parse_args()
    if options.task == "tables":
        write_tables()
        return
    lines = sys.stdin.read().splitlines()
    print("\n".join(lines))
    if record(options.where or this_processor(), lines) == 0:
        raise SystemExit("error: there was no line RESULT on standard input")


if __name__ == "__main__":
    main()
