"""A hang is a failure of the test that hangs, on every loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from support import SLOWNESS

Run = Callable[..., Any]

LIMIT = 15.0 * SLOWNESS  # seconds; many times what the slowest test takes


def _limited(run: Run) -> Run:
    def run_limited(function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        async def main() -> Any:
            with anyio.fail_after(LIMIT):
                return await function(*args)

        return run(main)

    return run_limited


@pytest.fixture
def run(run: Run) -> Run:
    return _limited(run)


@pytest.fixture
def run_asyncio(run_asyncio: Run) -> Run:
    return _limited(run_asyncio)
