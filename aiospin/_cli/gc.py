"""``aiospin gc``: remove what dead processes left in shared memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiospin._cli.arguments import name
from aiospin._cli.errors import say

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", type=name, metavar="NAME", help="only what belongs to these broadcasts"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be removed, and touch nothing"
    )
    parser.epilog = (
        "Removed are broadcasts whose writer and readers are all dead, what belonged to them, and those that "
        "nobody finished making. What lives is never removed. Exit status: 0, also when there was nothing; 1 when "
        "something dead could not be removed."
    )


def run(arguments: argparse.Namespace) -> int:
    from aiospin._garbage import sweep
    from aiospin._segment import folder

    files = nbytes = 0
    status = 0
    verb = "would remove" if arguments.dry_run else "removed"
    for found in sweep(folder(), arguments.names, dry_run=arguments.dry_run):
        if found.outcome == "removed":
            files += 1
            nbytes += found.nbytes
            print(f"{verb} {found.path}, {found.nbytes:,} bytes: {found.why}")
        elif found.outcome == "denied":
            say("gc", f"could not remove {found.path}: {found.why}")
            status = 1
        else:
            print(f"kept {found.path}: {found.why}")
    print(f"{verb} {files} files, {nbytes:,} bytes, in {folder()}")
    return status
