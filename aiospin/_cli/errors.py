"""How a subcommand says that it cannot: one sentence on stderr, and an exit status that is not 0."""

from __future__ import annotations

import sys


class CommandError(Exception):
    """What went wrong, as one sentence for whoever typed the command."""


def sentence(error: BaseException) -> str:
    """An error without the number and the quotes that ``str()`` of an OSError has."""
    if isinstance(error, OSError) and error.strerror is not None:
        where = f" ({error.filename})" if error.filename is not None else ""
        return f"{error.strerror}{where}"
    return str(error)


def say(command: str, text: str) -> None:
    """Tell it on stderr; where that is closed ``print`` would put it between the messages on stdout."""
    if sys.stderr is not None:
        print(f"aiospin {command}: {text}", file=sys.stderr, flush=True)
