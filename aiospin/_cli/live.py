"""What is shown live needs rich, which the extra "cli" installs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class RichMissingError(Exception):
    """What was to be shown needs a package that is not installed."""


@contextmanager
def rich_for(what: str) -> Iterator[None]:
    """Around the imports from rich.

    :raises RichMissingError: it is not installed; says how to get it, and how to do without.
    """
    try:
        yield
    except ImportError:
        raise RichMissingError(
            f"{what} needs rich: pip install 'aiospin[cli]', or use --plain"
        ) from None
