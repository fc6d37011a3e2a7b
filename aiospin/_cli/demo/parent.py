"""The parent of the demo: starts the processes, listens to them, notices when one dies, and decides."""

from __future__ import annotations

import multiprocessing
import signal
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from aiospin._cli.demo import engine, reader
from aiospin._cli.demo.report import Created, Failed, Received, Sent
from aiospin._cli.interrupts import deaf_to_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess
    from types import TracebackType
    from typing import Protocol

    from typing_extensions import Self

    from aiospin._cli.demo.text import Text

    class View(Protocol):
        def begin(self, run: Run) -> None:
            """The readers are about to start."""

        def update(self, run: Run) -> None:
            """Something changed; called at least once a second."""

        def end(self, run: Run) -> None:
            """It is over: show everything that the verdict rests on, and the verdict."""

        def close(self) -> None:
            """Leave the terminal as it was. Called in any case."""


FINISH_TIMEOUT = 30.0  # seconds that readers get for what is left to read when the engine is done
REFRESH = 0.25  # seconds between two updates of the view when nothing is reported


class Child:
    """A process with a pipe to it. What it does not finish counts as a failure."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # nothing of this process's state comes along
        self.name = name
        self.failure: str | None = None
        self.finished = False
        self.pipe, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=target, args=(theirs, *arguments), name=f"aiospin-demo-{name}", daemon=True
        )
        with deaf_to_interrupts():
            self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    @property
    def over(self) -> bool:
        return self.finished or self.failure is not None

    def reports(self) -> Iterator[Any]:
        """What arrived on the pipe. Its end before the last report is a failure."""
        try:
            while not self.over and self.pipe.poll():
                report = self.pipe.recv()
                if isinstance(report, Failed):
                    self.failure = report.why
                else:
                    self.finished = getattr(report, "digest", None) is not None
                    yield report
        except (EOFError, ConnectionResetError):
            self.process.join()
            self.failure = f"died: {_cause(self.process.exitcode)}"

    def stop(self) -> None:
        """Ask it to end early."""
        try:
            self.pipe.send(None)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has ended

    def end(self) -> None:
        """End it, whatever it does."""
        if not self.finished:
            self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


@dataclass
class ReaderRow:
    """What is known of one reader."""

    child: Child
    loop: str
    note: str = ""
    state: Received = field(default_factory=Received)


@dataclass
class Run:
    """What is known of all of them; what a view shows."""

    text: Text
    rate: float
    seconds: float
    policy: str
    sent: Sent = field(default_factory=Sent)
    rows: list[ReaderRow] = field(default_factory=list)
    engine: Child | None = None
    interrupted: bool = False

    def failures(self) -> list[str]:
        """Everything that is wrong, a line each; empty when every reader received what was sent."""
        if self.interrupted and not self.sent.messages:
            return ["ended by Ctrl-C before the first word was sent"]
        found = []
        if self.engine is None or self.engine.failure is not None:
            why = self.engine.failure if self.engine else "was not started"
            found.append(f"the engine {why}")
        for row in self.rows:
            if row.child.failure is not None:
                found.append(f"reader {row.child.name} {row.child.failure}")
            elif self.sent.digest is not None and (
                row.state.digest != self.sent.digest or row.state.messages != self.sent.messages
            ):
                found.append(
                    f"reader {row.child.name} received something else: {row.state.messages} messages, "
                    f"{row.state.nbytes} bytes, where {self.sent.messages} and {self.sent.nbytes} were sent"
                )
        return found


def run(text: Text, view: View, *, rate: float, seconds: float, readers: int, policy: str) -> int:
    """The whole demo.

    :return: the exit status.
    """
    state = Run(text, rate, seconds, policy)
    try:
        with Processes(state, readers) as processes:
            try:
                processes.start(view)
                processes.listen(view)
            except KeyboardInterrupt:
                state.interrupted = True
                processes.stop()
                processes.listen(view)
        view.end(state)
    finally:
        view.close()
    return 1 if state.failures() else 0


class Processes:
    """The engine and its readers."""

    def __init__(self, run: Run, readers: int) -> None:
        self._run = run
        self._readers = readers
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.end()

    def start(self, view: View) -> None:
        run = self._run
        run.engine = Child(
            "engine", engine.main, run.text.words, self._readers, run.rate, run.seconds
        )
        self._children.append(run.engine)
        wait([run.engine.pipe])
        created = next(run.engine.reports(), None)
        if not isinstance(created, Created):
            return
        loops = available_loops()
        for index in range(self._readers):
            loop, note = loops[index % len(loops)]
            name = f"{index + 1} ({loop})"
            child = Child(name, reader.main, created.name, loop, run.policy)
            self._children.append(child)
            run.rows.append(ReaderRow(child, loop, note))
        view.begin(run)

    def stop(self) -> None:
        if self._run.engine is not None:
            self._run.engine.stop()

    def listen(self, view: View) -> None:
        """Until everybody is done or dead."""
        run = self._run
        give_up = float("inf")
        while open_children := [child for child in self._children if not child.over]:
            pipes: dict[Connection, Child] = {child.pipe: child for child in open_children}
            wait(list(pipes), REFRESH)
            self._collect()
            engine_over = run.engine is None or run.engine.over
            missing = run.interrupted or any(row.child.over for row in run.rows)
            if missing and not engine_over and not run.sent.messages:
                break  # the engine would wait for a reader that never comes
            if engine_over and give_up == float("inf"):
                give_up = time.monotonic() + FINISH_TIMEOUT
            if time.monotonic() > give_up:
                break
            view.update(run)
        for child in self._children:
            if not child.over:
                child.failure = "did not come to an end"

    def _collect(self) -> None:
        run = self._run
        if run.engine is not None:
            for report in run.engine.reports():
                if isinstance(report, Sent):
                    run.sent = report
        for row in run.rows:
            for report in row.child.reports():
                row.state = report


def available_loops() -> list[tuple[str, str]]:
    """The loops that readers run on in turn, each with a remark when it is not the one that was meant."""
    found = []
    for loop in ("asyncio", "uvloop", "trio"):
        if loop == "asyncio" or find_spec(loop):
            found.append((loop, ""))
        else:
            found.append(
                ("asyncio", f"instead of {loop}, which is missing: pip install aiospin[{loop}]")
            )
    return found


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"
