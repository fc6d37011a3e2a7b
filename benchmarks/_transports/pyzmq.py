"""pyzmq over ipc."""

from __future__ import annotations

import asyncio
import importlib
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from _transports.transport import BACKLOG, BATCH, ONE, ReaderEnd, Transport, WriterEnd, batch_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Zmq(Transport):
    """pyzmq's XPUB and SUB over ipc. Its batches are what goes in, or is there, without waiting: faster than one
    message of many parts."""

    name = "pyzmq"
    note = "pyzmq's XPUB and SUB over ipc, which wait for room; a batch is what goes or comes without waiting"
    needs = "zmq"
    forms = (ONE, BATCH)

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        place = f"ipc://{folder}/meet"
        return place, [place] * readers

    @contextmanager
    def writer(self, place: Any, readers: int, size: int) -> Iterator[WriterEnd]:
        zmq = importlib.import_module("zmq")
        with zmq.Context() as context, context.socket(zmq.XPUB) as end:
            self._bind(zmq, end, place, size)

            def wait_for_readers() -> None:
                for _ in range(readers):
                    end.recv()  # a subscription

            def send_many(messages: list[bytes]) -> None:
                for message in messages:
                    end.send(message)

            yield WriterEnd(wait_for_readers, end.send, send_many)

    @contextmanager
    def reader(self, place: Any, size: int) -> Iterator[ReaderEnd]:
        zmq = importlib.import_module("zmq")
        with zmq.Context() as context, context.socket(zmq.SUB) as end:
            self._connect(end, place, size)
            yield ReaderEnd(end.recv, lambda: [end.recv(), *self._rest(zmq, end, size)])

    @asynccontextmanager
    async def async_writer(self, place: Any, readers: int, size: int) -> AsyncIterator[WriterEnd]:
        zmq = importlib.import_module("zmq")
        context = importlib.import_module("zmq.asyncio").Context()
        with context, context.socket(zmq.XPUB) as end:
            self._bind(zmq, end, place, size)
            blocking = zmq.Socket(shadow=end)

            async def wait_for_readers() -> None:
                for _ in range(readers):
                    await end.recv()

            async def send(message: bytes) -> None:
                while True:
                    try:
                        await end.send(message)
                        return
                    except zmq.Again:  # pyzmq cannot wait for room on a socket of this kind
                        await asyncio.sleep(0)

            async def send_many(messages: list[bytes]) -> None:
                for message in messages:
                    while True:
                        try:
                            blocking.send(message, zmq.NOBLOCK)
                            break
                        except zmq.Again:
                            await asyncio.sleep(0)

            yield WriterEnd(wait_for_readers, send, send_many)

    @asynccontextmanager
    async def async_reader(self, place: Any, size: int) -> AsyncIterator[ReaderEnd]:
        zmq = importlib.import_module("zmq")
        context = importlib.import_module("zmq.asyncio").Context()
        with context, context.socket(zmq.SUB) as end:
            self._connect(end, place, size)
            blocking = zmq.Socket(shadow=end)

            async def receive_many() -> list[bytes]:
                return [await end.recv(), *self._rest(zmq, blocking, size)]

            yield ReaderEnd(end.recv, receive_many)

    @staticmethod
    def _limit(size: int) -> int:
        return max(16, min(1000, BACKLOG // size))  # messages; 1000 is its own default

    def _bind(self, zmq: Any, end: Any, place: str, size: int) -> None:
        end.sndhwm = self._limit(size)
        end.setsockopt(zmq.XPUB_NODROP, 1)  # wait for room, as the others do, and lose nothing
        end.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of every subscriber, so that they can be counted
        end.bind(place)

    def _connect(self, end: Any, place: str, size: int) -> None:
        end.rcvhwm = self._limit(size)
        end.subscribe(b"")
        end.connect(place)

    @staticmethod
    def _rest(zmq: Any, end: Any, size: int) -> Iterator[bytes]:
        for _ in range(batch_of(size) - 1):
            try:
                yield end.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
