"""aiospin's broadcast."""

# ruff: noqa: ARG002  (every transport is opened alike, also where it needs less)

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiospin
from _transports.transport import BATCH, IN_PLACE, ONE, ReaderEnd, Transport, WriterEnd, batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ATTACH_TIMEOUT = 30.0  # seconds for every reader to attach; they are starting already


class Broadcast(Transport):
    """aiospin's broadcast, its readers with one of the policies."""

    forms = (ONE, BATCH, IN_PLACE)

    def __init__(self, name: str, policy: aiospin.WaitPolicy | None, note: str) -> None:
        self.name = name
        self._policy = policy
        self.note = note

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        name = Path(folder).name
        return name, [name] * readers

    @contextmanager
    def writer(self, place: Any, readers: int, size: int) -> Iterator[WriterEnd]:
        with aiospin.BroadcastWriter.create(place, max_readers=readers) as end:
            yield WriterEnd(
                lambda: end.wait_for_readers_sync(readers, ATTACH_TIMEOUT),
                end.send_sync,
                end.send_many_sync,
                end.acquire_write,
            )

    @contextmanager
    def reader(self, place: Any, size: int) -> Iterator[ReaderEnd]:
        with aiospin.BroadcastReader.attach(place, policy=self._policy) as end:
            batch = batch_of(size)
            yield ReaderEnd(
                end.receive_sync, lambda: end.receive_many_sync(batch), end.acquire_read
            )

    @asynccontextmanager
    async def async_writer(self, place: Any, readers: int, size: int) -> AsyncIterator[WriterEnd]:
        async with aiospin.BroadcastWriter.create(place, max_readers=readers) as end:
            yield WriterEnd(
                lambda: end.wait_for_readers(readers, ATTACH_TIMEOUT),
                end.send,
                end.send_many,
                end.acquire_write,
            )

    @asynccontextmanager
    async def async_reader(self, place: Any, size: int) -> AsyncIterator[ReaderEnd]:
        async with aiospin.BroadcastReader.attach(place, policy=self._policy) as end:
            batch = batch_of(size)
            yield ReaderEnd(end.receive, lambda: end.receive_many(batch), end.acquire_read)


def every_policy() -> Iterator[Broadcast]:
    """aiospin with its default policy, and static ones: what each can do at best, and at what price."""
    yield Broadcast("aiospin", None, "the default policy")
    yield Broadcast("aiospin-latency", aiospin.WaitPolicy.latency(), "WaitPolicy.latency()")
    yield Broadcast("aiospin-powersave", aiospin.WaitPolicy.powersave(), "WaitPolicy.powersave()")
    spin = aiospin.WaitPolicy(mode="loop", max_spin=3600, predict=False)
    yield Broadcast("aiospin-spin", spin, "always spinning")
