"""The litmus programs as a weakly ordered processor gets them: compiled, for herd7's models of AArch64 and RISC-V.

The threads of a program are C, so a C compiler translates them, and herd7 is asked about its assembler. That checks
what RC11 is only proven to imply: that the orders of C11 become instructions that suffice. The compiler may use what
orders least: LDAPR for acquire loads, and pairs of an exclusive load and store for read-modify-writes. A pair that
fails changes nothing, so only those are asked about that succeed at once (-unroll 0 of herd7).
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cross


def _arm(line: str, number: int) -> list[str]:
    """An instruction as herd7 reads it."""
    if line == "clrex":
        return ["NOP"]
    line = re.sub(r"#0x([0-9a-f]+)", lambda match: f"#{int(match[1], 16)}", line)
    return [line.upper()]


_RISCV_NAMES = {"zero": "x0"}
_RISCV_NAMES |= {f"a{number}": f"x{10 + number}" for number in range(8)}
_RISCV_NAMES |= {f"t{number}": f"x{(5 if number < 3 else 25) + number}" for number in range(7)}


def _riscv(line: str, number: int) -> list[str]:
    line = re.sub(r"\b(zero|[at]\d)\b", lambda match: _RISCV_NAMES[match[1]], line)
    line = re.sub(r"\.aqrl\b", ".aq.rl", line)
    operation, _, operands = line.partition(" ")
    # Three that herd7 has under no such name.
    if operation in ("beqz", "bnez"):
        register, label = operands.split(",")
        return [f"{operation[:3]} {register},x0,{label}"]
    if operation == "seqz":
        to, of = operands.split(",")
        yes, no = f"SEQZ{number}", f"SNEZ{number}"
        set_it = [f"bne {of},x0,{no}", f"li {to},1", f"j {yes}"]
        return [*set_it, f"{no}: li {to},0", f"{yes}: ori x31,x31,0"]
    return [line]


class Machine(NamedTuple):
    name: str
    model: str
    """What herd7 calls it."""
    target: str
    cpu: str
    arguments: str
    """The register of the first argument of a function, and the seven after it."""
    jump: str
    nothing: str
    translate: Callable[[str, int], list[str]]


ARMV8 = Machine(
    *("Armv8", "AArch64", "aarch64-linux-musl", "generic+rcpc"),
    *("X0 X1 X2 X3 X4 X5 X6 X7", "B", "NOP", _arm),
)
RISCV = Machine(
    *("RISC-V", "RISCV", "riscv64-linux-musl", "generic_rv64+a"),
    *("x10 x11 x12 x13 x14 x15 x16 x17", "j", "ori x31,x31,0", _riscv),
)

FLAGS = ("-O1", "-S", "-g0", "-w", "-fomit-frame-pointer", "-fno-asynchronous-unwind-tables")

_THREAD = re.compile(r"^P(\d) \(([^)]*)\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_LOCAL = re.compile(r"\b(\d):(\w+)")  # in a condition: a variable of a thread


class Thread(NamedTuple):
    label: str
    """Its function's."""
    locations: list[str]
    """What is passed to that function, in order."""
    c: str


class Test(NamedTuple):
    name: str
    initial: list[tuple[str, str]]
    threads: list[Thread]
    question: str


def read(text: str) -> Test:
    """Of a program for herd7."""
    head, _, rest = text.partition("}\n")
    name = head.split()[1]
    initial = re.findall(r"(\w+)=(\w+);", head)
    body, keyword, question = re.split(r"^(filter|exists) ", rest, maxsplit=1, flags=re.MULTILINE)
    found = [
        (number, re.findall(r"(\w+)\* (\w+)", parameters), code)
        for number, parameters, code in _THREAD.findall(re.sub(r"//[^\n]*", "", body))
    ]
    uses = Counter(location for _, parameters, _ in found for _, location in parameters)
    threads = []
    for number, parameters, code in found:
        shared, first = [], []
        for kind, location in parameters:
            if kind == "int" and uses[location] == 1 and f"[{location}]" not in question:
                # What only an exchange expects. In a register there is that much less to order.
                value = dict(initial)[location]
                first.append(f"int own_{location} = {value}; int* {location} = &own_{location};")
            else:
                shared.append((kind, location))
        asked = sorted({variable for of, variable in _LOCAL.findall(question) if of == number})
        label = re.sub(r"\W", "_", f"{name}_P{number}")
        declared = [f"{kind}* {location}" for kind, location in shared]
        declared += [f"int* out_{variable}" for variable in asked]
        last = [f"*out_{variable} = {variable};" for variable in asked]
        lines = [f"void {label}({', '.join(declared)}) {{", *first, code, *last, "}"]
        locations = [location for _, location in shared]
        locations += [f"P{number}_{variable}" for variable in asked]
        threads.append(Thread(label, locations, "\n".join(lines)))
    question = _LOCAL.sub(r"[P\1_\2]", question)
    return Test(name, initial, threads, f"{keyword} {question}")


def _code(machine: Machine, assembler: str) -> dict[str, list[str]]:
    """The instructions of each function, with the labels in front of them."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    label = ""
    for number, text in enumerate(assembler.splitlines()):
        line = re.sub(r"//.*|#\s.*", "", text).strip()
        line = re.sub(r",\s+", ",", line.replace("\t", " ").replace(".L", "L"))
        if re.fullmatch(r"\w+_P\d:", line):
            lines = found.setdefault(line[:-1], [])
        elif line.startswith("Lfunc_end"):
            lines.append(f"{label}END: {machine.nothing}")
            label = ""
        elif re.fullmatch(r"L\w+:", line):
            label += f"{line} "
        elif line and not line.startswith("."):
            translated = (
                [f"{machine.jump} END"] if line == "ret" else machine.translate(line, number)
            )
            lines += [label + translated[0], *translated[1:]]
            label = ""
    return found


def compile_all(machine: Machine, texts: list[str], folder: Path) -> list[str]:
    """The same programs, in the same order, in assembler; translated together in a folder.

    :raises UnavailableError: there is no such compiler here.
    """
    tests = [read(text) for text in texts]
    source, assembler = folder / "threads.c", folder / "threads.s"
    functions = [thread.c for test in tests for thread in test.threads]
    source.write_text("\n".join(["#include <stdatomic.h>", *functions, ""]))
    compiler = cross.compiler(machine.target)
    command: list[str | Path] = [compiler, f"-mcpu={machine.cpu}", *FLAGS, source, "-o", assembler]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"error: {source} cannot be compiled")
    code = _code(machine, assembler.read_text())
    return [_text(machine, test, code) for test in tests]


def _text(machine: Machine, test: Test, code: dict[str, list[str]]) -> str:
    initial = [f"{location}={value};" for location, value in test.initial]
    columns = []
    for number, thread in enumerate(test.threads):
        registers = machine.arguments.split()[: len(thread.locations)]
        passed = zip(registers, thread.locations, strict=True)
        initial += [f"{number}:{register}={name};" for register, name in passed]
        # Labels are of the whole program.
        lines = [re.sub(r"\bEND\b", f"END{number}", line) for line in code[thread.label]]
        columns.append([f"P{number}", *lines])
    rows = max(map(len, columns))
    table = [
        " | ".join((column[row] if row < len(column) else "").ljust(32) for column in columns)
        for row in range(rows)
    ]
    lines = [f"{machine.model} {test.name}", "{", *initial, "}", *(f"{row} ;" for row in table)]
    return "\n".join([*lines, test.question])
