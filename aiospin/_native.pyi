"""Types of the compiled core. ``aiospin._pure`` has the same names and meanings without it.

Private: everything public is in ``aiospin``. Times are absolute CLOCK_MONOTONIC nanoseconds
(``*_deadline_ns``) or durations in nanoseconds (``*_ns``).
"""

from typing import Any, Final, Literal, Protocol, TypeAlias, final

from typing_extensions import Buffer

_Counter: TypeAlias = Literal[
    "waits", "ready", "parked", "parks", "spurious", "timed_out", "cancelled"
]

READY: Final[int]
TIMED_OUT: Final[int]
STOPPED: Final[int]

FOREVER: Final[int]
"""The deadline that never comes."""

def now_ns() -> int: ...
def select_backend(name: str | None) -> None:
    """Choose the monitor (AIOSPIN_BACKEND); ValueError names what this machine has."""

def capabilities() -> dict[str, Any]:
    """backend, why, line_bytes, supported (tuple of names), futex, futex_waitv: as found at load."""

def statistics() -> dict[str, int]:
    """The counters of csrc/core/tally.h, and live_tickets and pinned_buffers as of now."""

def count(counter: _Counter, n: int = 1) -> None:
    """Add to a counter of statistics() what only the package can know."""

def timer_open() -> int:
    """A descriptor that a poll sees once a time has come: precise to microseconds, where event loops round
    their timers to milliseconds. OSError where there is no such thing."""

def timer_arm(fd: int, at_ns: int) -> None:
    """Readable from then on, and not before; 0: never."""

def closes_open() -> int:
    """A descriptor that a poll sees once somebody has closed a file that it watches, and on which that is read as an
    inotify_event (inotify(7)). OSError where there is no such thing, or no more of them for this user."""

def closes_watch(closes: int, file: int, /) -> int:
    """Have it tell of closes of the file that a descriptor is open on, by whatever process. The number by which it
    does: always the same for one file."""

@final
class Wait:
    """One wait at a time on one thing: pins the buffer until release()."""

    def __new__(cls, buffer: Buffer, program: bytes | None, notified: bool) -> Wait:
        """program: a compiled predicate (see aiospin._predicate), or None to wait for any change
        of the buffer's bytes since this call. ValueError when the program does not fit the buffer
        (too short, unaligned), BufferError or TypeError when it cannot be pinned."""

    def look(self) -> bool:
        """The first look of a wait; begins its statistics and its gap."""

    def spin(self, budget_ns: int, hardware: bool) -> bool:
        """Spin without the GIL until ready or the budget is spent. At least one look."""

    def run(
        self, deadline_ns: int, spin_ns: int | None, max_sleep_ns: int, hardware: bool
    ) -> bool | None:
        """Wait in this thread, without the GIL: spin for spin_ns, then park; None: as the plan says. False when
        the deadline passed; None when a planned sleep has ended: rehearse, then run again. Signal handlers run
        meanwhile and what they raise comes out."""

    @property
    def predicts(self) -> bool:
        """Whether it learns when it turns ready: a reading end of a ring does."""

    def plan(self, cpu_per_latency: int, max_spin_ns: int) -> tuple[int, int]:
        """Park until the first time (FOREVER: without limit), then spin until the second, then ask again; see
        csrc/core/predict.h. Begins what resume() of the ring's end ends. RuntimeError where predicts is False."""

    def woken(self, due_ns: int) -> bool:
        """The look after a park elsewhere, on a bell: 0, somebody rang; FOREVER, for safety; else the time when
        the plan had a timer end it."""

    @property
    def prediction(self) -> tuple[int, int, int, int, int]:
        """Whether prediction paid: predicted, early, late, spun_caught_ns, spun_lost_ns."""

    @property
    def value(self) -> int | float | bool | None:
        """What the last successful look of a predicate observed; None for a change."""

    def release(self) -> None:
        """Unpin the buffer. Idempotent. The wait must not be submitted."""

@final
class Waiter:
    """The ticket table of one waiter thread. submit and cancel may be called from any thread."""

    def submit(
        self,
        wait: Wait,
        token: object,
        deadline_ns: int,
        spin_ns: int | None,
        max_sleep_ns: int,
        hardware: bool,
        counted: bool = True,
        told: bool = False,
    ) -> None:
        """Let run() wait for it, as Wait.run() would; run() hands token back. How it ends is counted in statistics()
        unless it is a part of a wait that the caller counts. Of an end of a ring: asked after the other side as
        guard() says, unless the caller is told when one of it dies. RuntimeError after stop(), or when the wait is
        submitted already or released."""

    def cancel(self, wait: Wait) -> bool:
        """True: cancelled, run() will not return its token. False: it had completed already (or was
        never submitted). Either way nothing looks at the wait's buffer any more on return."""

    def run(self, idle_ns: int) -> list[tuple[object, int]] | None:
        """Wait, without the GIL, for completions: (token, READY or TIMED_OUT) each, at least one. An empty list
        after idle_ns without any ticket; None once stopped."""

    def stop(self) -> list[object]:
        """Make run() return None, now and ever after. The tokens of outstanding tickets, which are dropped."""

    def before_fork(self) -> None: ...
    def after_fork_in_parent(self) -> None: ...
    def after_fork_in_child(self) -> None:
        """Drop all tickets; the table is empty and usable again."""

    @property
    def live(self) -> int:
        """Tickets submitted and not yet completed or cancelled."""

@final
class Word:
    """Atomic operations on one element of a buffer, which is pinned only during each of them.

    kind: "u", "i", "f" or "?" (unsigned, signed, float, bool). ValueError: too short or unaligned;
    TypeError: not writable, or a value of the wrong type; OverflowError is never raised, a
    value that does not fit is a ValueError."""

    def __new__(cls, buffer: Buffer, offset: int, width: int, kind: str, swapped: bool) -> Word: ...
    def load(self) -> int | float | bool: ...
    def store(self, value: Any) -> None: ...
    def add(self, n: Any) -> int | float: ...
    def exchange(self, value: Any) -> int | float | bool: ...
    def compare_exchange(self, expected: Any, desired: Any) -> bool: ...
    def notify(self) -> None: ...

def ring_bytes(capacity: int, max_readers: int) -> int:
    """Bytes of a segment; ValueError when the geometry is not allowed."""

def ring_create(
    buffer: Buffer,
    capacity: int,
    max_readers: int,
    overflow: int,
    pid: int,
    realtime_ns: int,
    id: int,
    /,
) -> None:
    """Lay out an empty ring in zeroed memory. id: random, not 0."""

@final
class RingWriter:
    """The writing end. Pins the buffer until release(). One thread at a time: another gets
    BusyResourceError. After release() what needs the memory raises ClosedResourceError."""

    def __new__(cls, buffer: Buffer, bells: str | None = None) -> RingWriter:
        """bells: path of the readers' doorbells up to the number of the slot; None refuses them.
        LayoutError when the buffer holds no healthy ring."""

    @property
    def capacity(self) -> int: ...
    @property
    def max_message(self) -> int: ...
    @property
    def max_readers(self) -> int: ...
    @property
    def overflow(self) -> int: ...
    @property
    def head(self) -> int: ...
    @property
    def sequence(self) -> int:
        """Messages published."""

    @property
    def id(self) -> int:
        """Of this segment: names the files that belong to it."""

    @property
    def oldest(self) -> int:
        """What lies before this position nobody will read any more. 2**64 - 1: nobody is there."""

    @property
    def wait(self) -> Wait:
        """Ready when the send or claim that last said no may succeed. Always the same object."""

    def send(self, data: Buffer, /) -> bool | None:
        """Copy, publish, wake. False: no room just now. None: longer than max_message."""

    def send_as(self, data: Buffer, format: int, /) -> bool | None:
        """The same with a format."""

    def send_many(self, messages: list[Buffer], first: int, /) -> int:
        """Send messages[first:] until one finds no room or is longer than max_message; how many were sent.
        Wakes once. TypeError before the first is sent when any is no buffer."""

    def claim(self, nbytes: int, /) -> memoryview | None:
        """Room for one message, None: no room just now. ValueError: longer than max_message."""

    def publish(self, format: int = 0, /) -> None: ...
    def claim_large(self) -> bool:
        """Room for the record of a message in a file of its own, whose number is ``sequence``. False: no room
        just now."""

    def publish_large(self, length: int, format: int, /) -> None:
        """Publish that its file is complete."""

    def abandon(self) -> None: ...
    def want_past(self, position: int, /) -> None:
        """Have the wait last until no reader is before that position, one that was head once."""

    def drop_before(self, position: int, /) -> None:
        """drop_oldest: drop what lies before that position, one that was head once."""
    def guard(self, lock_fd: int | None, /) -> bool:
        """Have waits on this end end, as timed out, soon after a member of the other side has died; asked with the
        descriptor that this end's own lock belongs to. None: before that is closed; waits end soon now, whoever
        lives. From any thread. False: it cannot; ask yourself."""

    def suspend(self) -> None:
        """Claim the wait for one caller; BusyResourceError if another has it, also from send and claim
        until resume()."""

    def resume(self, ready: bool | None, /) -> None:
        """The wait is over, and whether this end is ready: let others in, and learn what it cost, if a plan was asked
        for. None: over only if something was published; else the plan goes on with the next suspend(). Harmless
        after release()."""

    @property
    def suspended(self) -> bool:
        """A caller waits: between suspend() and resume()."""

    def active_readers(self) -> int: ...
    def slowest(self) -> tuple[int, int, int] | None:
        """(slot, pid, lag in bytes) of the slowest active reader."""

    def readers(self) -> list[tuple[int, int, int]]:
        """(slot, pid, lag in messages) of every active reader."""

    def evict(self, slot: int, /) -> None: ...
    def close(self) -> None:
        """Publish the end of the stream."""

    def release(self) -> None: ...
    def forget(self) -> None:
        """release(), in the child of a fork, and without the readers' doorbells: they are the parent's. Never fails:
        what is in use stays mapped, and is refused."""

class _LargeFiles(Protocol):
    def open(self, sequence: int, position: int, length: int, copy: bool, /) -> Any:
        """The bytes of a large message, or a read-only view of them. None: its file is gone. Other threads may
        come into the reader meanwhile, to ask or to leave."""

    def passed(self, oldest: int, /) -> None:
        """The cursor went past a large message; no reader is before ``oldest`` any more. What this raises is
        raised by the next receive or acquire, since the message is taken already."""

@final
class RingReader:
    """A reading end. Pins the buffer until release(); threads and release as RingWriter."""

    def __new__(
        cls, buffer: Buffer, slot: int, pid: int, large: _LargeFiles | None = None
    ) -> RingReader: ...
    @property
    def capacity(self) -> int: ...
    @property
    def max_message(self) -> int: ...
    @property
    def overflow(self) -> int: ...
    @property
    def slot(self) -> int: ...
    @property
    def lag(self) -> int:
        """Messages published and not yet received."""

    @property
    def sequence(self) -> int:
        """Number of the next message."""

    @property
    def published_ns(self) -> int:
        """When the message last received or acquired was published, CLOCK_MONOTONIC ns; 0 before the first."""

    @property
    def format(self) -> int:
        """Of the message last received or acquired."""

    @property
    def id(self) -> int: ...
    @property
    def oldest(self) -> int:
        """Where the slowest reader is; 2**64 - 1: there is none."""

    @property
    def writer_pid(self) -> int: ...
    @property
    def wait(self) -> Wait:
        """Ready when receive or acquire would not return None. Always the same object."""

    def receive(self) -> bytes | None:
        """The next message, copied; None: nothing there yet. EndOfStream, LaggedError, LayoutError."""

    def receive_many(self, max_messages: int, /) -> list[bytes]:
        """What is there, at most max_messages; empty: nothing yet. EndOfStream only when nothing is left,
        LaggedError only as the first of a batch."""

    def peek(self) -> int | None:
        """The format of the next message, None: nothing there yet. Raises as receive does."""

    def acquire(self) -> memoryview | None:
        """The next message as a read-only view (of the ring itself or of its file in block mode, of a
        private copy or of its file in drop_oldest mode), held until release_message()."""

    def release_message(self) -> None: ...
    def lend(self) -> None:
        """Have the next receive, acquire or peek release what is acquired."""

    def bell_request(self) -> None:
        """Ask the writer to open the FIFO, which is there."""

    def bell(self) -> int:
        """Where the doorbell stands (docs/layout.md): 0 none, 1 requested, 2 ready, 3 parked, 4 refused."""

    def bell_park(self) -> bool:
        """True: parked, poll the FIFO. False: there is something to receive, or the bell is not ready."""

    def bell_unpark(self) -> bool:
        """No longer parked. False: it was rung, and a byte is in the FIFO or on its way."""

    def guard(self, lock_fd: int | None, /) -> bool:
        """As of RingWriter."""

    def suspend(self) -> None:
        """As of RingWriter."""

    def resume(self, ready: bool | None, /) -> None:
        """As of RingWriter."""

    @property
    def suspended(self) -> bool:
        """As of RingWriter."""

    def leave(self) -> None:
        """Give up the slot; the writer no longer waits for this reader."""

    def release(self) -> None: ...
    def forget(self) -> None:
        """As the writer's."""
