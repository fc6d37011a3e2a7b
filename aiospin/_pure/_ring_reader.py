"""A reading end of a broadcast ring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, final

from .._errors import (
    BusyResourceError,
    EndOfStream,
    LaggedError,
    LayoutError,
)
from .._layout import (
    ACTIVE,
    ALIGN,
    BLOCK,
    CURSOR_JOINING,
    DROP_OLDEST,
    FLAGS,
    HEAD_CLOSED,
    HEAD_ODD,
)
from . import _futex
from ._buffer import fence, order
from ._ring import End
from ._segment import (
    BELL_NONE,
    BELL_PARKED,
    BELL_READY,
    BELL_REQUESTED,
    BYTES,
    LARGE,
    PAD,
    Record,
    Segment,
    Slot,
    head_position,
    record_bytes,
    sequence_at,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Tries of a joining reader to load head and sequence while no publish goes on. A healthy writer
# cannot publish in each of them.
JOIN_TRIES: Final = 1000


class LargeFiles(Protocol):
    """The files of large messages."""

    def open(self, sequence: int, position: int, length: int, copy: bool) -> Any:
        """The bytes of the message, or a read-only view of them. None: the file is gone."""

    def passed(self, oldest: int) -> None:
        """The cursor went past a large message. No reader is before ``oldest`` any more."""


class _ReaderWatch:
    """Ready when receive or acquire would not return None."""

    notified = True
    value = None

    def __init__(self, segment: Segment, slot: Slot) -> None:
        self._segment = segment
        self._slot = slot
        self.cursor = 0  # everything before it is released
        self.skipped = 0  # messages known to be lost, and not told yet

    def look(self) -> bool:
        # A head that is not where the cursor is means a message, the end, or a broken segment,
        # which the next call will say.
        return self.skipped > 0 or self._segment.head & ~HEAD_ODD != self.cursor

    def prepare(self) -> Sequence[_futex.Word]:
        self._slot.parked = 1  # for people
        return self._segment.readable.prepare()

    def release(self) -> None:
        """The ring's end releases the segment."""


class _Found(Enum):
    NOTHING = "nothing there yet"
    END = "the writer closed and everything was read"
    LAGGED = "messages are lost"


@final
class RingReader(End):
    """A reading end. Pins the buffer until release(); threads and release as RingWriter."""

    _ACTION = "receiving from"

    def __init__(
        self, buffer: Buffer, slot: int, pid: int, large: LargeFiles | None = None
    ) -> None:
        super().__init__(buffer)
        self._number = slot
        self._large = large
        self._opening = False  # it opens the file of the next message
        self._error: BaseException | None = None  # raised when a message had been taken already
        self._published_ns = 0
        self._format = BYTES
        self._acquired: Record | None = None
        self._holds_copy = False  # the acquired message is a private copy, or a file
        self._lent = False  # the next receive or acquire releases the acquired message
        try:
            if not 0 <= slot < self._segment.max_readers:
                raise ValueError(
                    f"there is no slot {slot}: this ring has {self._segment.max_readers}"
                )
            self._slot = self._segment.slots[slot]
            self._watch = _ReaderWatch(self._segment, self._slot)
            self._join(pid)
        except BaseException:
            self._segment.release()
            raise
        self._watched_by(self._watch)

    def _join(self, pid: int) -> None:
        """Start at head. Either the writer's next look at the slots sees this one, or the head
        loaded here is one from which on nothing is overwritten: each side has a fence between
        its store and its load. (The proof is beside asp_ring_join.)"""
        segment, slot = self._segment, self._slot
        slot.pid = pid
        slot.bell = BELL_NONE
        slot.parked = 0
        slot.cursor = segment.head & ~FLAGS | CURSOR_JOINING
        slot.state = ACTIVE
        fence()  # slot before head; pairs with the fence in RingWriter's limit
        try:
            head, self._sequence = self._settled_head()
        except LayoutError:
            segment.evict(self._number)
            raise
        self._watch.cursor = head
        slot.sequence = self._sequence
        slot.cursor = head
        segment.writable.notify()

    def _settled_head(self) -> tuple[int, int]:
        """A head and the number of messages before it."""
        segment = self._segment
        word = segment.head
        for _ in range(JOIN_TRIES):
            seen = segment.sequence
            again = segment.head
            if again == word:
                head, sequence = head_position(word), sequence_at(word, seen)
                if not 0 <= sequence <= head // ALIGN:
                    raise LayoutError(f"sequence is {seen}, which cannot be with head at {word:#x}")
                return head, sequence
            word = again
        raise LayoutError("head does not keep still: no writer publishes that fast")

    @property
    def slot(self) -> int:
        return self._number

    @property
    def lag(self) -> int:
        """Messages published and not yet received."""
        if self._turn.released:
            return 0
        return max(self._segment.sequence - self._sequence, 0)

    @property
    def sequence(self) -> int:
        """Number of the next message."""
        return self._sequence

    @property
    def published_ns(self) -> int:
        """When the message last received or acquired was published; 0 before the first."""
        return self._published_ns

    @property
    def format(self) -> int:
        """Of the message last received or acquired."""
        return self._format

    @property
    def oldest(self) -> int:
        """Where the slowest reader is; 2**64 - 1: there is none."""
        return self._open().oldest()

    @property
    def writer_pid(self) -> int:
        return self._segment.writer_pid

    def _advance(self, nbytes: int, messages: int) -> None:
        """Go past bytes that hold so many messages."""
        self._watch.cursor += nbytes
        self._sequence += messages
        self._slot.sequence = self._sequence
        self._slot.cursor = self._watch.cursor
        if self._segment.overflow == BLOCK:  # nobody waits for room in the other mode
            self._segment.writable.notify()

    def _settle(self, sequence: int) -> bool:
        """What lies at cursor has this sequence. False: messages in between are lost."""
        missing = sequence - self._sequence
        if missing == 0:
            return True
        # A message takes at least one unit of alignment, so there cannot be more of them.
        lossy = self._segment.overflow == DROP_OLDEST
        if not lossy or missing < 0 or sequence > self._watch.cursor // ALIGN:
            raise LayoutError(
                f"the sequence at {self._watch.cursor:#x} is {sequence}, should be {self._sequence}"
            )
        self._advance(0, missing)
        self._watch.skipped += missing
        return False

    def _lapped(self) -> bool:
        """What was loaded at cursor before this call cannot be trusted: the writer has gone
        past."""
        order()
        return self._segment.overflow == DROP_OLDEST and self._segment.tail > self._watch.cursor

    def _go_to_tail(self) -> None:
        tail = self._segment.tail
        head = head_position(self._segment.head)
        if tail & FLAGS or not self._watch.cursor < tail <= head:
            raise LayoutError(
                f"tail is {tail:#x}, should be between the cursor, {self._watch.cursor:#x}, and "
                f"head, {head:#x}"
            )
        self._advance(tail - self._watch.cursor, 0)  # the next record will tell how many messages

    def _find(self) -> Record | _Found:
        """The next message's record, checked; in drop_oldest mode it was whole a moment ago."""
        segment, watch = self._segment, self._watch
        while not watch.skipped:
            word = segment.head
            head = head_position(word)
            behind = head - watch.cursor
            if behind < 0 or (segment.overflow == BLOCK and behind > segment.capacity):
                raise LayoutError(
                    f"head is {word:#x}, which cannot be with this cursor, {watch.cursor:#x}"
                )
            if behind and self._slot.parked:
                self._slot.parked = 0
            if behind == 0:
                if not word & HEAD_CLOSED:
                    return _Found.NOTHING
                if self._settle(segment.sequence):
                    return _Found.END
                continue
            record = segment.load_record(watch.cursor)
            if self._lapped():
                self._go_to_tail()
                continue
            size = segment.record_size(watch.cursor, head, record)
            if not size:
                raise LayoutError(f"what lies at {watch.cursor:#x} is no record: {record}")
            if not self._settle(record.sequence):
                continue
            if record.kind != PAD:
                return record
            self._advance(size, 0)
        return _Found.LAGGED

    def _copy(self) -> bytes | _Found:
        """The next message, copied; a torn copy is thrown away. The reader goes past it."""
        while True:
            found = self._find()
            if isinstance(found, _Found):
                return found
            if found.kind == LARGE:
                message: bytes | None = self._open_large(found, copy=True)
                if message is None:
                    continue
            else:
                with self._segment.payload(found.position, found.length) as payload:
                    message = payload.tobytes()
                if self._lapped():
                    self._go_to_tail()
                    continue
            self._take(found)
            return message

    def _take(self, record: Record) -> None:
        """Go past a message that the caller gets."""
        self._format = record.format
        self._published_ns = record.published_ns
        self._advance(record_bytes(record.length), 1)
        if record.kind == LARGE:
            self._passed_large()

    def _open_large(self, record: Record, copy: bool) -> Any:
        """The bytes of the file, or a view of it. None: it was overwritten, look again."""
        if self._large is None:
            raise ValueError("a large message came, and this end was made without a way to open it")
        with self._others():
            opened = self._large.open(record.sequence, record.position, record.nbytes, copy)
        self._turn.check_open()
        if opened is not None:
            return opened
        if not self._lapped():
            raise LayoutError(f"the file of the message {record.sequence} is gone")
        self._go_to_tail()
        return None

    def _passed_large(self) -> None:
        """The cursor went past a large message: whoever finds that it was the last removes the file."""
        assert self._large is not None
        oldest = self._segment.oldest()
        try:
            with self._others():
                self._large.passed(oldest)
        except BaseException as error:  # the message is taken, and goes to the caller
            self._error = error

    @contextmanager
    def _others(self) -> Iterator[None]:
        """Around a call that may take long: others may come in, to ask or to leave."""
        self._opening = True
        self._turn.step_out()
        try:
            yield
        finally:
            self._turn.step_in()
            self._opening = False

    def _nothing(self, found: _Found) -> None:
        """Raise unless there simply is nothing yet."""
        if found is _Found.END:
            raise EndOfStream
        if found is _Found.LAGGED:
            skipped, self._watch.skipped = self._watch.skipped, 0
            raise LaggedError(skipped)

    def _check_free(self) -> None:
        self._turn.check_free()
        if self._lent:
            self._release()
            self._turn.check_open()  # others were let in
        if self._opening or self._holds_copy or self._acquired:
            raise BusyResourceError("holding an acquired message of")
        if self._error:
            error, self._error = self._error, None
            raise error

    def receive(self) -> bytes | None:
        """The next message, copied; None: nothing there yet. EndOfStream, LaggedError,
        LayoutError."""
        with self._turn:
            self._check_free()
            message = self._copy()
            if not isinstance(message, _Found):
                return message
            self._nothing(message)
            return None

    def receive_many(self, max_messages: int) -> list[bytes]:
        """What is there, at most max_messages; empty: nothing yet. EndOfStream only when
        nothing is left, LaggedError only as the first of a batch."""
        if max_messages < 0:
            raise ValueError(f"max_messages must be at least 0, not {max_messages}")
        with self._turn:
            self._check_free()
            batch: list[bytes] = []
            while len(batch) < max_messages and not self._error and not self._turn.ended:
                try:
                    message = self._copy()
                except BaseException as error:
                    if not batch:
                        raise
                    self._error = error  # for the next call
                    break
                if isinstance(message, _Found):
                    if not batch:
                        self._nothing(message)
                    break
                batch.append(message)
            return batch

    def peek(self) -> int | None:
        """The format of the next message, or None: nothing there yet. Raises as receive does."""
        with self._turn:
            self._check_free()
            found = self._find()
            if isinstance(found, _Found):
                self._nothing(found)
                return None
            return found.format

    def acquire(self) -> memoryview | None:
        """The next message as a read-only view (of the ring itself or of its file in block mode; of
        a private copy or of its file in drop_oldest mode), held until release_message()."""
        with self._turn:
            self._check_free()
            if self._segment.overflow == DROP_OLDEST:
                return self._acquire_copy()
            found = self._find()
            if isinstance(found, _Found):
                self._nothing(found)
                return None
            if found.kind == LARGE:
                view: memoryview = self._open_large(found, copy=False)
            else:
                with self._segment.payload(found.position, found.length) as payload:
                    view = payload.toreadonly()
            self._acquired = found
            self._format = found.format
            self._published_ns = found.published_ns
            return view

    def _acquire_copy(self) -> memoryview | None:
        found = self._find()
        if isinstance(found, Record) and found.kind == LARGE:
            view: memoryview | None = self._open_large(found, copy=False)
            if view is not None:
                self._take(found)
                self._holds_copy = True
                return view
        message = self._copy()
        if isinstance(message, _Found):
            self._nothing(message)
            return None
        self._holds_copy = True
        return memoryview(message)

    def release_message(self) -> None:
        """Go past the acquired message; wakes a parked writer. Does nothing without one."""
        with self._turn:
            self._release()

    def _release(self) -> None:
        acquired, self._acquired, self._holds_copy, self._lent = self._acquired, None, False, False
        if acquired:
            self._take(acquired)

    def lend(self) -> None:
        """Have the next receive or acquire release what is acquired."""
        with self._turn:
            self._lent = True

    # ---- the doorbell: only the reader changes it from none and from ready, so it may simply store ----

    def bell_request(self) -> None:
        """Ask the writer to open the FIFO, which is there."""
        with self._turn:
            if not self._turn.ended:  # else the slot may be another's
                self._slot.bell = BELL_REQUESTED
                self._segment.readable.prepare_bell()

    def bell(self) -> int:
        """Where the doorbell stands."""
        self._open()
        return self._slot.bell

    def bell_park(self) -> bool:
        """True: parked, poll the FIFO. False: there is something to receive, or the bell is not
        ready."""
        with self._turn:
            if self._turn.ended or self._slot.bell != BELL_READY:
                return False  # once it has left, the slot may be another's
            self._slot.bell = BELL_PARKED
            self._segment.readable.prepare_bell()
            if not self._watch.look():
                return True
            self._unpark()
            return False

    def bell_unpark(self) -> bool:
        """No longer parked. False: it was rung, and a byte is in the FIFO or on its way. (One may come
        after True as well: another process may ring between this one's look and its store.)"""
        with self._turn:
            return self._unpark()

    def _unpark(self) -> bool:
        if self._turn.ended or self._slot.bell != BELL_PARKED:
            return False
        self._slot.bell = BELL_READY
        return True

    def leave(self) -> None:
        """Give up the slot; the writer no longer waits for this reader. Idempotent."""
        with self._turn.at_last():
            if not self._turn.ended:
                self._turn.ended = True
                self._acquired, self._holds_copy, self._lent = None, False, False
                self._slot.bell = BELL_NONE
                self._segment.evict(self._number)
