"""The processes of one measurement: fresh ones, so that what one measurement learned, allocated or warmed up is no part
of the next.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from ctypes import CDLL
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Final

from aiospin._cli.interrupts import deaf_to_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess
    from types import TracebackType

    from typing_extensions import Self

# Seconds without a word from a process, beyond what it was asked to take, after which it is said to hang.
PATIENCE: Final = 60.0
PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
GRACE: Final = 5.0  # seconds to clean up for a process that was told to end


@dataclass
class _Failure:
    """What a process says before it ends by an exception."""

    traceback: str


class CrewError(RuntimeError):
    """A process of the crew failed, died or hangs."""


@dataclass
class Hand:
    """A process of a crew, and what it said that was not asked for yet."""

    name: str
    process: SpawnProcess
    control: Connection
    said: deque[Any] = field(default_factory=deque)


class Crew:
    """The processes of one measurement. Where one of them fails, all are ended, and the error is raised here: a
    measurement never hangs because its other half died."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._hands: list[Hand] = []

    def start(self, function: Callable[..., None], *args: Any) -> Hand:
        """Run ``function(control, *args)`` in a fresh process; ``control`` is its end of a connection to here."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, function, args), name=function.__name__, daemon=True
        )
        with deaf_to_interrupts():
            process.start()
        theirs.close()
        hand = Hand(function.__name__, process, ours)
        self._hands.append(hand)
        return hand

    def hear(self, hand: Hand, seconds: float = 0.0) -> Any:
        """The next thing that this process says, for which it may take so many seconds.

        :raises CrewError: one of the processes failed, or this one says nothing.
        """
        deadline = time.monotonic() + seconds + PATIENCE
        while not hand.said:
            talking = {other.control: other for other in self._hands if not other.control.closed}
            for control in wait(list(talking), deadline - time.monotonic()):
                self._listen(talking[control])  # type: ignore[index]
            if not hand.said and time.monotonic() >= deadline:
                raise CrewError(f"the {hand.name} process has said nothing for {PATIENCE:g} s")
        return hand.said.popleft()

    def bring_together(self, writer: Hand, readers: list[Hand]) -> None:
        """Let the readers attach once the writer is open, and the writer begin once they have."""
        self.hear(writer)
        for reader in readers:
            reader.control.send("the writer is open")
        for reader in readers:
            self.hear(reader)
        writer.control.send("the readers have attached")

    def _listen(self, hand: Hand) -> None:
        try:
            word = hand.control.recv()
        except (EOFError, ConnectionResetError):
            hand.control.close()
            hand.process.join()
            if code := hand.process.exitcode:
                raise CrewError(f"the {hand.name} process ended {_cause(code)}") from None
            return
        if isinstance(word, _Failure):
            raise CrewError(f"the {hand.name} process failed:\n{word.traceback}")
        hand.said.append(word)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stuck = []
        for hand in self._hands:
            if kind is not None:
                hand.process.terminate()
        for hand in self._hands:
            hand.process.join(PATIENCE if kind is None else GRACE)
            if hand.process.exitcode is None:
                stuck.append(hand.name)
                hand.process.kill()
                hand.process.join()
            hand.control.close()
        if stuck and kind is None:
            raise CrewError(f"the {' and the '.join(stuck)} process did not end when it was done")


def _work(control: Connection, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # so that it leaves no shared memory behind
    # Where the parent itself is killed, nobody stays behind who spins for ever.
    CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        function(control, *args)
    except BaseException:
        try:
            control.send(_Failure(traceback.format_exc()))
        except OSError:
            pass  # the parent has ended, which may well be why
        sys.exit(1)


def _cause(exitcode: int) -> str:
    if exitcode < 0:
        return f"by {signal.Signals(-exitcode).name}"
    return f"with status {exitcode}"
