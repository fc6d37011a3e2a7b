"""The doorbell of one reader: what its event loop polls while nothing comes.

A FIFO beside the segment, so that the writer's publish wakes the loop itself, in one hop, from any
process, container or network namespace that has the folder; and a timer, for a sleep that shall end
just before the next message is due. docs/layout.md has the protocol. The writer's death closes its end,
which a poll tells too, so a parked reader costs nothing and still learns of it at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Any, Final

from aiospin._core import core

if TYPE_CHECKING:
    from pathlib import Path

# The states of a bell in the reader's line (csrc/core/ring_layout.h) that matter here.
_READY: Final = 2
_PARKED: Final = 3
_REFUSED: Final = 4

# A sleeper looks again so often though nobody rang: what rings may have died between its publish and the ring, or
# be a peer with a fault. Once a second costs nothing that can be measured.
LOOK_AGAIN_NS: Final = 1_000_000_000

_DRAIN_BYTES: Final = 64  # one byte is written for each park, so more than one is rare


class Bell:
    """Made before it is needed; the FIFO and the timer come with the first wait that would use them."""

    __slots__ = (
        "_door",
        "_fifo",
        "_lock",
        "_made",
        "_mode",
        "_path",
        "_ring",
        "_timer",
        "_unusable",
        "owner",
        "sleeper",
        "undrained",
    )

    def __init__(self, ring: core.RingReader, path: Path, mode: int) -> None:
        self._ring = ring
        self._path = path
        self._mode = mode  # the segment's: who may write there may ring here
        self._fifo = -1
        self._timer = -1
        self._door: select.epoll | None = None
        # A close may come from another thread while the file is made. One from a signal's handler comes in this one.
        self._lock = threading.RLock()
        self._made = False  # the file at the path is ours
        self._unusable = False
        self.owner: Any = None
        """The event loop's port that polls it, or None."""
        self.sleeper: Any = None
        """The loop's own note of the wait that is parked on it, or None."""
        self.undrained = False
        """A ring has ended a sleep, and may still be in the FIFO."""

    @property
    def fifo(self) -> int:
        """The descriptor that is readable when it was rung, or the writer has gone."""
        return self._fifo

    @property
    def timer(self) -> int:
        """The descriptor that is readable when the time of arm() has come."""
        return self._timer

    @property
    def door(self) -> select.epoll:
        """Both in one, for a loop that lets a task wait for one descriptor."""
        if self._door is None:
            door = select.epoll()
            for fd in (self._fifo, self._timer):
                door.register(fd, select.EPOLLIN)
            self._door = door
        return self._door

    def ready(self) -> bool:
        """May a wait park on it? Asks the writer for it first: it answers with its next publish."""
        if self._unusable:
            return False
        if self._fifo < 0:
            self._request()
            return False
        state = self._ring.bell()
        if state == _REFUSED:
            self.discard()
        return state in (_READY, _PARKED)

    def _request(self) -> None:
        try:
            self._timer = core.timer_open()
            with self._lock:
                if self._unusable:
                    return  # whoever closes the reader lets go of the timer as well
                self._make_fifo()
                self._ring.bell_request()
        except (
            OSError
        ):  # no such timers or files here, or no more descriptors: the waiter thread does it all
            self.forget()

    def _make_fifo(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # of a reader that died in this slot, whose lock is ours now
        self._made = True  # before: an interrupt right after the call would leave the file behind
        try:
            os.mkfifo(self._path, 0o600)
            os.chmod(self._path, self._mode)
            self._fifo = os.open(
                self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except BaseException:
            self.remove()
            raise
        if self._unusable:  # closed by a signal's handler, before there was a file
            self._made = True
            self.remove()

    def park(self) -> bool:
        """True: asleep as far as the writer knows. False: there is something to receive, or it is not ready."""
        return not self._unusable and self._ring.bell_park()

    @property
    def parked(self) -> bool:
        """Nobody has rung since park(), nor called unpark()."""
        return self._ring.bell() == _PARKED

    def unpark(self) -> None:
        """Awake, whoever ended the sleep. If the writer was faster a byte comes, and the poll will tell."""
        self._ring.bell_unpark()

    def arm(self, at_ns: int) -> None:
        """Let the timer end the sleep at that time; FOREVER: never. Replaces what was set before."""
        core.timer_arm(self._timer, 0 if at_ns == core.FOREVER else max(at_ns, 1))

    def drain(self) -> bool:
        """Take the rings out of the FIFO. False: the writer's end is closed."""
        self.undrained = False
        try:
            return bool(os.read(self._fifo, _DRAIN_BYTES))
        except BlockingIOError:
            return True

    def remove(self) -> None:
        """No more bells for this reader: take the FIFO out of the folder, and park on it no more. From any
        thread, while the reader still holds its slot: afterwards the next one may have a FIFO of that name."""
        with self._lock:
            self._unusable = True
            if self._made:
                self._made = False
                # It may be gone, with its folder even: that does not keep the reader from closing.
                with contextlib.suppress(OSError):
                    self._path.unlink()

    def discard(self) -> None:
        """remove(), and close the descriptors, which nobody polls any more."""
        self.remove()
        self.forget()

    def inherited(self) -> None:
        """forget(), in the child of a fork, where the file is the parent's, and whoever had the lock is not."""
        self._lock = threading.RLock()
        self.forget()

    def forget(self) -> None:
        """Close the descriptors and leave the file."""
        with self._lock:  # two threads may let go of it
            self._unusable = True
            self._made = False
            self.owner = self.sleeper = None
            fifo, self._fifo = self._fifo, -1
            timer, self._timer = self._timer, -1
            door, self._door = self._door, None
        if door is not None:
            door.close()
        for fd in (fifo, timer):
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        # A loop that was closed before it could let go of the descriptors leaves them to us.
        if hasattr(self, "_made"):
            self.forget()
