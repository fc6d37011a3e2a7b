"""The core in use: the compiled one, or its stand-in in pure Python, decided once at import.

Everything else in the package says ``from aiospin._core import core`` and cannot tell the two
apart.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

__all__ = ["Capabilities", "Statistics", "capabilities", "core", "statistics"]

if TYPE_CHECKING:
    from aiospin import _native as core


def _switch(name: str) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{name} must be 0 or 1, not {value!r}")
    return value == "1"


def _choose() -> str | None:
    """Why the stand-in is used, or None: the compiled core is."""
    if _switch("AIOSPIN_NO_EXT"):
        return "AIOSPIN_NO_EXT=1 asks for pure Python"
    if os.environ.get("AIOSPIN_BACKEND") == "python":
        return "AIOSPIN_BACKEND=python asks for pure Python"
    try:
        from aiospin import _native  # noqa: F401
    except ImportError as error:
        reason = f"the compiled core could not be imported ({error})"
        warnings.warn(
            f"aiospin runs in pure Python, with latencies many times higher: {reason}. "
            "Install a wheel for this Python and machine, or set AIOSPIN_NO_EXT=1 to accept this silently",
            RuntimeWarning,
            stacklevel=3,
        )
        return reason
    return None


_why_pure = _choose()
if not TYPE_CHECKING:
    if _why_pure is None:
        from aiospin import _native as core
    else:
        from aiospin import _pure as core

_backend = os.environ.get("AIOSPIN_BACKEND") or None
try:
    core.select_backend(_backend)
except ValueError as error:
    python = "" if _why_pure else ", python"
    raise ValueError(f"AIOSPIN_BACKEND={_backend}: {error}{python}") from None


@dataclass(frozen=True)
class Capabilities:
    """How this process waits, and why."""

    backend: str
    """The name of the wait instruction in use, or "python" for the stand-in; see AIOSPIN_BACKEND."""
    why: str
    """One sentence for the person who asks why it is not another."""
    supported: tuple[str, ...]
    """The values of AIOSPIN_BACKEND that this machine accepts, best first."""
    monitor_line_size: int
    """Bytes that the hardware monitor watches at once; 0 where the backend has none."""
    futex: bool
    """The kernel can put a process to sleep on a word of shared memory."""
    futex_waitv: bool
    """... and one thread on many words at once (Linux 5.16). Without it the waiter thread looks at
    words whose writers notify every ``WaitPolicy.max_sleep`` instead of sleeping without limit."""


def capabilities() -> Capabilities:
    """What this machine offers for waiting, and what aiospin made of it at import."""
    found = core.capabilities()
    return Capabilities(
        backend=found["backend"],
        why=f"{_why_pure}: {found['why']}" if _why_pure else found["why"],
        supported=found["supported"],
        monitor_line_size=found["line_bytes"],
        futex=found["futex"],
        futex_waitv=found["futex_waitv"],
    )


@dataclass(frozen=True)
class Statistics:
    """Counters of this process since it began. Parks and spurious wakes tell what waiting really cost."""

    waits: int
    """Waits that looked and were not refused."""
    ready: int
    """... of which the first look was enough."""
    spun: int
    """... of which were satisfied while spinning."""
    parked: int
    """... of which were satisfied after sleeping in the kernel."""
    parks: int
    """Sleeps in the kernel."""
    spurious: int
    """Wakes that found nothing to do."""
    predicted: int
    """Waits that a planned spin ended."""
    timed_out: int
    cancelled: int
    notifies: int
    """Wake calls to the kernel that this process made for others."""
    elided: int
    """Wake calls saved, because nobody was parked."""
    spin_ns: int
    """Nanoseconds spent spinning."""
    live_tickets: int
    """Waits that a waiter thread has now."""
    pinned_buffers: int
    """Buffers that waits and open broadcasts hold now."""


def statistics() -> Statistics:
    """The counters of this process: how its waits went, and what they cost."""
    return Statistics(**core.statistics())
