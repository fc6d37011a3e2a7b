"""What holds for every test: which aiospin is tested, on which event loops, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from support import Peer

import aiospin
from aiospin._waiter import close_default_waiter

Run = Callable[..., Any]


def pytest_configure() -> None:
    # A shell starts what it runs in the background with SIGINT ignored, and programs inherit that: the tests of
    # Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    installed = os.environ.get("AIOSPIN_TEST_INSTALLED")
    if installed and not Path(aiospin.__file__).resolve().is_relative_to(Path(installed).resolve()):
        raise pytest.UsageError(
            f"AIOSPIN_TEST_INSTALLED asks for the aiospin installed in {installed}, "
            f"but {aiospin.__file__} is what this Python imports"
        )


def pytest_report_header() -> str:
    found = aiospin.capabilities()
    return f"aiospin: {Path(aiospin.__file__).parent}, backend {found.backend} ({found.why})"


# ---- event loops ----


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    # What only debug mode checks, such as that no other thread calls call_soon.
    "asyncio-debug": ("asyncio", {"debug": True}),
    "asyncio-eager": ("asyncio", {"loop_factory": _eager_loop}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


def _missing(kind: str) -> str | None:
    """Why this loop is not here."""
    if kind == "asyncio-eager" and sys.version_info < (3, 12):
        return "eager tasks came with Python 3.12"
    if kind in ("uvloop", "trio") and find_spec(kind) is None:
        return f"{kind} is not installed"
    return None


def run_on(kind: str) -> Run:
    """A function that runs an async function to its end on a new loop of this kind."""
    if why := _missing(kind):
        pytest.skip(why)
    backend, options = LOOPS[kind]

    def run(function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        return anyio.run(function, *args, backend=backend, backend_options=options)

    return run


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Run an async function, which keeps to anyio's names, on every event loop."""
    return run_on(request.param)


@pytest.fixture(params=[kind for kind, (backend, _) in LOOPS.items() if backend == "asyncio"])
def run_asyncio(request: pytest.FixtureRequest) -> Run:
    """The same for what only asyncio has."""
    return run_on(request.param)


# ---- another process ----


@pytest.fixture(scope="session")
def peer() -> Iterator[Peer]:
    """A process that stores into shared memory when it is told to."""
    process = Peer()
    yield process
    process.close()


# ---- nothing is left behind ----


def _segments() -> set[str]:
    """This process's segments in shared memory: the pid is in the names that it chooses itself."""
    return {path.name for path in Path("/dev/shm").glob(f"aiospin-{os.getpid()}-*")}


def _held() -> tuple[int, int]:
    now = aiospin.statistics()
    return now.live_tickets, now.pinned_buffers


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    held, threads, segments = _held(), threading.enumerate(), _segments()
    yield
    close_default_waiter()
    if _held() != held:
        gc.collect()  # a failed test's traceback, a cycle of the test's own
    assert _held() == held, "live tickets, pinned buffers"
    for thread in set(threading.enumerate()) - set(threads):
        thread.join(5)  # one of anyio's that was told to end, and is about to
    assert threading.enumerate() == threads
    assert _segments() <= segments
