"""The command line as a whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aiospin.__main__ import SUBCOMMANDS, main

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


def test_help_has_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^    (\w+) ", shown, re.MULTILINE) == list(SUBCOMMANDS)
    unwrapped = " ".join(shown.split())
    assert all(purpose in unwrapped for purpose in SUBCOMMANDS.values())


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert SUBCOMMANDS[command] in " ".join(capsys.readouterr().out.split())


def test_the_document_says_the_same_of_every_command() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]\(#[\w-]+\) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert dict(rows) == SUBCOMMANDS
