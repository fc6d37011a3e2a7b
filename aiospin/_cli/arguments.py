"""What people write on a command line, and what it means. Each converter is a ``type=`` of argparse."""

from __future__ import annotations

import argparse
import math
import re
from fractions import Fraction
from typing import Final

from aiospin._segment import path_of

_UNITS: Final = {
    "": 1,
    "B": 1,
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{prefix: 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", 1)},
}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def name(text: str) -> str:
    """The name of a broadcast.

    :raises argparse.ArgumentTypeError: no name.
    """
    try:
        path_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def size(text: str) -> int:
    """Bytes: ``4096``, ``16MiB``, ``16M`` (the same), ``16MB`` (decimal).

    :raises argparse.ArgumentTypeError: no size.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: write bytes, or a number with KiB, MiB, GiB or TiB, such as 16MiB"
        )
    return int(Fraction(match[1]) * _UNITS[match[2]])


def seconds(text: str) -> float:
    """A time, at least 0; ``inf`` is for ever.

    :raises argparse.ArgumentTypeError: no time.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be a number of seconds, at least 0, not {text!r}")
    return value


def count(low: int, high: int | None = None) -> _Count:
    """A converter for whole numbers within limits."""
    return _Count(low, high)


class _Count:
    __slots__ = ("_high", "_low")

    def __init__(self, low: int, high: int | None) -> None:
        self._low = low
        self._high = high

    def __call__(self, text: str) -> int:
        limits = (
            f"at least {self._low}" if self._high is None else f"from {self._low} to {self._high}"
        )
        try:
            value = int(text)
        except ValueError:
            value = self._low - 1
        if value < self._low or (self._high is not None and value > self._high):
            raise argparse.ArgumentTypeError(f"must be a whole number, {limits}, not {text!r}")
        return value
