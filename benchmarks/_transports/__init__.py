"""The ways to bring messages from one process to others that the benchmarks compare, each behind the same few calls.

None is asked for more than the others: where one has no messages, as a stream, all are of a size that it is told.
"""

from __future__ import annotations

import sys
import textwrap

from _transports.broadcast import every_policy
from _transports.iceoryx import Iceoryx
from _transports.pipe import Pipe
from _transports.pyzmq import Zmq
from _transports.shared_memory import EventFd, Poll
from _transports.transport import Transport
from _transports.unix import UnixStream

TRANSPORTS: dict[str, Transport] = {
    transport.name: transport
    for transport in (
        *every_policy(),
        EventFd(),
        Poll(),
        Zmq(),
        UnixStream(),
        Pipe(),
        Iceoryx(),
    )
}


def present(names: list[str]) -> list[str]:
    """Say what each of these is; those that can be measured here, and of the others, why not."""
    found = []
    for name in names:
        transport = TRANSPORTS[name]
        if why := transport.missing():
            note = f"left out: {why}; pip install 'aiospin[bench]'"
        else:
            note = transport.note
            found.append(name)
        print(textwrap.fill(f"{name}: {note}", 100, initial_indent="  ", subsequent_indent="    "))
    sys.stdout.flush()
    return found
