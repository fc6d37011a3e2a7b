"""What the functions of the C code access, in the order of the source.

A litmus program says beside each of its lines which access of which function the line is. This module reads the
accesses out of the source, so that a program that no longer says what the code does is noticed.

An access is an atomic operation or a fence of csrc/core/atomics.h, with the last name of its first argument
(``asp_store_release_u64(&line->cursor, head)``: asp_store_release of cursor), or the call of a function that has
accesses itself. The order of an operation is read from atomics.h too, and from broadcast.h for its own. Branches count
as if all were taken, and an access that follows itself counts once: it is a switch over widths, or a loop.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("csrc/core", "csrc/python", "csrc/include/aiospin")

# The steps of a wait that atomics.h has not: the system calls, and what a watch has pointers to.
SYSTEM_CALLS = {"asp_futex_wait", "asp_futex_wake"}
POINTERS = {"look", "prepare"}
# They ask once what the kernel can do; nothing depends on when.
IGNORED = {"asp_futex_available", "asp_futex_waitv_available"}


class Access(NamedTuple):
    call: str
    """Of an atomic operation without its width: asp_load_acquire."""
    word: str = ""
    """Empty when a function is called."""

    def __str__(self) -> str:
        return f"{self.call} {self.word}".rstrip()


class Operation(NamedTuple):
    """Of C11: atomic_<kind>_explicit(…, memory_order_<order>)."""

    kind: str
    order: str


class Function(NamedTuple):
    file: str
    name: str
    private: bool
    body: str


class DriftError(Exception):
    """The source has no such function, or several."""


@cache
def operations() -> dict[str, Operation]:
    """Of atomics.h and broadcast.h, by their names without a width.

    :raises DriftError: two of them differ in more than the width.
    """
    known: dict[str, Operation] = {}
    for file in ("csrc/core/atomics.h", "csrc/include/aiospin/broadcast.h"):
        text = (ROOT / file).read_text().partition("/* Copies of bytes")[0]
        text = re.sub(r"#if defined\(__SANITIZE_THREAD__\).*?#else", "", text, flags=re.DOTALL)
        text = text.replace("ASPH_FENCE(", "__atomic_thread_fence(")
        for match in re.finditer(
            r"(asph?_\w+)\([^()]*\)\s*\{[^}]*?__atomic_(\w+?)(?:_n)?\([^)]*?__ATOMIC_(\w+)",
            text.replace("##bits", "64"),
        ):
            name, operation = without_width(match[1]), Operation(match[2], match[3].lower())
            if known.setdefault(name, operation) != operation:
                raise DriftError(f"{name} has several orders in {file}")
    return known


def without_width(name: str) -> str:
    return re.sub(r"_u\d+(_around)?$|(?<=[a-z])(16|32)$", "", name)


# ---- functions and what they call ----


def _functions(path: Path) -> Iterator[Function]:
    text = path.read_text()
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', '""', text)
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"__attribute__\s*\(\(.*?\)\)(?=\s)", "", text, flags=re.DOTALL)
    depth = begin = head_begin = 0
    for match in re.finditer(r"[{};]", text):
        if match[0] == "{":
            if depth == 0:
                begin = match.end()
            depth += 1
            continue
        if match[0] == "}":
            depth -= 1
        if depth == 0:
            head = re.search(r"(\w+)\s*\(.*\)\s*\{", text[head_begin:begin], re.DOTALL)
            if match[0] == "}" and head:
                private = path.suffix == ".c" and "static" in text[head_begin:begin]
                body = text[begin : match.start()]
                yield Function(path.name, head[1], private, body)
            head_begin = match.end()


@cache
def functions() -> dict[str, list[Function]]:
    found: dict[str, list[Function]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("*.[ch]")):
            for function in _functions(path):
                if without_width(function.name) not in operations():
                    found.setdefault(function.name, []).append(function)
    return found


def _called(name: str, caller: Function) -> Function | None:
    """The function that a name in this one means."""
    candidates = functions().get(name, [])
    for function in candidates:
        if function.file == caller.file:
            return function
    return next((function for function in candidates if not function.private), None)


def _calls(function: Function) -> Iterator[tuple[str, str, str]]:
    """What stands before the name, the name, and what stands in the parentheses and behind."""
    for match in re.finditer(r"(->\s*)?\b([a-z]\w*)\s*\(", function.body):
        yield match[1] or "", match[2], function.body[match.end() :]


@cache
def _touching() -> set[Function]:
    """The functions that access shared words, themselves or through others."""
    everything = [function for group in functions().values() for function in group]
    touching = {function for function in everything if function.name in SYSTEM_CALLS}
    grown = True
    while grown:
        grown = False
        for function in everything:
            if function in touching or function.name in IGNORED:
                continue
            for arrow, name, _ in _calls(function):
                called = _called(name, function)
                if (
                    called in touching
                    or without_width(name) in operations()
                    or (arrow and name in POINTERS)
                ):
                    touching.add(function)
                    grown = True
                    break
    return touching


def _word(arguments: str) -> str:
    """The last name of the first argument, if there is one."""
    depth = end = 0
    while depth > 0 or arguments[end] not in ",)":
        depth += (arguments[end] in "([") - (arguments[end] in ")]")
        end += 1
    first = re.sub(r"\(.*\)|\[.*?\]", "", arguments[:end], flags=re.DOTALL)
    names: list[str] = re.findall(r"\w+", first)
    return names[-1] if names else ""


def once(accesses: list[Access]) -> list[Access]:
    """The same without those that follow themselves."""
    return [access for at, access in enumerate(accesses) if at == 0 or access != accesses[at - 1]]


def accesses(name: str) -> list[Access]:
    """Of the function with this name.

    :raises DriftError: there is none, or not just one that has accesses.
    """
    candidates = [function for function in functions().get(name, []) if function in _touching()]
    if len(candidates) != 1:
        where = [function.file for function in candidates]
        raise DriftError(f"{name}: not one function that accesses shared words, but {where}")
    (function,) = candidates
    found = []
    for arrow, called, rest in _calls(function):
        if without_width(called) in operations():
            found.append(Access(without_width(called), _word(rest)))
        elif arrow:
            if called in POINTERS:
                found.append(Access(called))
        elif _called(called, function) in _touching():
            found.append(Access(called))
    return once(found)
