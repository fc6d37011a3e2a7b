"""A process that receives: one task awaits messages, beside it one ticks every 10 ms and one reports."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, Final

import anyio

import aiospin
from aiospin._cli.demo.report import INTERVAL, Histogram, Received, give_up

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

TICK_NS: Final = 10_000_000  # 10 ms

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
"""Arguments for anyio.run."""


def main(pipe: Connection, name: str, loop: str, policy: str) -> None:
    """Body of the process."""
    try:
        anyio.run(run, pipe, name, policy, **LOOPS[loop])
    except Exception as error:
        give_up(pipe, error)


async def run(pipe: Connection, name: str, policy: str) -> None:
    # Attached with the loop already running: what is sent before that would count as late.
    preset: aiospin.WaitPolicy = getattr(aiospin.WaitPolicy, policy)()
    async with aiospin.BroadcastReader.attach(name, policy=preset) as reader:
        await Measured(pipe, reader).run()


class Measured:
    """A reader and what is measured of it."""

    def __init__(self, pipe: Connection, reader: aiospin.BroadcastReader) -> None:
        self._pipe = pipe
        self._reader = reader
        self._digest = hashlib.sha256()
        self._messages = 0
        self._nbytes = 0
        self._latency = Histogram()
        self._lateness = Histogram()
        self._began = 0.0
        self._cpu_began = 0.0

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._tick)
            group.start_soon(self._report)
            await self._receive()
            self._pipe.send(self._state(self._digest.hexdigest()))
            group.cancel_scope.cancel()

    async def _receive(self) -> None:
        reader = self._reader
        async for message in reader:
            latency_ns = time.monotonic_ns() - reader.published_ns
            if not self._messages:
                self._began, self._cpu_began = time.monotonic(), time.process_time()
            self._latency.add(latency_ns)
            self._digest.update(message)
            self._messages += 1
            self._nbytes += len(message)

    async def _tick(self) -> None:
        while True:
            # Not by the loop's own clock: uvloop's has whole milliseconds, and its timers may come early.
            due_ns = time.monotonic_ns() + TICK_NS
            await anyio.sleep(TICK_NS / 1e9)
            if self._messages:
                self._lateness.add(max(time.monotonic_ns() - due_ns, 0))

    async def _report(self) -> None:
        while True:
            # Under a hundred bytes four times a second into a pipe that the parent keeps empty: it never blocks.
            self._pipe.send(self._state())
            await anyio.sleep(INTERVAL)

    def _state(self, digest: str | None = None) -> Received:
        elapsed = time.monotonic() - self._began
        return Received(
            messages=self._messages,
            nbytes=self._nbytes,
            latency_p50_ns=self._latency.percentile(50),
            latency_p99_ns=self._latency.percentile(99),
            late_p99_ns=self._lateness.percentile(99),
            cpu=(time.process_time() - self._cpu_began) / elapsed if self._messages else 0.0,
            lag=self._reader.lag,
            digest=digest,
        )
