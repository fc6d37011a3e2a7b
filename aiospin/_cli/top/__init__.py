"""``aiospin top``: every broadcast of this machine, who is in it, how far they are and who holds whom up.

census     what is there at one time, and the rates since the time before; also the schema of --json
processes  the command of a process, if it is the one that is meant
view       a live table, or lines
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time

from aiospin._cli.arguments import name, seconds
from aiospin._cli.errors import CommandError
from aiospin._cli.stream import terminable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "names", nargs="*", type=name, metavar="NAME", help="only these broadcasts (default: all)"
    )
    parser.add_argument(
        "--interval",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks, which rates are measured over (default: 1)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="look twice, show it and end; with --interval 0 look once, without rates",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="like --once, as one JSON object; docs/cli.md has its schema",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="lines instead of a live table; the default where the output is no terminal",
    )
    parser.epilog = """\
A broadcast has a line, and below it a line for each reader. Lag is in messages published and not yet
released, and in bytes of the ring. Parked: the writer sleeps until a reader makes room, a reader
sleeps until something is published; on bell is the same in an event loop.

In the live table, q or Ctrl-C ends."""


def run(arguments: argparse.Namespace) -> int:
    from aiospin._cli.live import RichMissingError
    from aiospin._cli.top.census import Observer
    from aiospin._cli.top.view import LiveView, PlainView
    from aiospin._segment import folder

    if sys.stdout is None:
        raise CommandError("there is nowhere to write to: standard output is closed")
    observer = Observer(folder(), arguments.names)
    once = arguments.once or arguments.json
    if once:
        census = observer.look()
        if arguments.interval:
            time.sleep(arguments.interval)
            census = observer.look()
        if arguments.json:
            print(json.dumps(dataclasses.asdict(census), indent=2))
        else:
            PlainView().show(census)
        return 0
    if not arguments.interval:
        raise CommandError("--interval must be more than 0, but for --once and --json")
    if arguments.plain or not sys.stdout.isatty():
        plain = PlainView()
        while True:
            plain.show(observer.look())
            time.sleep(arguments.interval)
    try:
        view = LiveView()
    except RichMissingError as error:
        raise CommandError(str(error)) from None
    with terminable(), view:
        while not view.ended(arguments.interval):
            view.show(observer.look())
    return 0
