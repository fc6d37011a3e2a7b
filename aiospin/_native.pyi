"""Types of the compiled core. ``aiospin._pure`` has the same names and meanings without it.

Private: everything public is in ``aiospin``. Times are absolute CLOCK_MONOTONIC nanoseconds
(``*_deadline_ns``) or durations in nanoseconds (``*_ns``).
"""

from typing import Any, Final, Literal, TypeAlias, final

from typing_extensions import Buffer

_Counter: TypeAlias = Literal["waits", "ready", "parked", "timed_out", "cancelled"]

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

    def run(self, deadline_ns: int, spin_ns: int, max_sleep_ns: int, hardware: bool) -> bool:
        """Wait in this thread, without the GIL: spin for spin_ns, then park. False when the deadline passed.
        Signal handlers run meanwhile and what they raise comes out."""

    def grace(self, max_spin_ns: int) -> int:
        """How long it pays to spin now: max_spin_ns, or 0 when what this object waited for before came
        on average later than twice that."""

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
        spin_ns: int,
        max_sleep_ns: int,
        hardware: bool,
    ) -> None:
        """Let run() wait for it; run() hands token back. RuntimeError after stop(), or when
        the wait is submitted already or released."""

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
    buffer: Buffer, capacity: int, max_readers: int, overflow: int, pid: int, realtime_ns: int
) -> None: ...

@final
class RingWriter:
    """The writing end. Pins the buffer until release(). One thread at a time: another gets
    BusyResourceError. After release() what needs the memory raises ClosedResourceError."""

    def __new__(cls, buffer: Buffer) -> RingWriter:
        """LayoutError when the buffer holds no healthy ring."""

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
    def wait(self) -> Wait:
        """Ready when the send or claim that last said no may succeed. Always the same object."""

    def send(self, data: Buffer) -> bool:
        """Copy, publish, wake. False: no room just now. ValueError: can never fit."""

    def claim(self, nbytes: int) -> memoryview | None: ...
    def publish(self) -> None: ...
    def abandon(self) -> None: ...
    def suspend(self) -> None:
        """Claim the wait for one caller; BusyResourceError if another has it, also from send and claim
        until resume()."""

    def resume(self) -> None: ...
    def active_readers(self) -> int: ...
    def slowest(self) -> tuple[int, int, int] | None:
        """(slot, pid, lag in bytes) of the slowest active reader."""

    def readers(self) -> list[tuple[int, int, int]]:
        """(slot, pid, lag in messages) of every active reader."""

    def evict(self, slot: int) -> None: ...
    def close(self) -> None:
        """Publish the end of the stream."""

    def release(self) -> None: ...

@final
class RingReader:
    """A reading end. Pins the buffer until release(); threads and release as RingWriter."""

    def __new__(cls, buffer: Buffer, slot: int, pid: int) -> RingReader: ...
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
    def writer_pid(self) -> int: ...
    @property
    def wait(self) -> Wait:
        """Ready when receive or acquire would not return None. Always the same object."""

    def receive(self) -> bytes | None:
        """The next message, copied; None: nothing there yet. EndOfStream, LaggedError, LayoutError."""

    def receive_many(self, max_messages: int) -> list[bytes]:
        """What is there, at most max_messages; empty: nothing yet. EndOfStream only when nothing is left,
        LaggedError only as the first of a batch."""

    def acquire(self) -> memoryview | None:
        """The next message as a read-only view (of the ring itself in block mode, of a private
        copy in drop_oldest mode), held until release_message()."""

    def release_message(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...
    def leave(self) -> None:
        """Give up the slot; the writer no longer waits for this reader."""

    def release(self) -> None: ...
