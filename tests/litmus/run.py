"""Asks herd7 what three memory models make of the litmus programs of this folder.

    python tests/litmus/run.py [PROGRAM...]        all, when none is named

Of every program the forbidden outcome must be impossible, and free of races; each allowed one must be possible; and
with each mutant's edits the forbidden outcome must become possible, so none of the programs passes whatever the code
does; with those of a spare it must stay impossible. Before that every program is compared with the C code (source.py).
Exit status 1 if anything deviates.

The model is RC11 (Lahav et al., "Repairing Sequential Consistency in C/C++11", PLDI 2017), which comes with herd7, less
its axiom against values out of thin air: that one also forbids that a load is delayed beyond a later store (load
buffering), which compilers and Arm do. Whatever is impossible here is impossible in RC11 too.

The others are those of Armv8 and of RISC-V, for the same programs compiled (compiled.py). There the forbidden outcome
must be impossible too, and one mutant at least must make it possible. Not every one does: an instruction may order more
than the operation asks for that it is compiled from, and a processor does not store before it knows that it has to.

herd7 is the one of this machine, else Debian's, unpacked under build/debian; the compiler is tools/cross.py's. Exit
status 77 and "skipped: " with the reason where herd7 cannot be had.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import debian  # noqa: E402
from litmus.compiled import ARMV8, RISCV, Machine, compile_all  # noqa: E402
from litmus.programs import Program, programs  # noqa: E402
from prerequisite import UnavailableError, skip  # noqa: E402

WORK = ROOT / "build" / "litmus"

SUITE = "sid"  # no release has herdtools7 yet
RC11 = ("-model", "rc11.cat", "-skipchecks", "no-thin-air")
HARDWARE = ("-speedcheck", "fast", "-unroll", "0")  # with herd7's own models
MOST_SECONDS = 60  # of CPU for one question; the longest takes six


def herd() -> list[str | Path]:
    """The beginning of a herd7 command."""
    installed = shutil.which("herd7")
    if installed:
        return [installed]
    architecture = debian.architecture()
    root = debian.unpack(SUITE, architecture, ["herdtools7"])
    usr = root / "usr"
    models = ("-set-libdir", usr / "share" / "herdtools7" / "herd")
    return [*debian.loader(root, architecture), usr / "bin" / "herd7", *models]


class Question(NamedTuple):
    name: str
    kind: str
    """forbidden, allowed, mutant or spare"""
    what: str
    text: str


def questions(program: Program) -> list[Question]:
    asked: list[tuple[str, str, str, list[str]]] = [("forbidden", program.forbidden, "", [])]
    asked += [("allowed", what, condition, []) for what, condition in program.allowed]
    asked += [("mutant", what, "", edits) for what, edits in program.mutants]
    asked += [("spare", what, "", edits) for what, edits in program.spares]
    found = []
    for number, (kind, what, condition, edits) in enumerate(asked):
        name = f"{program.name}-{number}-{kind}"
        found.append(Question(name, kind, what, program.text(name, condition, edits)))
    return found


class Answer(NamedTuple):
    possible: bool
    races: bool
    text: str

    def is_right(self, kind: str) -> bool:
        if kind == "mutant":
            return self.possible or self.races
        return self.possible == (kind == "allowed") and not self.races


Answers = dict[str, Answer]


def ask(command: Sequence[str | Path], folder: Path, texts: dict[str, str]) -> Answers:
    """By the names of the questions; one that herd7 cannot read or answer in time is missing."""
    paths = []
    for name, text in texts.items():
        path = folder / f"{name}.litmus"
        path.write_text(text)
        paths.append(path)

    def run(share: list[Path]) -> str:
        result = subprocess.run(
            [*command, "-optace", "true", "-timeout", str(MOST_SECONDS), *share],
            capture_output=True,
            text=True,
            check=False,
        )
        # That exclusive pairs are tried once only is as it shall be: compiled.py.
        warnings = [line for line in result.stderr.splitlines() if "unrolling limit" not in line]
        print("".join(f"{line}\n" for line in warnings), end="", flush=True)
        return result.stdout

    jobs = os.cpu_count() or 1
    with ThreadPoolExecutor(jobs) as pool:
        said = "".join(pool.map(run, (paths[job::jobs] for job in range(jobs))))
    answers = {}
    for block in re.split(r"^(?=Test )", said, flags=re.MULTILINE):
        seen = re.search(r"^Observation (\S+) (Never|Sometimes|Always) ", block, re.MULTILINE)
        if seen:
            answers[seen[1]] = Answer(seen[2] != "Never", "\nFlag *undef*\n" in block, block)
    return answers


def fresh(name: str) -> Path:
    folder = ROOT / "build" / "litmus" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def ask_rc11(command: Sequence[str | Path], asked: list[Question]) -> Answers:
    texts = {question.name: question.text for question in asked}
    return ask([*command, *RC11], fresh("rc11"), texts)


def ask_hardware(
    command: Sequence[str | Path], machine: Machine, asked: list[Question]
) -> Answers | UnavailableError:
    """What must be impossible, and with what it is possible."""
    folder = fresh(machine.model.lower())
    chosen = [question for question in asked if question.kind in ("forbidden", "mutant")]
    try:
        compiled = compile_all(machine, [question.text for question in chosen], folder)
    except UnavailableError as error:
        return error
    names = [question.name for question in chosen]
    return ask([*command, *HARDWARE], folder, dict(zip(names, compiled, strict=True)))


def of_rc11(asked: list[Question], answers: Answers) -> tuple[str, list[str]]:
    """A program's columns, and what deviates."""
    right = dict.fromkeys(("forbidden", "allowed", "mutant", "spare"), 0)
    wrong = []
    for question in asked:
        answer = answers.get(question.name)
        if answer and answer.is_right(question.kind):
            right[question.kind] += 1
        else:
            text = answer.text if answer else "herd7 has no answer"
            wrong.append(f"{question.kind}: {question.what}\n{text}")
    kinds = [question.kind for question in asked]
    counts = [f"{right[kind]} of {kinds.count(kind)}" for kind in right if kind != "forbidden"]
    verdict = "never" if right["forbidden"] else "POSSIBLE"
    return "".join(f"{column:10}" for column in (verdict, *counts)), wrong


def of_hardware(name: str, asked: list[Question], answers: Answers) -> tuple[str, list[str]]:
    forbidden = answers.get(asked[0].name)
    if forbidden is None:
        return f"{'no answer':20}", []
    mutants = [answers.get(question.name) for question in asked if question.kind == "mutant"]
    shown = sum(answer is not None and answer.possible for answer in mutants)
    wrong = []
    if forbidden.possible:
        wrong.append(f"{name}: possible: {asked[0].what}\n{forbidden.text}")
    if not shown:
        wrong.append(f"{name}: not one mutant makes it possible")
    verdict = "POSSIBLE" if forbidden.possible else "never"
    return f"{verdict:10}{f'{shown} of {len(mutants)}':10}", wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="program", help="without .litmus")
    named = parser.parse_args().programs
    chosen = [program for program in programs() if not named or program.name in named]
    if not chosen or len(chosen) < len(named):
        raise SystemExit(f"error: there are only {', '.join(each.name for each in programs())}")
    drifted = [problem for program in chosen for problem in program.drift()]
    if drifted:
        raise SystemExit("\n".join(["error: the C code does something else:", *drifted]))
    try:
        command = herd()
    except UnavailableError as error:
        skip(UnavailableError(f"litmus programs: herd7: {error}"))
    begun = time.monotonic()
    asked = {program.name: questions(program) for program in chosen}
    every = [question for each in asked.values() for question in each]
    rc11 = ask_rc11(command, every)
    hardware = {machine.name: ask_hardware(command, machine, every) for machine in (ARMV8, RISCV)}
    print(f"{'':15}{'C11':40}{'Armv8':20}RISC-V")
    print("program        forbidden allowed   mutants   spares    " + "forbidden mutants   " * 2)
    failed = 0
    for name, each in asked.items():
        columns, wrong = of_rc11(each, rc11)
        for machine, answers in hardware.items():
            if not isinstance(answers, UnavailableError):
                more, too = of_hardware(machine, each, answers)
                columns, wrong = columns + more, wrong + too
        print(f"{name:15}{columns}".rstrip())
        for deviation in wrong:
            print(f"error: {name}: {deviation}")
        failed += bool(wrong)
    print(f"{len(every)} questions in {time.monotonic() - begun:.0f} s")
    for machine, answers in hardware.items():
        if isinstance(answers, UnavailableError):
            print(f"skipped: litmus programs on {machine}: {answers}")
        elif missing := [name for name in asked if asked[name][0].name not in answers]:
            names = ", ".join(missing)
            print(f"skipped: litmus programs on {machine}: herd7 has no answer: {names}")
    print(f"litmus: {len(chosen) - failed} passed, {failed} failed")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
