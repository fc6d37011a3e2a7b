"""Which monitor waits: here none, Python has no such instruction."""

from __future__ import annotations

from typing import Any, Final

from . import _futex

NAME: Final = "python"


def select_backend(name: str | None) -> None:
    """Choose the monitor (AIOSPIN_BACKEND); ValueError names what this machine has."""
    if name not in (None, "auto", NAME):
        raise ValueError(
            f"backend {name!r} needs the compiled core, which is not in use; without it there are "
            f"auto and {NAME}"
        )


def capabilities() -> dict[str, Any]:
    """backend, why, line_bytes, supported (tuple of names), futex, futex_waitv: as found at
    load."""
    return {
        "backend": NAME,
        "why": "the compiled core is not in use, and Python has no instruction that watches memory",
        "line_bytes": 0,
        "supported": (NAME,),
        "futex": _futex.AVAILABLE,
        "futex_waitv": _futex.WAITV_AVAILABLE,
    }
