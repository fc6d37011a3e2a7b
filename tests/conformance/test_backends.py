"""The public API over every backend that this machine has, each in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, environment

import aiospin

PROGRAM = Path(__file__).with_name("api_program.py")


def run(*backends: str) -> list[dict[str, str]]:
    """What the program says of these backends."""
    done = subprocess.run(
        [sys.executable, PROGRAM, *backends],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(AIOSPIN_BACKEND=""),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert all(line[0] == "RESULT" for line in lines), done.stdout
    return [dict(field.split("=", 1) for field in line[1:]) for line in lines]


@pytest.mark.parametrize("backend", aiospin.capabilities().supported)
def test_waits_and_broadcasts(backend: str) -> None:
    (result,) = run(backend)
    assert result["backend"] == backend
    for key in ("waits", "timeouts", "messages"):
        good, of = map(int, result[key].split("/"))
        assert good == of > 0, key
    assert result["verdict"] == "passed"


def test_without_names_it_takes_all_that_are_supported() -> None:
    assert [result["backend"] for result in run()] == list(aiospin.capabilities().supported)
