"""The process that sends: words at a steady pace, from blocking code, as a model-serving engine does."""

from __future__ import annotations

import hashlib
import signal
import sys
import time
from itertools import cycle
from typing import TYPE_CHECKING

import aiospin
from aiospin._cli.demo.report import INTERVAL, Created, Sent, give_up

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

JOIN_TIMEOUT = 60.0  # seconds for all readers to start and attach; each takes half a second here


def main(
    pipe: Connection, words: Sequence[bytes], readers: int, rate: float, seconds: float
) -> None:
    """Body of the process. It ends early when the parent says something, or dies."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the broadcast is removed
    try:
        with aiospin.BroadcastWriter.create(max_readers=readers) as writer:
            pipe.send(Created(str(writer.handle)))
            writer.wait_for_readers_sync(readers, JOIN_TIMEOUT)
            pipe.send(broadcast(writer, pipe, words, rate, seconds))
    except Exception as error:
        give_up(pipe, error)


def broadcast(
    writer: aiospin.BroadcastWriter,
    pipe: Connection,
    words: Sequence[bytes],
    rate: float,
    seconds: float,
) -> Sent:
    """Send words, from the beginning again after the last, until the time is over."""
    digest = hashlib.sha256()
    messages = nbytes = 0
    period = 1 / rate if rate else 0.0
    due = next_report = time.monotonic()
    end = due + seconds
    for word in cycle(words):
        now = time.monotonic()
        if now >= next_report:
            pipe.send(Sent(messages, nbytes))
            next_report = now + INTERVAL
            if pipe.poll():
                break
        while now < min(due, end):
            # No longer than a report's interval, so that a slow pace does not make a slow answer.
            time.sleep(min(due - now, end - now, INTERVAL))
            now = time.monotonic()
            if pipe.poll():
                end = now
        if now >= end:
            break
        writer.send_sync(word)
        digest.update(word)
        messages += 1
        nbytes += len(word)
        due += period
    return Sent(messages, nbytes, digest.hexdigest())
