"""``aiospin demo``: an engine process broadcasts a file, word by word, to programs on three event loops.

text      which bytes are sent, and how they become words
engine    the process that sends
reader    the processes that receive
report    what these tell the parent, over a pipe each
parent    the process in front: starts the others, notices when one dies, decides
view      what the parent shows: a live table, or lines
"""

from __future__ import annotations

import argparse
import os
import sys

from aiospin._cli.demo.text import EmptyTextError, load

MAX_READERS = 64
POLICIES = ("latency", "balanced", "powersave")  # presets of WaitPolicy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="what to broadcast (default: aiospin's own sources)"
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        default=1000.0,
        metavar="N",
        help="words per second; 0 is as fast as the readers can follow (default: 1000)",
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="S", help="how long (default: 10)"
    )
    parser.add_argument(
        "--readers",
        type=_readers,
        default=3,
        metavar="N",
        help="how many, on asyncio, uvloop and trio in turn (default: 3)",
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        help="how the readers wait (default: AIOSPIN_POLICY, or balanced)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="lines instead of a live table; the default where the output is no terminal",
    )
    parser.epilog = (
        "Exit status: 0 when every reader received exactly what was sent, 1 when one did not, or died. "
        "Ctrl-C ends the run early; what was sent until then is compared all the same."
    )


def run(arguments: argparse.Namespace) -> int:
    from aiospin._cli.demo import parent
    from aiospin._cli.demo.view import PlainView, RichView
    from aiospin._cli.live import RichMissingError

    try:
        text = load(arguments.file)
    except (OSError, EmptyTextError) as error:
        print(f"aiospin demo: {error}", file=sys.stderr)
        return 2
    view: PlainView | RichView
    if arguments.plain or not sys.stdout.isatty():
        view = PlainView()
    else:
        try:
            view = RichView()
        except RichMissingError as error:
            print(f"aiospin demo: {error}", file=sys.stderr)
            return 2
    return parent.run(
        text,
        view,
        rate=arguments.rate,
        seconds=arguments.seconds,
        readers=arguments.readers,
        policy=arguments.policy or os.environ.get("AIOSPIN_POLICY") or "balanced",
    )


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 <= rate <= 1e9:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1e9 words per second, not {text}")
    return rate


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1e6, not {text}")
    return seconds


def _readers(text: str) -> int:
    readers = int(text)
    if not 1 <= readers <= MAX_READERS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MAX_READERS}, not {text}")
    return readers
