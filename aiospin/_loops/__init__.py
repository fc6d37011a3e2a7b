"""One file per event loop, behind one function: the loop that runs here."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Protocol

from aiospin._loops._asyncio import AsyncioLoop, loop_of

if TYPE_CHECKING:
    from aiospin._pace import Pace
    from aiospin._policy import WaitPolicy
    from aiospin._target import Target
    from aiospin._waiter import Waiter


class Loop(Protocol):
    """What aiospin needs of an event loop."""

    async def suspend(
        self, target: Target, deadline_ns: int, pace: Pace, policy: WaitPolicy, waiter: Waiter
    ) -> bool | None:
        """Suspend the current task until the target is ready (True) or the deadline passed (False).

        None: it has slept until just before something is due, and the caller shall try what it waits to
        do, and come back. That is a rehearsal: an idle CPU forgets the way of a message through the
        interpreter (on a virtual machine all of it, and then it takes 10 to 40 us for 2), which is walked
        once before the message comes. Only a target that predicts sleeps so.

        However it ends, nothing looks at the target's buffer any more. What a Python predicate
        raised comes out, and cancellation does.
        """

    async def checkpoint(self) -> None:
        """Let other tasks run."""

    def task(self) -> object:
        """The current task."""


def in_trio() -> bool:
    # Only a program that imported trio can be running it; importing it here would cost 0.2 s.
    lowlevel = getattr(
        sys.modules.get("trio"), "lowlevel", None
    )  # None while another thread imports it
    return lowlevel is not None and bool(lowlevel.in_trio_task())


def current_loop() -> Loop:
    """The loop that runs the current task.

    :raises RuntimeError: there is none.
    """
    if in_trio():
        from aiospin._loops._trio import loop_of as trio_loop_of

        return trio_loop_of()
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "there is no running event loop: await this in asyncio or trio, or use the blocking form (…_sync)"
        ) from None
    return loop_of(running)


def on_loop_thread() -> bool:
    """Is an event loop running in this thread, which a blocking wait would hold up?"""
    if in_trio():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


__all__ = ["AsyncioLoop", "Loop", "current_loop", "on_loop_thread"]
