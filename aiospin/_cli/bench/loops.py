"""Event loops by name, and which of them are installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LOOPS: Final[dict[str, dict[str, Any]]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
BLOCKING: Final = "blocking"  # no loop: a thread that waits in receive_sync()


def missing(loop: str) -> str | None:
    """Why it cannot be used here, and what to do; None where it can. What is no loop is always here."""
    if loop in LOOPS:
        try:
            importlib.import_module(loop)
        except ImportError as error:
            return f"{error}; pip install {loop}"
    return None


def run_on(loop: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run a coroutine function on the event loop of that name."""
    return anyio.run(function, *args, **LOOPS[loop])
