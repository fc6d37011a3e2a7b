"""The litmus programs of this folder: what is written in their heads and beside their lines.

A program is herd7's C. The comment at its head says in words what it is about, and in lines that begin with one of
these words what is asked of it:

    forbidden  WHAT                 what its `exists` describes; must never be
    allowed    WHAT: CONDITION      must be possible, or the program would prove nothing
    mutant     WHAT: EDIT and EDIT  with these edits the forbidden outcome must become possible
    spare      WHAT: EDIT and EDIT  with these it stays impossible: the code does more than this outcome asks for
    location   NAME: WORD, WORD     a location that has other names in the source

Beside a line stands the access of the source that it is, as `// function: access`, such as
`// advance: asp_store_release cursor`. A line that is only such a comment is an access that the model leaves out,
with the reason in parentheses unless the lines that follow are those of the called function. What is the kernel's
is `// kernel: …`, and what only an edit needs to name is `// step: …`. An edit names lines by that comment:

    drop LINE                       without it
    relax LINE                      its memory order is relaxed
    move LINE before LINE           earlier than it is
    set LINE = CODE                 other code in its place

Of several lines with one comment ` #2` behind it means the second, and nothing all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from litmus.source import (
    POINTERS,
    SYSTEM_CALLS,
    Access,
    DriftError,
    Operation,
    accesses,
    once,
    operations,
)

FOLDER = Path(__file__).resolve().parent

_TAG = re.compile(
    r"^(?P<code>.*?)\s*// (?P<function>\w+): (?P<access>\w+(?: \w+)?)(?P<why> \(.+\))?$"
)
_KERNEL = re.compile(r"^(?P<code>.*?)\s*// (?P<tag>(?:kernel|step): .+)$")
_ATOMIC = re.compile(
    r"atomic_(?:(?P<fence>thread_fence)\(|(?P<kind>\w+?)(?:_strong)?_explicit\((?P<location>\w+),)"
    r".*?memory_order_(?P<order>\w+)"
)


class Line(NamedTuple):
    text: str
    code: str = ""
    tag: str = ""
    """What edits call it."""
    function: str = ""
    """Empty when it is the kernel's, or nothing that the source has."""
    access: Access = Access("")
    why: str = ""
    """It is left out."""


class Allowed(NamedTuple):
    what: str
    condition: str


class Mutant(NamedTuple):
    what: str
    edits: list[str]


def _line(text: str) -> Line:
    if kernel := _KERNEL.match(text):
        return Line(text, kernel["code"], kernel["tag"])
    if match := _TAG.match(text):
        call, _, word = match["access"].partition(" ")
        tag = f"{match['function']}: {match['access']}"
        access = Access(call, word)
        return Line(text, match["code"].strip(), tag, match["function"], access, match["why"] or "")
    return Line(text, text.partition("//")[0].strip())


@dataclass
class Program:
    path: Path
    forbidden: str = ""
    allowed: list[Allowed] = field(default_factory=list)
    mutants: list[Mutant] = field(default_factory=list)
    spares: list[Mutant] = field(default_factory=list)
    locations: dict[str, set[str]] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    condition: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @classmethod
    def read(cls, path: Path) -> Program:
        program = cls(path)
        text = path.read_text()
        head, _, body = text.partition("*)\n")
        for line in head.splitlines():
            word, _, rest = line.partition(" ")
            what, _, value = rest.strip().partition(": ")
            match word:
                case "forbidden":
                    program.forbidden = rest.strip()
                case "allowed":
                    program.allowed.append(Allowed(what, value))
                case "mutant":
                    program.mutants.append(Mutant(what, value.split(" and ")))
                case "spare":
                    program.spares.append(Mutant(what, value.split(" and ")))
                case "location":
                    program.locations[what] = set(value.split(", "))
        body, _, program.condition = body.rpartition("\nexists ")
        program.lines = [_line(line) for line in body.splitlines()]
        return program

    def text(self, name: str, condition: str = "", edits: list[str] | None = None) -> str:
        """For herd7, under another name; with edits, or asked for something else."""
        lines = list(self.lines)
        for edit in edits or []:
            lines = self._edited(lines, edit)
        body = "\n".join(line.text for line in lines)
        return f"C {name}\n{body}\nexists {condition or self.condition}"

    def _edited(self, lines: list[Line], edit: str) -> list[Line]:
        what, _, rest = edit.partition(" ")
        named, _, value = rest.partition({"move": " before ", "set": " = "}.get(what, "\n"))
        places = self._places(lines, named)
        edited = list(lines)
        if what == "move":
            for place, target in zip(places, self._places(lines, value), strict=True):
                edited.insert(target, edited.pop(place))
            return edited
        for at in places:
            old = lines[at]
            code = {
                "drop": "",
                "relax": re.sub(r"memory_order_\w+", "memory_order_relaxed", old.code),
                "set": value,
            }[what]
            edited[at] = Line(code, code)
        return edited

    def _places(self, lines: list[Line], named: str) -> list[int]:
        tag, _, number = named.partition(" #")
        places = [at for at, line in enumerate(lines) if line.tag == tag and line.code]
        if len(places) < int(number or 1):
            raise DriftError(f"{self.path.name}: no line is {named!r}")
        return places[int(number) - 1 :][:1] if number else places

    # ---- is it still what the source does? ----

    def drift(self) -> list[str]:
        """Where it is not, in words."""
        found: list[str] = []
        thread: list[Line] = []
        for line in [*self.lines, Line("P", "P")]:
            if re.match(r"P\d* ?\(|P$", line.code):  # the next thread, and the end of the last
                found += self._thread_drift(thread)
                thread = []
            elif line.function:
                thread.append(line)
            elif _ATOMIC.search(line.code) and not line.tag:
                found.append(f"which access of the source is this: {line.code}")
        return [f"{self.path.name}: {problem}" for problem in found]

    def _thread_drift(self, lines: list[Line]) -> Iterator[str]:
        modelled: dict[str, list[Access]] = {}
        for line in lines:
            modelled.setdefault(line.function, []).append(line.access)
        try:
            for function, said in modelled.items():
                yield from self._function_drift(function, said)
            for line in lines:
                if line.code:
                    yield from self._operation_drift(line)
                elif not line.why and line.access.call not in {*modelled, *POINTERS, *SYSTEM_CALLS}:
                    yield f"left out, and why is not said: {line.tag}"
        except DriftError as error:
            yield str(error)

    def _function_drift(self, function: str, said: list[Access]) -> Iterator[str]:
        """A thread may call a function several times, but always with all of its accesses."""
        there = accesses(function)
        said = once(said)
        times = max(1, len(said) // max(1, len(there)))
        if said not in (there * times, once(there * times)):
            yield (
                f"{function} is [{', '.join(map(str, there))}] in the source, "
                f"[{', '.join(map(str, said))}] here"
            )

    def _operation_drift(self, line: Line) -> Iterator[str]:
        """The operation is of the kind and order that the source has, on the same word."""
        match = _ATOMIC.search(line.code)
        if not match:
            yield f"no atomic operation: {line.text.strip()}"
            return
        here = Operation(match["fence"] or match["kind"], match["order"])
        call, word = line.access
        if call not in operations():  # stands for all that the called function does
            if {operations().get(access.call) for access in accesses(call)} != {here}:
                yield f"{call} has accesses of other kinds: {line.text.strip()}"
        elif operations()[call] != here:
            yield f"{call} is {operations()[call]}: {line.text.strip()}"
        elif word and word not in self._words(match["location"]):
            yield f"another location than {word}: {line.text.strip()}"

    def _words(self, location: str) -> set[str]:
        """The names in the source of a location; a number at its end is that of a slot."""
        return self.locations.get(location) or {location.rstrip("0123456789")}


def programs() -> list[Program]:
    return [Program.read(path) for path in sorted(FOLDER.glob("*.litmus"))]
