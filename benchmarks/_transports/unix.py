"""Unix stream sockets, in an event loop by asyncio's streams."""

# ruff: noqa: ARG002  (every transport is opened alike, also where it needs less)

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from _transports.transport import BATCH, BATCH_BYTES, ONE, ReaderEnd, Transport, WriterEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class UnixStream(Transport):
    """A Unix stream socket for each reader. It has no messages: all are of one size here, so that it needs no frames.
    A batch is joined, sent as one, received in chunks and cut."""

    name = "unix"
    forms = (ONE, BATCH)
    note = (
        "a Unix stream socket for each reader, to each of which the writer sends; it has no messages, so they are all "
        "of one size, and a batch is joined to be sent and cut again"
    )

    @contextmanager
    def writer(self, place: Any, readers: int, size: int) -> Iterator[WriterEnd]:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(place)
            listener.listen(readers)
            ends: list[socket.socket] = []

            def wait_for_readers() -> None:
                while len(ends) < readers:
                    ends.append(stack.enter_context(listener.accept()[0]))

            def send(message: bytes) -> None:
                for end in ends:
                    end.sendall(message)

            yield WriterEnd(wait_for_readers, send, lambda messages: send(b"".join(messages)))

    @contextmanager
    def reader(self, place: Any, size: int) -> Iterator[ReaderEnd]:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(place)

            def receive_many() -> list[bytes]:
                data = end.recv(BATCH_BYTES)
                return _cut(data + end.recv(-len(data) % size, socket.MSG_WAITALL), size)

            yield ReaderEnd(lambda: end.recv(size, socket.MSG_WAITALL), receive_many)

    @asynccontextmanager
    async def async_writer(self, place: Any, readers: int, size: int) -> AsyncIterator[WriterEnd]:
        ends: list[asyncio.StreamWriter] = []
        complete = asyncio.Event()

        def accept(_: asyncio.StreamReader, end: asyncio.StreamWriter) -> None:
            ends.append(end)
            if len(ends) == readers:
                complete.set()

        async def send(message: bytes) -> None:
            for end in ends:
                end.write(message)
            for end in ends:
                await end.drain()

        async with await asyncio.start_unix_server(accept, place):
            yield WriterEnd(complete.wait, send, lambda messages: send(b"".join(messages)))
            for end in ends:
                end.close()
                await end.wait_closed()

    @asynccontextmanager
    async def async_reader(self, place: Any, size: int) -> AsyncIterator[ReaderEnd]:
        incoming, outgoing = await asyncio.open_unix_connection(place, limit=max(BATCH_BYTES, size))

        async def receive_many() -> list[bytes]:
            data = await incoming.read(BATCH_BYTES)
            return _cut(data + await incoming.readexactly(-len(data) % size), size)

        yield ReaderEnd(lambda: incoming.readexactly(size), receive_many)
        outgoing.close()


def _cut(data: bytes, size: int) -> list[bytes]:
    """The messages of that size of which the data is made."""
    return [data[at : at + size] for at in range(0, len(data), size)]
