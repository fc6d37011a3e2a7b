"""The command line: ``python -m aiospin`` and, installed, ``aiospin``.

Each subcommand is a module of ``aiospin._cli`` with ``add_arguments`` and ``run``; what a subcommand imports
is imported when it runs, so that ``info`` works where rich and the other extras are missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from aiospin import __version__
from aiospin._cli.errors import CommandError, say

if TYPE_CHECKING:
    from collections.abc import Sequence

SUBCOMMANDS = {
    "info": "what this machine offers for waiting, and what aiospin made of it",
    "demo": "an engine process broadcasts a file to asyncio, uvloop and trio programs",
    "pub": "send standard input to everybody who reads a broadcast",
    "sub": "write what is sent to a broadcast to standard output",
    "bench": "measure what each way of waiting costs here, in latency and CPU, and recommend one",
    "top": "show every broadcast, its writer and readers, how far they are and who waits",
    "gc": "remove what dead processes left in shared memory",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    :return: the exit status: 0; 1 when something went wrong; 2 for arguments that make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="aiospin",
        description="Waiting on shared memory, and broadcasts through it: look, try, use, clean up.",
        epilog="aiospin COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=f"aiospin {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in SUBCOMMANDS.items():
        subparser = subparsers.add_parser(name, help=purpose, description=purpose)
        module = import_module(f"aiospin._cli.{name}")
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        if sys.stdout is not None:  # it may have been closed before we began
            sys.stdout.flush()
    except CommandError as error:
        say(arguments.command, str(error))
        return 1
    except KeyboardInterrupt:
        return 130  # what a shell reports for a program that Ctrl-C ended
    except BrokenPipeError:
        # Whoever read our output has had enough; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
