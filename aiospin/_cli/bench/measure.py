"""One run: a writer and a reader in fresh processes, and what the reader saw.

Latency is from the publish time that every record carries to the clock in the resumed task, or thread; both are
CLOCK_MONOTONIC. CPU is that of the reader's process with all its threads. The warm-up is in neither.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiospin
from aiospin._cli.bench.arrivals import WARM_UP
from aiospin._cli.bench.candidates import CANDIDATES, learner
from aiospin._cli.bench.crew import Crew
from aiospin._cli.bench.energy import Wattmeter, packages
from aiospin._cli.bench.loops import BLOCKING, run_on
from aiospin._cli.bench.numbers import Latency
from aiospin._cli.bench.pacing import paced, sleep_exactly
from aiospin._cli.bench.places import cpus_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from aiospin._cli.bench.arrivals import Due

ALL: Final = "all"  # the group of all messages
PAYLOAD: Final = bytes(64)  # a cache line
JOIN_TIMEOUT: Final = 60.0  # seconds for a reader to start and attach, which takes half a second


@dataclass(frozen=True)
class Run:
    """What one run measured."""

    seconds: float
    """From the end of the warm-up to the last message."""
    latency: dict[str, Latency]
    """Of all messages, under ALL, and of each group of them that the traffic has."""
    watts: float | None
    """Mean power of the CPU packages meanwhile; None where it cannot be read."""

    @property
    def gap_us(self) -> float:
        """Mean time between two messages."""
        return self.seconds * 1e6 / self.latency[ALL].messages


@dataclass(frozen=True)
class Taken:
    """What the reader's process says."""

    latencies_ns: list[int]
    """Of each message, the warm-up included."""
    seconds: float
    cpu_seconds: float
    watts: float | None


class Meter:
    """What is used from the end of the warm-up on."""

    def __init__(self) -> None:
        self._packages, _ = packages()
        self.begin()

    def begin(self) -> None:
        self._power = Wattmeter(self._packages)
        self._cpu_ns = time.process_time_ns()
        self._began_ns = time.monotonic_ns()

    def taken(self, latencies_ns: list[int]) -> Taken:
        ended_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        return Taken(
            latencies_ns,
            (ended_ns - self._began_ns) / 1e9,
            (cpu_ns - self._cpu_ns) / 1e9,
            self._power.watts(),
        )


def writer(control: Connection, cpus: set[int], messages: list[Due]) -> None:
    os.sched_setaffinity(0, cpus)
    sleep_exactly()
    with aiospin.BroadcastWriter.create() as broadcast:
        control.send(broadcast.handle)
        broadcast.wait_for_readers_sync(1, JOIN_TIMEOUT)
        for _ in paced(messages):
            broadcast.send_sync(PAYLOAD)


def reader(
    control: Connection,
    handle: aiospin.BroadcastHandle,
    cpus: set[int],
    loop: str,
    policy: str,
    count: int,
) -> None:
    os.sched_setaffinity(0, cpus)
    candidate = CANDIDATES[policy]
    learn = learner(candidate)
    if loop == BLOCKING:
        with aiospin.BroadcastReader.attach(handle, policy=candidate.policy) as broadcast:
            control.send(receive_sync(broadcast, learn, count))
    else:
        control.send(run_on(loop, receive, handle, candidate.policy, learn, count))


async def receive(
    handle: aiospin.BroadcastHandle,
    policy: aiospin.WaitPolicy,
    learn: Callable[[int], aiospin.WaitPolicy] | None,
    count: int,
) -> Taken:
    latencies = []
    meter = Meter()
    # Attached with the loop already running: what is sent before that would count as late.
    async with aiospin.BroadcastReader.attach(handle, policy=policy) as broadcast:
        for number in range(count):
            if number == WARM_UP:
                meter.begin()
            await broadcast.receive()
            now = time.monotonic_ns()
            latencies.append(now - broadcast.published_ns)
            if learn is not None:
                broadcast._policy = learn(broadcast.published_ns)
        return meter.taken(latencies)


def receive_sync(
    broadcast: aiospin.BroadcastReader,
    learn: Callable[[int], aiospin.WaitPolicy] | None,
    count: int,
) -> Taken:
    """The blocking form of receive(), the same but for the waits."""
    latencies = []
    meter = Meter()
    for number in range(count):
        if number == WARM_UP:
            meter.begin()
        broadcast.receive_sync()
        now = time.monotonic_ns()
        latencies.append(now - broadcast.published_ns)
        if learn is not None:
            broadcast._policy = learn(broadcast.published_ns)
    return meter.taken(latencies)


def measure(policy: str, loop: str, place: str, messages: list[Due]) -> Run:
    """One run.

    :raises CrewError: one of the processes failed.
    """
    writer_cpus, reader_cpus = cpus_of(place)
    with Crew() as crew:
        sender = crew.start(writer, writer_cpus, messages)
        handle = crew.hear(sender)
        receiver = crew.start(reader, handle, reader_cpus, loop, policy, len(messages))
        taken: Taken = crew.hear(receiver, sum(message.gap for message in messages))
    return judge(messages, taken)


def judge(messages: list[Due], taken: Taken) -> Run:
    """What the reader said, by groups of messages."""
    groups: dict[str, list[int]] = {ALL: taken.latencies_ns[WARM_UP:]}
    for message, latency in list(zip(messages, taken.latencies_ns, strict=True))[WARM_UP:]:
        if message.group:
            groups.setdefault(message.group, []).append(latency)
    cpu = taken.cpu_seconds / taken.seconds
    return Run(
        taken.seconds,
        {group: Latency.of(latencies, cpu) for group, latencies in groups.items()},
        taken.watts,
    )
