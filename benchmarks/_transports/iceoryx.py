"""iceoryx2, for the comparison of latencies: a blocking writer, and a reader in an event loop."""

# ruff: noqa: ARG002  (every transport is opened alike, also where it needs less)

from __future__ import annotations

import asyncio
import ctypes
import importlib
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _transports.transport import ReaderEnd, Transport, WriterEnd, nothing_to_wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BACKLOG = 4096  # messages under way at most


class Iceoryx(Transport):
    """iceoryx2: a sample that is published, and an event, for which a thread waits."""

    name = "iceoryx2"
    needs = "iceoryx2"
    note = "iceoryx2, publish and subscribe with an event, for which a thread waits"

    def meet(self, folder: str, readers: int) -> tuple[Any, list[Any]]:
        name = Path(folder).name
        return name, [name] * readers

    @contextmanager
    def writer(self, place: str, readers: int, size: int) -> Iterator[WriterEnd]:
        samples, events, message_type = self._services(place, size)
        publisher = samples.publisher_builder().create()
        notifier = events.notifier_builder().create()

        def send(message: bytes) -> None:
            publisher.send_copy(message_type.from_buffer_copy(message))
            notifier.notify()

        yield WriterEnd(nothing_to_wait_for, send)

    @asynccontextmanager
    async def async_reader(self, place: str, size: int) -> AsyncIterator[ReaderEnd]:
        loop = asyncio.get_running_loop()
        samples, events, _ = self._services(place, size)
        subscriber = samples.subscriber_builder().create()
        listener = events.listener_builder().create()

        async def receive() -> bytes:
            while (sample := subscriber.receive()) is None:
                await loop.run_in_executor(None, listener.blocking_wait)
            message = ctypes.string_at(sample.payload_ptr, size)
            sample.delete()
            return message

        yield ReaderEnd(receive)

    @staticmethod
    def _services(name: str, size: int) -> tuple[Any, Any, Any]:
        """The two services of that name, and the type of what is published."""
        iceoryx2 = importlib.import_module("iceoryx2")
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        message_type = type(
            "Message", (ctypes.Structure,), {"_fields_": [("data", ctypes.c_uint8 * size)]}
        )
        node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        builder = node.service_builder(iceoryx2.ServiceName.new(name))
        samples = builder.publish_subscribe(message_type).subscriber_max_buffer_size(BACKLOG)
        events = node.service_builder(iceoryx2.ServiceName.new(name)).event()
        # Without overflow the publisher waits for room, as the others do, and nothing is lost.
        return (
            samples.enable_safe_overflow(False).open_or_create(),
            events.open_or_create(),
            message_type,
        )
