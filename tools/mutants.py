"""Breaks the C core by hand, in one place at a time, and says which check notices.

    python tools/mutants.py [--only TEXT] [--jobs 2] [--list]

The breakages are those of tools/mutations.py. Each is made in a copy of the tree, of which only what depends on it
is compiled again; the check that is expected to notice runs first, every native test after it where that one does not.
Before anything is broken all of these checks must pass: one that always fails catches nothing.

What no machine here can show is shown in a model: a store or a fence that only a weakly ordered memory would miss
changes nothing on x86, and an aarch64 emulated on x86 has x86's order too. There the same breakage is made in
tests/models, whose explorer must find where it leads, and the text in the C code must still be there.

Exit status 1 when a mutant is missed, or when the text that it changes is no longer there.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations import MUTANTS, Mutant
from prerequisite import SKIPPED

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("Makefile", "csrc", "tests/native", "tests/conformance", "tests/soak", "tests/fuzz")
LONGEST = 10.0  # seconds that a check may take, and
SLOWER = 5.0  # this many times what it takes on the whole core: then it hangs
TELLING = re.compile(
    r"failed:|ThreadSanitizer:|AddressSanitizer:|runtime error:|Error:|stack smash"
)


class BrokenError(Exception):
    """No verdict: the list or the tree is not as it should be."""


@dataclass
class Outcome:
    status: int | None  # None: it did not end
    seconds: float
    output: str

    @property
    def reason(self) -> str:
        """The line that says what went wrong."""
        if self.status is None:
            return f"did not end in {self.seconds:.0f} s"
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        telling = [line for line in lines if TELLING.search(line)]
        if telling:
            return telling[0]
        return lines[-1] if lines and self.status > 0 else f"exit status {self.status}"


def run(
    command: Sequence[str | Path],
    folder: Path,
    limit: float,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Runs it in a session of its own, of which nothing is left when it does not end."""
    begun = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Outcome(None, time.monotonic() - begun, output)
    return Outcome(process.returncode, time.monotonic() - begun, output)


# ---- checks ----


class Checks:
    """The native tests of a tree, and the models."""

    def __init__(self, compiler: str, jobs: int) -> None:
        self.compiler = compiler
        self.jobs = jobs
        self.seconds: dict[str, float] = {}  # that each took on the whole core
        plain = ["setarch", "-R"]  # see tools/run_native.sh
        works = shutil.which("setarch") and run([*plain, "true"], ROOT, LONGEST).status == 0
        self.steady = plain if works else []

    def program(self, check: str) -> str:
        flavour, program, *_ = check.split()
        return f"build/native/{Path(self.compiler).name}-{flavour}/{program}"

    def build(self, tree: Path, checks: Sequence[str]) -> None:
        programs = sorted({self.program(check) for check in checks})
        command = ["make", "-s", f"-j{self.jobs}", f"CC={self.compiler}", *programs]
        built = run(command, tree, 600, {"MAKEFLAGS": "", "MFLAGS": ""})
        if built.status != 0:
            raise BrokenError(f"it does not compile:\n{built.output}")

    def run(self, tree: Path, check: str) -> Outcome:
        if check.startswith("model "):
            test = "tests/models/" + check.removeprefix("model ")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
            # The models are Python; where the core was not built, its absence would be an error.
            return run(command, ROOT, 300, {"AIOSPIN_NO_EXT": "1"})
        _, _, *arguments = check.split()
        limit = LONGEST + SLOWER * self.seconds.get(check, LONGEST)
        environment = {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
        return run([*self.steady, tree / self.program(check), *arguments], tree, limit, environment)

    def pass_on(self, tree: Path, check: str) -> str | None:
        """Must pass on the whole core; None, or why it cannot be run here."""
        outcome = self.run(tree, check)
        if outcome.status == SKIPPED:
            return outcome.reason
        if outcome.status != 0:
            raise BrokenError(
                f"{check} fails on the unbroken core: {outcome.reason}\n{outcome.output}"
            )
        self.seconds[check] = outcome.seconds
        return None


def native_tests() -> list[str]:
    found = [*ROOT.glob("tests/native/test_*.c"), *ROOT.glob("tests/conformance/test_*.c")]
    return [*(f"test {path.stem}" for path in sorted(found)), "test soak_park"]


# ---- mutants ----


def broken(mutant: Mutant, tree: Path) -> str:
    """The text of the file with the mutant in it."""
    whole = (tree / mutant.file).read_text()
    found = whole.count(mutant.text)
    if found != 1:
        raise BrokenError(
            f"{mutant.file} has the text that it changes {found} times instead of once; bring"
            f" tools/mutations.py up to date:\n{mutant.text}"
        )
    return whole.replace(mutant.text, mutant.replacement)


def judge(mutant: Mutant, checks: Checks, whole: Path, tree: Path) -> tuple[str, str, str]:
    """(caught or missed, the check, what it said)"""
    text = broken(mutant, whole)
    if mutant.check.startswith("model "):
        # The test of the model passes when the explorer finds a violation.
        outcome = checks.run(whole, mutant.check)
        if outcome.status == 0:
            return "caught", mutant.check, "the explorer finds a violation"
        return "missed", mutant.check, outcome.reason
    shutil.copytree(whole, tree, symlinks=True)
    (tree / mutant.file).write_text(text)
    checks.build(tree, [mutant.check])
    outcome = checks.run(tree, mutant.check)
    if outcome.status != 0:
        return "caught", mutant.check, outcome.reason
    for check in native_tests():
        checks.build(tree, [check])
        outcome = checks.run(tree, check)
        if outcome.status not in (0, SKIPPED):
            checks.build(whole, [check])
            checks.pass_on(whole, check)  # or it says nothing
            return "caught", check, f"(not by {mutant.check}) {outcome.reason}"
    return "missed", mutant.check, "every check passes"


def say(verdict: str, seconds: float, mutant: Mutant, check: str, reason: str) -> None:
    print(f"{verdict:8}{seconds:6.1f} s  {mutant.name}\n{'':18}{check}: {reason[:160]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="those with it in name, file or check"
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time (2)")
    parser.add_argument("--compiler", default=os.environ.get("CC", "gcc"), help="$CC, or gcc")
    parser.add_argument("--list", action="store_true", help="only name them")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if options.only in f"{m.name}\n{m.file}\n{m.check}"]
    if not chosen:
        parser.error(f"no mutant has {options.only!r} in its name, file or check")
    if options.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.name} ({mutant.check})")
        return 0
    begun = time.monotonic()
    counts = {"caught": 0, "missed": 0, "skipped": 0, "error": 0}
    checks = Checks(options.compiler, options.jobs)
    with tempfile.TemporaryDirectory(prefix="aiospin-mutants-") as folder:
        whole = Path(folder) / "whole"
        for name in COPIED:
            source = ROOT / name
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, whole / name)
        native = sorted({m.check for m in chosen if not m.check.startswith("model ")})
        unavailable: dict[str, str] = {}
        try:
            checks.build(whole, native)
            for check in native:
                reason = checks.pass_on(whole, check)
                if reason is not None:
                    unavailable[check] = reason
        except BrokenError as error:
            print(f"error: {error}")
            return 1
        print(f"the unbroken core passes, {time.monotonic() - begun:.0f} s", flush=True)
        for number, mutant in enumerate(chosen):
            tree, since = Path(folder) / str(number), time.monotonic()
            if mutant.check in unavailable:
                verdict, check, reason = "skipped", mutant.check, unavailable[mutant.check]
            else:
                try:
                    verdict, check, reason = judge(mutant, checks, whole, tree)
                except BrokenError as error:
                    verdict, check, reason = "error", mutant.check, str(error)
            counts[verdict] += 1
            say(verdict, time.monotonic() - since, mutant, check, reason)
            shutil.rmtree(tree, ignore_errors=True)
    in_model = sum(m.check.startswith("model ") for m in chosen)
    print(
        f"mutants: {counts['caught']} caught, {counts['missed']} missed, {counts['skipped']} skipped,"
        f" {counts['error']} errors, of {len(chosen)} ({in_model} in a model),"
        f" {time.monotonic() - begun:.0f} s"
    )
    return 1 if counts["missed"] or counts["error"] else 0


if __name__ == "__main__":
    sys.exit(main())
