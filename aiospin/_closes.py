"""Who lets go of a segment's file, told to an event loop's poll.

The kernel drops the lock of a process that dies, but tells nobody, so whoever waits for that process would have to ask
after it again and again. It does tell of each close of a file (inotify), a moment before it drops the locks that go
with it: then is the time to ask. One of these serves all waits of a loop.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, ref

from aiospin._core import core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from aiospin._target import Target

# Seconds between two questions once a close was heard. It is told before the lock goes that says who has died: by
# microseconds, unless the process is preempted in between. So the first ones are short, and the others keep what
# survivors wait under 100 ms, until the wait itself asks, once a second.
PAUSES: Final = (1e-3, 10e-3, *(90e-3,) * 11)

# So long nobody of an earlier round is to wait for a question while later ones begin again and again, ns.
_LONGEST_NS: Final = int(max(PAUSES) * 1e9)

# inotify_event: number, mask, cookie, bytes of a name, of which a file that is watched itself has none
_EVENT: Final = struct.Struct("iIII")
_GONE: Final = 0x8000  # IN_IGNORED: the file is no more
_LOST: Final = -1  # the number of IN_Q_OVERFLOW: more was told than the kernel keeps
# More than a few at once are rare, and the poll tells of the rest.
_READ_BYTES: Final = 1024 * _EVENT.size


def ask(targets: Iterable[Target]) -> None:
    """Have them ask after their peers. For the callbacks of a loop, so it raises nothing."""
    for target in targets:
        # What is wrong with the segment their waits find, too, and tell their callers; what a ring is busy with is over
        # when they are asked again.
        with contextlib.suppress(Exception):
            target.ask_after_peers()


class Closes:
    """Targets by the files that their peers close. Used by the thread of its loop."""

    __slots__ = (
        "__weakref__",
        "_asked_ns",
        "_fd",
        "_followed",
        "_heard",
        "_lately",
        "_rounds",
        "_targets",
    )

    def __init__(self) -> None:
        """:raises OSError: no inotify here, or this user has no more of them (fs.inotify.max_user_instances)."""
        self._targets: dict[int, WeakSet[Target]] = {}
        self._followed: WeakSet[Target] = WeakSet()
        self._heard: set[Target] = set()
        self._lately: set[Target] = set()  # of rounds that a later one has taken over
        self._asked_ns = 0  # when those were asked
        self._rounds = 0
        self._fd = core.closes_open()
        _all.add(self)

    @property
    def fd(self) -> int:
        """The descriptor that is readable when there is something to hear."""
        return self._fd

    def follow(self, target: Target, file: int) -> bool:
        """Hear of closes of the file of that descriptor from now on, and once at the next hear(), as one of its peers
        may have died before. False: this kernel does not tell of that file.

        :raises OSError: no more files can be watched.
        """
        if self._fd < 0:
            return False
        number = core.closes_watch(self._fd, file)
        self._targets.setdefault(number, WeakSet()).add(target)
        # There are those that take the order and never tell: kernels in user space, file systems over a network.
        os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC))
        while target not in self._heard:
            if not self._read():
                return False
        self._followed.add(target)
        return True

    def __contains__(self, target: Target) -> bool:
        return target in self._followed

    def hear(self) -> set[Target]:
        """Those one of whose peers may have died."""
        if self._fd >= 0:
            self._read()
        heard, self._heard = self._heard, set()
        return heard

    def questions(self, heard: set[Target]) -> Iterator[float]:
        """Have them ask after their peers now, and after each of these pauses. A later round takes over the questions
        of this one, so that many closes do not ask more often than a few."""
        self._rounds = this = self._rounds + 1
        if not self._lately:
            self._asked_ns = core.now_ns()
        self._lately |= heard
        if core.now_ns() - self._asked_ns > _LONGEST_NS:
            self._ask_lately()
        else:
            ask(heard)
        for pause in PAUSES:
            yield pause
            if self._rounds != this:
                return
            self._ask_lately()
        self._lately.clear()

    def _ask_lately(self) -> None:
        self._asked_ns = core.now_ns()
        ask(self._lately)

    def _read(self) -> bool:
        """False: nothing was told."""
        try:
            told = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        for number, mask, _, _ in _EVENT.iter_unpack(told):
            if number == _LOST:
                self._heard.update(*self._targets.values())
            else:
                self._heard.update(self._targets.get(number, ()))
            if mask & _GONE:
                self._targets.pop(number, None)
        return True

    def close(self) -> None:
        """Hear no more, and follow nobody. In the child of a fork too: what is told there is for the parent."""
        self._targets.clear()
        self._followed.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


class Listener:
    """What an event loop hears of the peers of its waits. How it polls, and when it comes back, is the loop's own."""

    def __init__(self) -> None:
        # Made for the first target that follows its peers. The loop's poll keeps it, until the loop ends.
        self._closes: Callable[[], Closes | None] = lambda: None
        self._deaf = False  # it cannot be made, or not be polled

    def follow(self, target: Target) -> Closes | None:
        """Hear of the peers of this target, so that the waiter thread need not ask. None: it has to."""
        closes = self._closes()
        if closes is not None and target in closes:
            if target.unasked:
                ask((target,))
            return closes
        if self._deaf:
            return None
        if closes is None:
            try:
                closes = Closes()
                self._poll(closes)
            except (NotImplementedError, OSError, RuntimeError, ValueError):
                # No more descriptors, a loop that polls none, or one that is ending: not to be tried at every wait.
                self._deaf = True
                return None
            self._closes = ref(closes)
        followed = target.follow_peers(closes)
        self._hear(closes)
        return closes if followed else None

    def _poll(self, closes: Closes) -> None:
        """Have _hear() called whenever its descriptor is readable."""
        raise NotImplementedError

    def _hear(self, closes: Closes) -> None:
        """Put the questions that it has now, and again after each pause."""
        raise NotImplementedError


_all: WeakSet[Closes] = WeakSet()


def _after_fork_in_child() -> None:
    for closes in list(_all):
        closes.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
