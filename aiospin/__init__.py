"""Waiting on shared memory, cheap and fast: words and broadcasts to await.

>>> import aiospin, asyncio
>>> word = bytearray(4)
>>> flag = aiospin.Flag(word, dtype="uint32")
>>> flag.store(7)
>>> asyncio.run(aiospin.wait_for_flag(word, aiospin.ge(5, dtype="uint32"), timeout=1.0))
7
"""

from __future__ import annotations

from importlib.metadata import version

from aiospin._core import Capabilities, Statistics, capabilities, statistics
from aiospin._errors import (
    AiospinError,
    BatchTimeoutError,
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    LaggedError,
    LayoutError,
    WouldBlock,
)
from aiospin._flag import Flag
from aiospin._include import get_include
from aiospin._pace import Prediction
from aiospin._policy import WaitPolicy
from aiospin._predicate import (
    Predicate,
    bits_clear,
    bits_set,
    eq,
    ge,
    gt,
    le,
    lt,
    ne,
)
from aiospin._reader import BroadcastReader, ReaderStatistics, ReadSlot
from aiospin._segment import BroadcastHandle
from aiospin._wait import spinloop, wait_for_flag, wait_for_flag_sync
from aiospin._waiter import Waiter
from aiospin._writer import BroadcastWriter, ReaderState, WriterStatistics, WriteSlot

__version__ = version("aiospin")

__all__ = [
    "AiospinError",
    "BatchTimeoutError",
    "BroadcastHandle",
    "BroadcastReader",
    "BroadcastWriter",
    "BrokenResourceError",
    "BusyResourceError",
    "Capabilities",
    "ClosedResourceError",
    "EndOfStream",
    "Flag",
    "LaggedError",
    "LayoutError",
    "Predicate",
    "Prediction",
    "ReadSlot",
    "ReaderState",
    "ReaderStatistics",
    "Statistics",
    "WaitPolicy",
    "Waiter",
    "WouldBlock",
    "WriteSlot",
    "WriterStatistics",
    "__version__",
    "bits_clear",
    "bits_set",
    "capabilities",
    "eq",
    "ge",
    "get_include",
    "gt",
    "le",
    "lt",
    "ne",
    "spinloop",
    "statistics",
    "wait_for_flag",
    "wait_for_flag_sync",
]
