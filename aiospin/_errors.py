"""Exceptions. Where anyio has a name for what happened, aiospin raises that one."""

from __future__ import annotations

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
)

__all__ = [
    "AiospinError",
    "BatchTimeoutError",
    "BrokenResourceError",
    "BusyResourceError",
    "ClosedResourceError",
    "EndOfStream",
    "LaggedError",
    "LayoutError",
    "WouldBlock",
]


class AiospinError(Exception):
    """Base of the errors that only aiospin raises."""


class BatchTimeoutError(TimeoutError):
    """The time of a ``send_many`` passed before all messages had room.

    :ivar sent: how many were sent, the first ones. The others were not.
    """

    def __init__(self, message: str, sent: int) -> None:
        super().__init__(message)
        self.sent = sent

    def __reduce__(self) -> tuple[type[BatchTimeoutError], tuple[str, int]]:
        return type(self), (str(self), self.sent)


class LaggedError(AiospinError):
    """The writer of a ``drop_oldest`` broadcast overwrote messages that this reader had not read.

    Receiving goes on at the oldest message that is still there.

    :ivar skipped: how many messages were lost, exactly.
    """

    def __init__(self, skipped: int) -> None:
        lost = "1 message was" if skipped == 1 else f"{skipped} messages were"
        super().__init__(
            f"{lost} overwritten before this reader got there; "
            "the next receive goes on at the oldest one left"
        )
        self.skipped = skipped

    def __reduce__(self) -> tuple[type[LaggedError], tuple[int]]:
        return type(self), (self.skipped,)


class LayoutError(AiospinError):
    """What lies at that name or in that buffer is no healthy aiospin segment."""
