"""``aiospin pub``: what comes on standard input goes to everybody who reads a broadcast."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING, Final, get_args

from aiospin._cli.arguments import count, name, seconds, size
from aiospin._cli.errors import CommandError, say, sentence
from aiospin._cli.stream import (
    FORMATS,
    FORMATS_HELP,
    batches,
    signals_told,
    standard_input,
    terminable,
)

if TYPE_CHECKING:
    from aiospin import BroadcastWriter

NOTICE: Final = 1.0  # seconds of waiting for readers before a terminal is told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from aiospin._writer import MAX_READERS, Overflow

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "name",
        type=name,
        metavar="NAME",
        help="of the broadcast, which is made and, at the end, removed",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="lines", help="what a message is (default: lines)"
    )
    parser.add_argument(
        "--capacity",
        type=size,
        default="16MiB",
        metavar="SIZE",
        help="memory for messages not yet read by all (default: 16MiB)",
    )
    parser.add_argument(
        "--max-readers",
        type=count(1, MAX_READERS),
        default=16,
        metavar="N",
        help=f"how many may be attached at once, up to {MAX_READERS} (default: 16)",
    )
    parser.add_argument(
        "--overflow",
        choices=get_args(Overflow),
        default="block",
        help="when it is full: wait for the slowest reader, or overwrite what is oldest (default: block)",
    )
    parser.add_argument(
        "--wait-readers",
        type=count(0, MAX_READERS),
        default=1,
        metavar="N",
        help="send nothing before so many are attached; 0 is for sending at once, "
        "to nobody if there is nobody (default: 1)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="give up when readers do not attach, or make no room, for so long (default: never)",
    )
    parser.epilog = f"""{FORMATS_HELP}

exit status:
  0  everything was sent, and readers know that it is the end
  1  it was not: one sentence on stderr says why
  2  arguments that make no sense
  130, 143  ended by Ctrl-C, by SIGTERM; readers see the end of what was sent

example:
  aiospin sub numbers --wait 10 &
  seq 1000000 | aiospin pub numbers"""


def run(arguments: argparse.Namespace) -> int:
    from aiospin import AiospinError, BroadcastWriter

    if arguments.wait_readers > arguments.max_readers:
        raise CommandError(
            f"--wait-readers {arguments.wait_readers} would wait for ever: "
            f"--max-readers lets {arguments.max_readers} attach"
        )
    source = standard_input()
    logging.basicConfig(format="aiospin pub: %(message)s")  # a reader that holds it up is named
    with signals_told() as signals, terminable():
        try:
            with BroadcastWriter.create(
                arguments.name,
                capacity=arguments.capacity,
                max_readers=arguments.max_readers,
                overflow=arguments.overflow,
            ) as writer:
                _wait_for_readers(writer, arguments.wait_readers, arguments.timeout)
                for messages in batches(source, arguments.format, signals):
                    _send(writer, messages, arguments.timeout)
        except (AiospinError, OSError, ValueError) as error:
            raise CommandError(sentence(error)) from error
    return 0


def _send(writer: BroadcastWriter, messages: list[bytes], timeout: float | None) -> None:
    """Send them all. As long as some of them get room in the time, readers are slow and not stuck."""
    from aiospin import BatchTimeoutError

    while messages:
        try:
            writer.send_many_sync(messages, timeout)
            return
        except BatchTimeoutError as error:
            if not error.sent:
                raise
            messages = messages[error.sent :]


def _wait_for_readers(writer: BroadcastWriter, n: int, timeout: float | None) -> None:
    """Wait, and tell somebody at a terminal after a while what for."""
    if sys.stderr is not None and sys.stderr.isatty() and (timeout is None or timeout > NOTICE):
        try:
            return writer.wait_for_readers_sync(n, NOTICE)
        except TimeoutError:
            say("pub", f"waiting for a reader: aiospin sub {writer.name}")
            timeout = None if timeout is None else timeout - NOTICE
    return writer.wait_for_readers_sync(n, timeout)
