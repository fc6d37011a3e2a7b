"""What a tool needs that this machine may lack: getting it, and saying so when that fails.

A missing prerequisite is neither a failure nor silence: the last line is "skipped: " and the
reason, and the exit status is 77, as of the native tests.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

SKIPPED = 77


class UnavailableError(Exception):
    """This machine cannot get it; the text says what is missing."""


def skip(error: UnavailableError) -> NoReturn:
    print(f"skipped: {error}", flush=True)
    raise SystemExit(SKIPPED) from error


def output(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command printed that gets something from outside, or asks what there is."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        said = result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}"
        raise UnavailableError(f"{shlex.join(map(str, command))}: {said.splitlines()[-1]}")
    return result.stdout


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Makes the folder, in which one process at a time then works; not to be nested."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def script(path: Path, command: Sequence[str | Path], **environment: str | Path) -> Path:
    """A program that runs this command, with more in its environment; "$0" is its own name."""
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in environment.items()]
    words = [word if word == '"$0"' else shlex.quote(str(word)) for word in command]
    text = "\n".join(["#!/bin/sh", *lines, f'exec {" ".join(words)} "$@"', ""])
    # Left alone as long as it is right, and replaced as a whole: somebody may be running it.
    if not path.exists() or path.read_text() != text:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.rename(path)
    return path
