"""The litmus programs say what the C code does, and the page that lists them lists them all; a program that says
something else is noticed. What they prove holds for broadcast.h too: it does the same as the core."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from litmus.programs import FOLDER, Program, programs
from litmus.source import ROOT, Operation, accesses, operations

PAGE = ROOT / "docs" / "memory-model.md"


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
def test_a_program_is_what_the_code_does(program: Program) -> None:
    assert program.drift() == []


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.name)
def test_a_program_can_fail(program: Program) -> None:
    assert program.forbidden
    assert program.allowed
    assert program.condition
    assert program.mutants
    original = program.text("same")
    for mutant in program.mutants:
        assert program.text("same", edits=mutant.edits) != original, mutant.what


def test_every_program_is_on_the_page() -> None:
    section = PAGE.read_text().partition("## What proves it")[2]
    listed = set(re.findall(r"^\|[^|]*\| `(\w+)` \|", section, re.MULTILINE))
    assert listed == {program.name for program in programs()}


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("park", "  atomic_thread_fence(memory_order_seq_cst); // asp_park_notify_at: asp_fence\n", "", "the source"),
        ("join", "  // asp_ring_join: asp_store_relaxed pid (for people)\n", "", "the source"),
        ("join", "asp_store_relaxed pid (for people)", "asp_store_relaxed pid", "why is not said"),
        ("publish", "memory_order_release); // commit", "memory_order_relaxed); // commit", "asp_store_release is"),
        ("tail", "go_to_tail: asp_load_acquire tail", "go_to_tail: asp_load_relaxed tail", "the source"),
        ("tail", "store_explicit(tail, 1", "store_explicit(head, 1", "another location than tail"),
        ("header", " // asp_ring_create: asp_store_release magic", "", "which access"),
        ("header", "memory_order_relaxed); // asp_ring_open", "memory_order_acquire); // asp_ring_open", "other kinds"),
        ("flag", "asp_store_bits", "asp_store_bit", "not one function"),
    ],
)  # fmt: skip
def test_a_program_that_says_something_else_is_noticed(
    tmp_path: Path, name: str, old: str, new: str, complaint: str
) -> None:
    text = (FOLDER / f"{name}.litmus").read_text()
    assert old in text
    path = tmp_path / f"{name}.litmus"
    path.write_text(text.replace(old, new))
    problems = Program.read(path).drift()
    assert any(complaint in problem for problem in problems), problems


def test_the_orders_are_those_of_atomics_h() -> None:
    assert operations()["asp_store_release"] == ("store", "release")
    assert operations()["asp_load_acquire"] == ("load", "acquire")
    assert operations()["asp_compare_exchange"] == ("compare_exchange", "seq_cst")
    assert operations()["asp_fence"] == ("thread_fence", "seq_cst")
    assert operations()["asp_fence_acquire"] == ("thread_fence", "acquire")


def test_what_is_read_from_the_source() -> None:
    assert [str(access) for access in accesses("asp_park_prepare")] == [
        "asp_fetch_or word",
        "asp_fence",
    ]
    assert [str(access) for access in accesses("asp_load_bits")] == ["asp_load_acquire address"]
    assert [str(access) for access in accesses("asp_ring_bell_park")] == [
        "asp_compare_exchange bell",
        "asp_park_prepare_bell",
        "reader_look",
        "asp_ring_bell_unpark",
    ]


# ---- broadcast.h, which stands alone, has the core's accesses once more ----

# Every access is the same.
WHOLE = {
    "asp_park_notify_at": "asph_notify",
    "advance": "asph_advance",
    "lapped": "asph_lapped",
    "load_record": "asph_load_record",
    "store_record": "asph_store_record",
    "reader_look": "asph_look_for_message",
    "asp_ring_oldest": "asph_oldest_cursor",
    "asp_ring_evict": "asph_free_slot",
    "attend_bells": "asph_ring_bells",
}
# Every one that orders something is. What is relaxed besides is for people, or for what the other has a function.
ORDERED = {
    "asp_ring_create": "aiospin_writer_create",
    "asp_ring_open": "asph_open",
    "commit": "asph_publish",
    "drop_before": "asph_drop",
    "ask_readers": "asph_ask_readers",
    "asp_ring_join": "asph_join",
    "see_head": "asph_see_head",
    "go_to_tail": "asph_go_to_tail",
    "asp_ring_writer_close": "aiospin_writer_close",
}
INLINED = ("settled_head",)  # by asph_join
RENAMED = {"base": "magic"}  # the first word of the segment


def done(function: str) -> list[tuple[Operation, str]]:
    """Its own operations, by what they are in C11, on which words."""
    found = []
    for access in accesses(function):
        if access.call in INLINED:
            found += done(access.call)
        elif access.call in operations():
            word = RENAMED.get(access.word, access.word)
            found.append((operations()[access.call], word))
    return found


@pytest.mark.parametrize(("core", "header"), (WHOLE | ORDERED).items())
def test_broadcast_h_does_the_same(core: str, header: str) -> None:
    ours, theirs = done(core), done(header)
    if core in ORDERED:
        ours, theirs = (
            [operation for operation in each if operation[0].order != "relaxed"]
            for each in (ours, theirs)
        )
    assert ours
    assert ours == theirs
