"""A TCP server that passes a broadcast on to any number of clients; asyncio Streams, one reader.

    python examples/asyncio_server.py --demo              with a writer process and two clients of its own
    python examples/asyncio_server.py NAME --port 8765    for the broadcast NAME of another program

On the wire a message is its length, four bytes with the highest first, and then its bytes.

A slow client does not hold up the others, nor the writer: each has a queue of its own, and one that falls more
than BACKLOG messages behind is disconnected. It learns so from the connection, and may come back; a stream
with a hole in it that nobody notices would be worse.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import sys
from typing import TYPE_CHECKING

import aiospin

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

BACKLOG = 1024  # messages that one client may be behind
FINISH_TIMEOUT = 10.0  # seconds that clients get for the rest when the broadcast has ended


class Client:
    """One connection and what is still to be written to it."""

    def __init__(self, stream: asyncio.StreamWriter) -> None:
        self._stream = stream
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, message: bytes | None, backlog: int) -> None:
        """Queue a message, or the end; never blocks."""
        if message is not None and self._queue.qsize() >= backlog:
            self._stream.transport.abort()  # and write() below ends
        else:
            self._queue.put_nowait(message)

    async def write(self) -> None:
        """Write what is queued until the end."""
        while (message := await self._queue.get()) is not None:
            if self._stream.is_closing():
                raise ConnectionAbortedError("too slow")
            self._stream.write(len(message).to_bytes(4, "big"))
            self._stream.write(message)
            await self._stream.drain()


class Server:
    """Passes what one reader receives on to every client that is connected at that time."""

    def __init__(self, reader: aiospin.BroadcastReader, backlog: int = BACKLOG) -> None:
        self._reader = reader
        self._backlog = backlog
        self._clients: set[Client] = set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._joined = asyncio.Event()

    async def wait_for_clients(self, n: int) -> None:
        """Until at least n are connected."""
        while len(self._clients) < n:
            self._joined.clear()
            await self._joined.wait()

    async def handle(self, _: asyncio.StreamReader, stream: asyncio.StreamWriter) -> None:
        """Serve one client; for asyncio.start_server."""
        client = Client(stream)
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._clients.add(client)
        self._joined.set()
        try:
            await client.write()
            stream.close()
            await stream.wait_closed()
        except ConnectionError:
            pass  # it went away, or was too slow
        finally:
            self._clients.discard(client)
            self._handlers.discard(task)
            stream.close()

    async def relay(self) -> None:
        """Until the broadcast ends and the clients have it all."""
        async for message in self._reader:
            for client in self._clients:
                client.put(message, self._backlog)
        for client in self._clients:
            client.put(None, self._backlog)
        if self._handlers:
            _, late = await asyncio.wait(self._handlers, timeout=FINISH_TIMEOUT)
            for task in late:
                task.cancel()


async def serve(name: str, host: str, port: int) -> None:
    async with aiospin.BroadcastReader.attach(name) as reader:
        server = Server(reader)
        async with await asyncio.start_server(server.handle, host, port) as listening:
            for socket in listening.sockets:
                print("listening on {}:{}".format(*socket.getsockname()), flush=True)
            await server.relay()


# ---- the demonstration: a writer process, this server, two clients ----


def engine(pipe: Connection, count: int) -> None:
    """The process that writes: some text, as soon as it is told to."""
    with aiospin.BroadcastWriter.create() as writer:
        pipe.send(writer.handle)
        pipe.recv()
        for number in range(count):
            writer.send_sync(b"line %d of %d\n" % (number, count))


async def receive(port: int) -> tuple[int, str]:
    """A client: how many messages it got, and the SHA-256 of all."""
    stream, writer = await asyncio.open_connection("127.0.0.1", port)
    count, digest = 0, hashlib.sha256()
    while header := await stream.read(4):
        if len(header) < 4:
            header += await stream.readexactly(4 - len(header))
        digest.update(await stream.readexactly(int.from_bytes(header, "big")))
        count += 1
    writer.close()
    await writer.wait_closed()
    return count, digest.hexdigest()


async def demonstrate(handle: aiospin.BroadcastHandle, pipe: Connection) -> bool:
    async with aiospin.BroadcastReader.attach(handle) as reader:
        server = Server(reader, backlog=10 * COUNT)
        async with await asyncio.start_server(server.handle, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            clients = [asyncio.create_task(receive(port)) for _ in range(2)]
            await server.wait_for_clients(len(clients))
            pipe.send("go")
            await server.relay()
            results = await asyncio.gather(*clients)
    for count, digest in results:
        print(f"a client received {count} messages, SHA-256 {digest}")
    return results == [(COUNT, results[0][1])] * len(results)


COUNT = 1000


def demo() -> int:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=engine, args=(theirs, COUNT), daemon=True)
    process.start()
    good = asyncio.run(demonstrate(ours.recv(), ours))
    process.join()
    print("both received everything" if good else "FAILED")
    return 0 if good else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Pass a broadcast on to TCP clients.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("name", nargs="?", help="of the broadcast")
    which.add_argument("--demo", action="store_true", help="with a writer and clients of its own")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    arguments = parser.parse_args()
    if arguments.demo:
        return demo()
    asyncio.run(serve(arguments.name, arguments.host, arguments.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
