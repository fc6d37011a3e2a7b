"""What a transport is: something that opens a writer's end and readers' ends.

An end is a set of functions, those of the library itself wherever it has them, so that nothing stands between the
measurement and what is measured. Each library is used as its own documentation recommends for speed.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    import aiospin

# Bytes that may be under way, where a transport lets one choose: the default capacity of aiospin's ring.
BACKLOG = 16 << 20
MAX_BATCH = 1024  # messages that one receive takes at most: aiospin's default
# Bytes that one receive takes at most, if they are several messages; also asyncio's own limit of a read. With more of
# them in one list, malloc gives the memory back to the kernel from one batch to the next, and a message of 4 KiB
# costs three times the CPU time (throughput.py --sizes 4096 --json).
BATCH_BYTES = 256 << 10


def batch_of(size: int) -> int:
    """Messages of that size that one receive takes at most."""
    return max(1, min(MAX_BATCH, BATCH_BYTES // size))


ONE = "one at a time"
BATCH = "in batches"
IN_PLACE = "in place"


def _no_such_form(*_: Any) -> Any:
    raise NotImplementedError("this transport has no such form")


@dataclass
class WriterEnd:
    """Functions that send; those of an end in an event loop are awaited."""

    wait_for_readers: Callable[[], Any]
    send: Callable[[bytes], Any]
    send_many: Callable[[list[bytes]], Any] = _no_such_form
    acquire: Callable[[int], aiospin.WriteSlot] = _no_such_form


@dataclass
class ReaderEnd:
    """Functions that receive; those of an end in an event loop are awaited."""

    receive: Callable[[], Any]
    receive_many: Callable[[], Any] = _no_such_form
    acquire: Callable[[], aiospin.ReadSlot] = _no_such_form


class Transport:
    """One way to bring messages to other processes."""

    name: str
    needs: str | None = None  # the package without which there is no such transport
    forms: tuple[str, ...] = (ONE,)
    note: str  # what it is, for whoever reads the table

    def missing(self) -> str | None:
        """Why it cannot be measured here; None if it can."""
        if self.needs is None:
            return None
        try:
            importlib.import_module(self.needs)
        except ImportError as error:
            return f"{error}"
        return None

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        """Where the writer and each reader meet, in terms that can be passed to their processes."""
        place = f"{folder}/meet"
        return place, [place] * readers

    # Every end takes part in the same way: it opens where meet() says, and writers learn how many readers there
    # will be. Messages are all of one size.

    def writer(self, place: Any, readers: int, size: int) -> AbstractContextManager[WriterEnd]:
        raise NotImplementedError

    def reader(self, place: Any, size: int) -> AbstractContextManager[ReaderEnd]:
        raise NotImplementedError

    def async_writer(
        self, place: Any, readers: int, size: int
    ) -> AbstractAsyncContextManager[WriterEnd]:
        raise NotImplementedError

    def async_reader(self, place: Any, size: int) -> AbstractAsyncContextManager[ReaderEnd]:
        raise NotImplementedError


def nothing_to_wait_for() -> None:
    """For a writer whose readers need not attach: what they share exists before them."""
