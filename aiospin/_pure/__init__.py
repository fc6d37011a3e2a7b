"""The compiled core's stand-in: the names, signatures and meanings of ``_native.pyi`` in Python.

For AIOSPIN_NO_EXT=1 and for machines where the extension cannot be imported. A program with it
and one with the compiled core understand each other: the bytes of a ring, the words to sleep on
and the wakes are the same. What Python cannot promise is said where it matters: ordering on
weakly ordered machines (_buffer), atomic changes of a word against compiled writers (_word),
and a waiter thread that sleeps for long (_waiter).
"""

from __future__ import annotations

from ._backend import capabilities, select_backend
from ._clock import FOREVER, now_ns
from ._closes import closes_open, closes_watch
from ._ring_reader import RingReader
from ._ring_writer import RingWriter
from ._segment import ring_bytes, ring_create
from ._tally import count, statistics
from ._timer import timer_arm, timer_open
from ._wait import Wait
from ._waiter import READY, STOPPED, TIMED_OUT, Waiter
from ._word import Word

__all__ = [
    "FOREVER",
    "READY",
    "STOPPED",
    "TIMED_OUT",
    "RingReader",
    "RingWriter",
    "Wait",
    "Waiter",
    "Word",
    "capabilities",
    "closes_open",
    "closes_watch",
    "count",
    "now_ns",
    "ring_bytes",
    "ring_create",
    "select_backend",
    "statistics",
    "timer_arm",
    "timer_open",
]
