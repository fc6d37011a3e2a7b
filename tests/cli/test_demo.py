"""The demo as a whole: real processes, real data, a reader that is killed, Ctrl-C, a terminal."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path

import pytest

from aiospin._cli.demo.text import split

pytestmark = pytest.mark.slow

WORDS = b"the quick brown fox \xff\0 jumps\n\nover the lazy dog\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "words"
    path.write_bytes(WORDS)
    return str(path)


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "aiospin", "demo", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C goes to all processes of a group
    )


def children(pid: int) -> list[int]:
    """Processes that multiprocessing started for this one, oldest first."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in path.joinpath("cmdline").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return sorted(found)


def first_progress(process: subprocess.Popen[str]) -> str:
    """Read until the first line that says how far it is, words having been sent."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r" s  sent [1-9]", line):
            return line
    raise AssertionError(process.communicate())


def test_what_was_sent_is_what_the_file_has(file: str) -> None:
    process = start(file, "--plain", "--seconds", "0.5", "--rate", "200")
    out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out), "control characters"
    digests = re.findall(r"^(?:engine|reader \d \(\w+\)) +([0-9a-f]{64}) ", out, re.MULTILINE)
    match = re.search(r"OK: 3 readers received exactly what was sent, ([\d,]+) words", out)
    assert match, out
    sent = int(match[1].replace(",", ""))
    content = b"".join(islice(cycle(split(WORDS)), sent))
    assert digests == [hashlib.sha256(content).hexdigest()] * 4
    assert sent > len(split(WORDS)), "shorter than the run, so it is repeated"


def test_a_reader_that_is_killed_is_noticed_and_holds_nobody_up(file: str) -> None:
    process = start(file, "--plain", "--seconds", "30", "--readers", "2")
    first_progress(process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.stdout is not None
    before = None
    for line in process.stdout:  # the other one goes on
        match = re.search(r"\| 1 \(\w+\): (\d+)", line)
        if match and before is not None and int(match[1]) > before:
            break
        before = int(match[1]) if match else before
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (1, "")
    assert "killed by SIGKILL" in out
    assert "FAILED" in out
    assert out.count("the same") == 1


def test_an_engine_that_is_killed_is_noticed(file: str) -> None:
    process = start(file, "--plain", "--seconds", "30", "--readers", "1")
    first_progress(process)
    engine = children(process.pid)[0]
    os.kill(engine, signal.SIGKILL)
    out, err = process.communicate(timeout=50)
    for segment in Path("/dev/shm").glob(f"aiospin-{engine}-*"):
        segment.unlink()  # what a SIGKILL leaves behind
    assert (process.returncode, err) == (1, "")
    assert "the engine died: killed by SIGKILL" in out
    assert "BrokenResourceError" in out


def test_ctrl_c_ends_it_early_and_in_good_order(file: str) -> None:
    process = start(file, "--plain", "--seconds", "30")
    first_progress(process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert "ended early by Ctrl-C" in out
    assert out.count("the same") == 3


def test_in_a_terminal_it_shows_a_table(file: str) -> None:
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    process = start(file, "--seconds", "0.5", "--readers", "1", stdout=slave)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:
        pass  # Linux says so that nobody has the other end open any more
    os.close(master)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (0, "")
    assert "p99 µs".encode() in shown
    assert b"OK: 1 readers" in shown
