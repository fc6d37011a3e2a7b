"""``aiospin sub``: what is sent to a broadcast goes to standard output."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Final

from aiospin._cli.arguments import count, name, seconds
from aiospin._cli.errors import CommandError, say, sentence
from aiospin._cli.stream import (
    CHUNK,
    FORMATS,
    FORMATS_HELP,
    check_reader,
    standard_output,
    terminable,
    write,
)

if TYPE_CHECKING:
    from aiospin import BroadcastReader

_ATTACH_POLL: Final = (
    0.01  # seconds between two looks for the name: nobody sees that, and it is 0.1 % of a core
)
_PATIENCE: Final = (
    1.0  # seconds without a message, after which it asks whether somebody still reads its output
)
_BATCH: Final = 1024  # messages taken at once, at most
_LOSS_INTERVAL: Final = (
    1.0  # seconds between two lines about loss: one a message would be slower still
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", type=name, metavar="NAME", help="of the broadcast")
    parser.add_argument(
        "--format", choices=FORMATS, default="lines", help="what a message becomes (default: lines)"
    )
    parser.add_argument(
        "--count",
        type=count(1),
        metavar="N",
        help="stop after so many messages (default: at the end)",
    )
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to wait for the broadcast to be made, if there is none; inf: for ever (default: 0)",
    )
    parser.epilog = f"""{FORMATS_HELP}

The first message is the next that is sent. Messages that a "drop_oldest" broadcast overwrote
before they were read are counted on stderr, exactly.

exit status:
  0  the end of the broadcast, or --count messages
  1  there is no broadcast, its writer died, or nobody reads the output any more
  2  arguments that make no sense
  130, 143  ended by Ctrl-C, by SIGTERM

example:
  aiospin sub numbers --wait 10 --count 3"""


def run(arguments: argparse.Namespace) -> int:
    sink = standard_output()
    with terminable(), _attach(arguments.name, arguments.wait) as reader:
        _copy(reader, sink, arguments.format, arguments.count)
    return 0


def _attach(name: str, patience: float) -> BroadcastReader:
    """Attach; a broadcast whose writer died is as good as none, since another may take its name over."""
    from aiospin import AiospinError, BroadcastReader, BrokenResourceError

    deadline = time.monotonic() + patience
    while True:
        try:
            return BroadcastReader.attach(name)
        except (FileNotFoundError, BrokenResourceError) as error:
            if time.monotonic() >= deadline:
                raise CommandError(sentence(error)) from error
        except (AiospinError, OSError, ValueError) as error:
            raise CommandError(sentence(error)) from error
        time.sleep(_ATTACH_POLL)


def _copy(reader: BroadcastReader, sink: int, kind: str, limit: int | None) -> None:
    from aiospin import BrokenResourceError, EndOfStream, LaggedError, LayoutError

    left = sys.maxsize if limit is None else limit
    batch = _BATCH
    loss = _Loss()
    try:
        while left:
            try:
                messages = reader.receive_many_sync(min(batch, left), _PATIENCE)
            except TimeoutError:
                check_reader(
                    sink
                )  # or "sub NAME | head -1" would stay until there is another message
                continue
            except LaggedError as error:
                loss.add(error.skipped)
                continue
            except EndOfStream:
                return
            left -= len(messages)
            write(sink, kind, messages)
            # Messages tend to be like the last ones: no more at a time than are worth a write of a few chunks.
            batch = max(1, min(_BATCH, 4 * CHUNK // max(1, *map(len, messages))))
    except (BrokenResourceError, LayoutError) as error:
        raise CommandError(sentence(error)) from error
    finally:
        loss.report()


class _Loss:
    """Counts what was overwritten, and says so at most once a second, and at the end."""

    def __init__(self) -> None:
        self._unsaid = 0
        self._next = time.monotonic()

    def add(self, messages: int) -> None:
        self._unsaid += messages
        if time.monotonic() >= self._next:
            self.report()

    def report(self) -> None:
        if self._unsaid:
            say("sub", f"{self._unsaid} messages were overwritten before they were read")
        self._unsaid = 0
        self._next = time.monotonic() + _LOSS_INTERVAL
